"""What neurons respond to: a bank of declared features, and how well each explains a neuron."""
