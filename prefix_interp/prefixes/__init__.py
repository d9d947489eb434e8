"""Prefixes as objects, three ways to put them into a model, and runs with and without them."""
