"""The protocols of the tables of the paper: seeds in, records out."""
