import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottlenecks import code_counts, kmeans, perplexity, sample_rows, used_codes
from bottlenecks.clusters import bits_per_token

KEY = jax.random.key(0)
# Compiled as a whole, they build several times as fast as operation by operation.
compiled_sample_rows = jax.jit(sample_rows, static_argnames="count")
compiled_kmeans = jax.jit(kmeans, static_argnames=("codes", "iterations"))


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def some_mask(seed, *shape):
    return (np.random.default_rng(seed).uniform(size=shape) < 0.6).astype(np.float32)


# Counts ------------------------------------------------------------------------------------------


def test_counts_agree_with_bincount_and_masks_leave_out():
    index = np.random.default_rng(0).integers(0, 9, size=(6, 5, 4)).astype(np.int32)
    mask = some_mask(1, 6, 5, 4)
    counts = code_counts(jnp.asarray(index), 11)
    assert counts.dtype == jnp.float32
    np.testing.assert_array_equal(counts, np.bincount(index.ravel(), minlength=11))
    masked = code_counts(jnp.asarray(index), 11, mask=jnp.asarray(mask))
    expected = np.bincount(index.ravel(), weights=mask.ravel(), minlength=11)
    np.testing.assert_array_equal(masked, expected)
    assert used_codes(masked) == np.sum(expected > 0)


def test_perplexity_is_the_number_of_evenly_used_codes():
    # Sonnet's vqvae conformance case uses codes 0 0 0 4 5 5 of 6: exp of the entropy of
    # (1/2, 1/6, 1/3), computed in float64. (Sonnet adds 1e-10 inside its logarithm.)
    np.testing.assert_allclose(perplexity(jnp.array([3.0, 0, 0, 0, 1, 2])), 2.7494592732, rtol=1e-6)
    np.testing.assert_allclose(perplexity(jnp.array([5.0, 0, 5, 5, 5])), 4.0, rtol=1e-6)
    np.testing.assert_allclose(perplexity(jnp.array([0, 7], jnp.int32)), 1.0, rtol=1e-6)


def test_bits_per_token():
    np.testing.assert_allclose(bits_per_token(jnp.array([1.0, 1, 2, 0])), 1.5, rtol=1e-6)  # by hand
    np.testing.assert_allclose(bits_per_token(jnp.full(512, 3.0)), 9.0, rtol=1e-6)
    counts = jnp.array([3.0, 0, 0, 0, 1, 2])
    np.testing.assert_allclose(2 ** bits_per_token(counts), perplexity(counts), rtol=1e-6)
    for nothing in (jnp.zeros(4), jnp.array([0, 7], jnp.int32)):
        assert bits_per_token(nothing) == 0
    assert np.all(np.isfinite(jax.grad(bits_per_token)(jnp.array([3.0, 0.0]))))


def test_perplexity_of_nothing_is_finite_in_value_and_gradient():
    for counts in (jnp.zeros(4), jnp.array([3.0, 0.0])):
        value, gradient = jax.value_and_grad(perplexity)(counts)
        np.testing.assert_allclose(value, 1.0)
        assert np.all(np.isfinite(gradient))
    assert used_codes(jnp.zeros(4)) == 0


# Samples -----------------------------------------------------------------------------------------


def row_numbers(rows, features):
    """Which row of the features each drawn row is; every row of the features is different."""
    same = np.all(np.asarray(rows)[:, None] == features.reshape(-1, features.shape[-1]), axis=-1)
    assert np.all(np.sum(same, axis=1) == 1)
    return np.argmax(same, axis=1)


def test_rows_are_drawn_without_replacement_in_an_order_of_the_key():
    features = random(0, 5, 4, 3)
    drawn = row_numbers(compiled_sample_rows(KEY, jnp.asarray(features), 20), features)
    assert sorted(drawn) == list(range(20))
    assert list(drawn) != list(range(20))
    other = row_numbers(
        compiled_sample_rows(jax.random.key(1), jnp.asarray(features), 20), features
    )
    assert list(other) != list(drawn)


def test_too_few_rows_start_again_from_the_first():
    features = random(0, 6, 3)
    mask = jnp.array([1.0, 0, 1, 1, 0, 0])
    drawn = row_numbers(compiled_sample_rows(KEY, jnp.asarray(features), 8, mask=mask), features)
    assert set(drawn[:3]) == {0, 2, 3}
    np.testing.assert_array_equal(drawn, np.tile(drawn[:3], 3)[:8])


def test_every_row_is_as_likely():
    features = jnp.arange(8.0)[:, None]
    keys = jax.random.split(KEY, 4000)
    mask = jnp.array([1.0, 1, 0, 1, 1, 1, 0, 1])
    drawn = jax.jit(jax.vmap(lambda key: sample_rows(key, features, 2, mask=mask)))(keys)[..., 0]
    for place in range(2):
        counts = np.bincount(np.asarray(drawn[:, place], np.int32), minlength=8)
        assert counts[2] == counts[6] == 0
        expected = 4000 / 6
        # Five standard deviations of a binomial count.
        assert np.all(np.abs(counts[mask > 0] - expected) < 5 * np.sqrt(expected * 5 / 6))


