"""The paper's studies and what goes beyond it: each measured, summarised and shown in a report."""
