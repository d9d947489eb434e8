"""Pictures and pages; each takes a result and returns a figure."""