def test_masked_rows_may_hold_nan():
    features = jnp.asarray(random(0, 6, 3)).at[1].set(jnp.nan)
    mask = jnp.ones(6).at[1].set(0)
    assert np.all(np.isfinite(compiled_sample_rows(KEY, features, 9, mask=mask)))
    np.testing.assert_array_equal(
        compiled_sample_rows(KEY, features, 4, mask=jnp.zeros(6)), np.zeros((4, 3))
    )


def test_samples_keep_the_dtype():
    features = jnp.asarray(random(0, 6, 3)).astype(jnp.bfloat16)
    assert compiled_sample_rows(KEY, features, 4).dtype == jnp.bfloat16


@pytest.mark.parametrize("count", [5, 24, 40])
def test_samples_on_devices_are_those_of_one(on_devices, count):
    features, mask = jnp.asarray(random(0, 12, 2, 3)), jnp.asarray(some_mask(1, 12, 2))
    # The second device has no valid row at all.
    mask = mask.at[3:6].set(0)
    one = compiled_sample_rows(KEY, features, count, mask=mask)
    many = on_devices(
        lambda x, m: sample_rows(KEY, x, count, axis_name="batch", mask=m), features, mask
    )
    np.testing.assert_array_equal(many, one)


# K-means -----------------------------------------------------------------------------------------


def lloyd(centres, rows, iterations):
    """Float64, a loop over clusters."""
    rows, centres = rows.astype(np.float64), np.array(centres, np.float64)
    for iteration in range(iterations + 1):
        nearest = np.argmin(np.sum((rows[:, None] - centres) ** 2, axis=-1), axis=1)
        if iteration == iterations:
            return centres, np.bincount(nearest, minlength=len(centres))
        for k in range(len(centres)):
            if np.any(nearest == k):
                centres[k] = rows[nearest == k].mean(axis=0)


@pytest.mark.parametrize("iterations", [0, 1, 10])
def test_kmeans_agrees_with_a_loop_in_float64(iterations):
    features, mask = random(0, 20, 10, 3), some_mask(1, 20, 10)
    start = compiled_sample_rows(KEY, jnp.asarray(features), 9, mask=jnp.asarray(mask))
    centres, counts = lloyd(start, features[mask > 0], iterations)
    found = compiled_kmeans(
        KEY, jnp.asarray(features), 9, iterations=iterations, mask=jnp.asarray(mask)
    )
    np.testing.assert_allclose(found.codebook, centres, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.counts, counts)


def test_kmeans_finds_clusters_and_leaves_empty_ones_where_they_are():
    # Two places, five codes: three clusters must stay empty, each where its start row was.
    features = jnp.tile(jnp.array([[0.0, 0.0], [3.0, 4.0]]), (8, 1))
    start = compiled_sample_rows(KEY, features, 5)
    found = compiled_kmeans(KEY, features, 5)
    np.testing.assert_array_equal(found.codebook, start)
    assert sorted(np.asarray(found.counts)) == [0, 0, 0, 8, 8]


def test_kmeans_of_nothing_is_finite():
    features = jnp.full((6, 3), jnp.nan)
    found = compiled_kmeans(KEY, features, 4, mask=jnp.zeros(6))
    assert np.all(np.isfinite(found.codebook))
    np.testing.assert_array_equal(found.counts, np.zeros(4))


def test_kmeans_on_devices_is_that_of_one(on_devices):
    features, mask = jnp.asarray(random(0, 40, 3, 4)), jnp.asarray(some_mask(1, 40, 3))
    one = compiled_kmeans(KEY, features, 7, mask=mask)
    many = on_devices(lambda x, m: kmeans(KEY, x, 7, axis_name="batch", mask=m), features, mask)
    np.testing.assert_allclose(many.codebook, one.codebook, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(many.counts, one.counts)


def test_kmeans_jit_equals_eager_and_vmap_equals_loop():
    features, keys = jnp.asarray(random(0, 2, 30, 3)), jax.random.split(KEY, 2)
    eager = kmeans(keys[0], features[0], 4)
    loop = [compiled_kmeans(key, x, 4) for key, x in zip(keys, features, strict=True)]
    np.testing.assert_allclose(loop[0].codebook, eager.codebook, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(loop[0].counts, eager.counts)
    mapped = jax.jit(jax.vmap(lambda key, x: kmeans(key, x, 4)))(keys, features)
    for i in range(2):
        np.testing.assert_allclose(mapped.codebook[i], loop[i].codebook, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(mapped.counts[i], loop[i].counts)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kmeans(KEY, jnp.zeros((5, 3)), 0), "got 0"),
        (lambda: kmeans(KEY, jnp.zeros((5, 3)), 2, iterations=-1), "got -1"),
        (lambda: kmeans(KEY, jnp.zeros((0, 3)), 2), r"\(0, 3\)"),
        (lambda: kmeans(KEY, jnp.zeros((5, 3)), 2, mask=jnp.ones(4)), r"\(5,\), got \(4,\)"),
        (lambda: sample_rows(KEY, jnp.zeros((5, 3)), 0), "got 0"),
        (lambda: sample_rows(KEY, jnp.zeros(3), 2), r"\(3,\)"),
        (lambda: code_counts(jnp.zeros(5, jnp.int32), 0), "got 0"),
        (lambda: code_counts(jnp.zeros(5), 3), "float32"),
        (lambda: code_counts(jnp.zeros((5, 2), jnp.int32), 3, mask=jnp.ones(5)), r"\(5, 2\)"),
    ],
)
def test_wrong_arguments_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()
