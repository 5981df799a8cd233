"""Files of a run directory: whole or absent, checked when read, one writer at a time."""
