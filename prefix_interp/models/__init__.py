"""Toy transformers with hooks, the names of their hook sites, and trained ones to load."""
