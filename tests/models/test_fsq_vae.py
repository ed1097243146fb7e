"""Finite scalar quantisation as a module: codes, their latents, its metric."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.fsq_vae import FiniteScalarQuantizer

FEATURES = np.random.default_rng(0).normal(size=(5, 3, 2, 6)).astype(np.float32)
MODULE = FiniteScalarQuantizer((8, 5))


@pytest.fixture(scope="module")
def variables():
    return MODULE.init(jax.random.key(0), FEATURES, train=True)


def levels(z, level):
    """The listing of appendix A.1 for one number, in float64: bounded, rounded, as a digit."""
    half = (level - 1) * (1 - 1e-3) / 2
    offset = 0.5 if level % 2 == 0 else 0.0
    return int(np.round(np.tanh(z + np.tan(offset / half)) * half - offset)) + level // 2


def test_codes_and_latents_are_those_of_a_loop(variables):
    output = MODULE.apply(variables, FEATURES, train=False)
    dense = variables["params"]["project"]
    kernel, bias = (np.asarray(dense[name], np.float64) for name in ("kernel", "bias"))
    z = FEATURES.astype(np.float64) @ kernel + bias
    for place in np.ndindex(5, 3, 2):
        first, second = levels(z[place][0], 8), levels(z[place][1], 5)
        assert output.code[place] == first + 8 * second
        wanted = ((first - 4) / 4, (second - 2) / 2)
        np.testing.assert_allclose(output.latent[place], wanted, atol=1e-6)
    assert output.losses == {}
    assert output.code.dtype == jnp.int32
    assert MODULE.codes == 40
    looked_up = MODULE.apply(variables, output.code, method="look_up")
    np.testing.assert_allclose(looked_up, output.latent, atol=1e-6)


def test_perplexity_is_of_the_examples_that_count(variables):
    mask = jnp.asarray([1.0, 1, 0, 1, 0])
    output = MODULE.apply(variables, FEATURES, train=True, mask=mask)
    code = np.asarray(output.code)[np.asarray(mask) > 0]
    share = np.bincount(code.ravel()) / code.size
    share = share[share > 0]
    wanted = np.exp(-np.sum(share * np.log(share)))
    np.testing.assert_allclose(output.metrics["perplexity"], np.full(5, wanted), rtol=1e-5)


def test_the_encoder_has_a_gradient_at_large_features_too(variables):
    def loss(x):
        return jnp.sum(jnp.square(MODULE.apply(variables, x, train=True).latent))

    for size in (0.0, 1.0, 1e4):
        assert np.isfinite(jax.grad(loss)(size * FEATURES)).all()
    assert np.any(jax.grad(loss)(FEATURES) != 0)


@pytest.mark.parametrize("levels", [(), (8, 1), (8, 5.0), (1000,) * 4, 8])
def test_levels_that_cannot_be(levels):
    with pytest.raises(ValueError, match=r"bottleneck\.levels"):
        FiniteScalarQuantizer(levels)
