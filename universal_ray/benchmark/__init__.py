"""This project's loop beside the schemes it replaces, in one run on one machine."""
