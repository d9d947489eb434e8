"""Attacks on everything that reads a file: damaged, made up, and beside a writer."""
