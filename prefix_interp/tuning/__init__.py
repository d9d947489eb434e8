"""One training loop for models and prefixes, and their evaluation."""
