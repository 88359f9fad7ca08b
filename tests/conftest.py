"""Settings of all tests."""

import os

# Tests share their cores: one thread each, before anything imports torch or opens a renderer.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from hypothesis import settings  # noqa: E402

# Tests share their cores with others: how long an example takes says nothing about the code.
settings.register_profile("libra", deadline=None)
settings.load_profile("libra")
