"""Settings of all tests."""

import os
import signal

# Tests share their cores: one thread each, before anything imports torch or opens a renderer.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# A job in the background of a shell ignores Ctrl-C, and so would what the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from hypothesis import settings  # noqa: E402

# Tests share their cores with others: how long an example takes says nothing about the code.
settings.register_profile("libra", deadline=None)
settings.load_profile("libra")
