"""How alike two layers are as wholes, from the same sums as the correlations of their neurons."""
