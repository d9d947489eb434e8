"""One look at everything that a prefix does: what is measured for the page of `inspect`."""
