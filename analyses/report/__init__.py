"""The report: one HTML page and its numbers as JSON."""
