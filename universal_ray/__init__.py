"""Which neurons do independently trained language models share, and what do they do?"""

__version__ = "0.1.0"
