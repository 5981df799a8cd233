"""Statistics of neurons, and how groups of them are compared."""
