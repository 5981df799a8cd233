"""What there is to do, how it is cut, and what it costs. Pure."""
