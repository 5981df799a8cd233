"""Statistics of single neurons: from weights, from activations, universal against the rest."""
