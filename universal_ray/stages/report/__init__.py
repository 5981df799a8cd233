"""The fourth stage: what is shown of every neuron."""
