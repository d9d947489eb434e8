"""What is causal: which heads, slots and MLPs a prefix acts through."""
