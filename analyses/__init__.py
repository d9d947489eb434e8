"""The studies of the paper and beyond it: each is measured, summarised and shown in a report."""
