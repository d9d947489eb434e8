"""One training loop for models and prefixes, and how well they do."""
