"""Four virtual CPU devices, named before jax starts."""

import os

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
