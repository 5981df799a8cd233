"""The command line: options, and what the entry points share."""
