"""Prefixes as objects, three ways of putting them into a model, and runs with and without."""
