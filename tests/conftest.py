"""What holds for all tests."""

import os

# The matrices here are small, and threads that wait for each other cost several times what they
# save; whoever starts torch or a process after this has one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
