"""Ratios of speed against named peers, each measured in one run; never a timed test."""
