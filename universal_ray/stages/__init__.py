"""The stages of a run: each a folder of the same rooms."""
