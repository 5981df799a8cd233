"""The profile of every neuron: statistics of its weights and activations, features, families."""
