"""Which neurons do independently trained language models share, and what do they do?"""

import os

# Read by MKL at its first product: from then on bits do not depend on how memory is aligned.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

__version__ = "0.1.0"
