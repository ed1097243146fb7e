"""Use of codes against counts made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.errors import UserError
from train.metrics.codes import codes_evaluator, counts, entropy_bits


class Given:
    """A model whose codes are in the batch."""

    class bottleneck:
        codes = 8

    def apply(self, variables, batch, *, train, rngs):
        class Output:
            code = batch["code"]

        return Output


def run(code, size):
    evaluator = codes_evaluator()
    step = jax.jit(lambda batch: evaluator.sums(Given(), {}, batch, jax.random.key(0)))
    totals = {}
    for first in range(0, len(code), size):
        rows = code[first : first + size]
        pad = np.full((size - len(rows), *code.shape[1:]), 7, code.dtype)
        mask = np.r_[np.ones(len(rows)), np.zeros(len(pad))].astype(np.float32)
        for name, value in step({"code": np.concatenate([rows, pad]), "mask": mask}).items():
            totals[name] = totals.get(name, 0) + np.asarray(value, np.float64)
    return totals, evaluator.summary(totals)


def test_counts_and_figures_of_two_codebooks():
    rng = np.random.default_rng(0)
    code = np.stack([rng.integers(0, 4, (10, 2, 3)), rng.integers(2, 7, (10, 2, 3))], axis=-1)
    code = code.astype(np.int32)
    totals, summary = run(code, 4)
    uses = np.stack([np.bincount(code[..., i].ravel(), minlength=8) for i in range(2)])
    np.testing.assert_array_equal(counts(totals), uses)

    p = uses / 60
    entropy = np.array([-sum(x * np.log(x) for x in row if x) for row in p])  # nats
    used = (uses > 0).sum(axis=1)
    expected = {
        "perplexity": np.exp(entropy).mean(),
        "used_codes": used.mean(),
        "used_share": used.mean() / 8,
        "dead_codes": 8 - used.mean(),
        "bits_per_token": entropy.mean() / np.log(2),
        "bits_per_image": 6 * entropy.sum() / np.log(2),
        "nominal_bits_per_image": 6 * 2 * 3,
    }
    assert summary.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(summary[name], value, rtol=1e-12, err_msg=name)
    whole, _ = run(code, 10)
    np.testing.assert_array_equal(whole["counts"], totals["counts"])


def test_even_use_and_a_single_code():
    even = np.tile(np.arange(8, dtype=np.int32), 4).reshape(4, 8, 1)
    _, summary = run(even, 4)
    np.testing.assert_allclose(summary["perplexity"], 8)
    np.testing.assert_allclose(summary["bits_per_image"], summary["nominal_bits_per_image"])
    _, summary = run(np.zeros((4, 2, 2, 1), np.int32), 4)
    assert summary["perplexity"] == 1
    assert summary["dead_codes"] == 7
    assert summary["bits_per_image"] == 0


def test_entropy_of_counts():
    np.testing.assert_allclose(entropy_bits(np.array([[2, 2, 0], [4, 0, 0]])), [1, 0])


def test_continuous_codes_are_refused():
    with pytest.raises(UserError, match=r'"codes" needs integer codes, the model\'s are float32'):
        run(np.zeros((4, 3), np.float32), 4)


def test_codes_as_a_model_gives_them_without_a_mask():
    batch = {"code": jnp.zeros((3, 2, 2, 1), jnp.int32)}
    sums = codes_evaluator().sums(Given(), {}, batch, jax.random.key(0))
    assert sums["counts"][0, 0] == 12
    assert sums["count"] == 3
