import jax
import pytest


@pytest.fixture(autouse=True)
def strict_promotion():
    """No silent widening of dtypes or ranks inside the pure functions."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
