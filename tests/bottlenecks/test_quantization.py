import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottlenecks import CodebookState, perplexity, quantize, start_codebook, update_codebook
from bottlenecks.quantization import code_counts


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def mean_over_units(loss, depth):
    """Sonnet's reduction: the mean over tokens and D."""
    return np.mean(loss) / depth


# Quantisation ------------------------------------------------------------------------------------


def test_sonnet_vqvae_case():
    # google-deepmind/sonnet@26b0518 sonnet/src/conformance/goldens.py, case vqvae: D=4, K=6,
    # beta=0.25; codebook [D, K] and inputs count 0, 1, 2 ... Outputs from the formulas in float64.
    codebook, features = jnp.arange(24.0).reshape(4, 6).T, jnp.arange(24.0).reshape(2, 3, 4)
    found = quantize(features, codebook)
    np.testing.assert_array_equal(found.index.ravel(), [0, 0, 0, 4, 5, 5])
    np.testing.assert_allclose(mean_over_units(found.codebook_loss, 4), 54.1666667, rtol=1e-7)
    loss = found.codebook_loss + 0.25 * found.commitment_loss
    np.testing.assert_allclose(mean_over_units(loss, 4), 67.7083333, rtol=1e-7)
    np.testing.assert_allclose(perplexity(code_counts(found.index, 6)), 2.7494592732, rtol=1e-6)


def test_sonnet_ema_eval_case():
    # As above, case vqvae_ema_eval: D=3, K=4, beta=0.5.
    codebook, features = jnp.arange(12.0).reshape(3, 4).T, jnp.arange(6.0).reshape(2, 3)
    found = quantize(features, codebook)
    np.testing.assert_array_equal(found.index, [0, 0])
    np.testing.assert_allclose(0.5 * mean_over_units(found.commitment_loss, 3), 5.25, rtol=1e-7)
    np.testing.assert_allclose(perplexity(code_counts(found.index, 4)), 1.0, rtol=1e-7)


HAND_CODEBOOK = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
HAND_FEATURES = jnp.array([[0.1, 0.2], [0.9, -0.1], [1.2, 0.1], [0.2, 0.1]])


def test_small_case_by_hand():
    found = quantize(HAND_FEATURES, HAND_CODEBOOK)
    np.testing.assert_array_equal(found.index, [0, 1, 1, 0])
    np.testing.assert_array_equal(found.latent, HAND_CODEBOOK[found.index])
    expected = [0.01 + 0.04, 0.01 + 0.01, 0.04 + 0.01, 0.04 + 0.01]
    np.testing.assert_allclose(found.codebook_loss, expected, rtol=1e-5)
    np.testing.assert_allclose(np.mean(found.commitment_loss), 0.0425, rtol=1e-5)
    np.testing.assert_allclose(mean_over_units(found.commitment_loss, 2), 0.02125, rtol=1e-5)
    np.testing.assert_allclose(perplexity(code_counts(found.index, 3)), 2.0, rtol=1e-6)


def test_latent_is_the_codeword_to_the_last_bit():
    # So that codes looked up later give the decoder what it saw in training.
    features, codebook = 1000 * random(0, 300, 5), random(1, 40, 5)
    found = quantize(features, codebook)
    np.testing.assert_array_equal(found.latent, codebook[found.index])


def test_gradient_is_straight_through():
    # van den Oord et al. 2017, section 3.2: the decoder's gradient, copied unaltered.
    features, codebook, decoder = random(0, 3, 4, 5), random(1, 7, 5), random(2, 3, 4, 5)

    def f(x, e):
        return jnp.sum(decoder * jnp.tanh(quantize(x, e).latent))

    to_features, to_codebook = jax.grad(f, argnums=(0, 1))(features, codebook)
    z_q = codebook[quantize(features, codebook).index]
    np.testing.assert_allclose(to_features, decoder * (1 - np.tanh(z_q) ** 2), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(to_codebook, jnp.zeros_like(codebook))


def test_loss_gradients_agree_with_finite_differences_and_stop_where_they_should():
    features, codebook, weight = random(0, 12, 3), random(1, 5, 3), random(2, 12)

    def error(x, e):
        """Weighted sum of squared distances to the nearest codeword, float64."""
        distance = np.min(np.sum((x[:, None] - e) ** 2, axis=-1), axis=1)
        return np.sum(np.float64(weight) * distance)

    def finite_difference(f, point):
        gradient = np.zeros_like(point)
        for i in np.ndindex(point.shape):
            step = np.zeros_like(point)
            step[i] = 1e-5
            gradient[i] = (f(point + step) - f(point - step)) / 2e-5
        return gradient

    def gradients(field):
        loss = jax.grad(lambda x, e: weight @ getattr(quantize(x, e), field), argnums=(0, 1))
        return loss(features, codebook)

    x, e = np.float64(features), np.float64(codebook)
    to_features, to_codebook = gradients("codebook_loss")
    expected = finite_difference(lambda e: error(x, e), e)
    np.testing.assert_allclose(to_codebook, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(to_features, jnp.zeros_like(features))
    to_features, to_codebook = gradients("commitment_loss")
    expected = finite_difference(lambda x: error(x, e), x)
    np.testing.assert_allclose(to_features, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(to_codebook, jnp.zeros_like(codebook))


def test_bfloat16_features_choose_as_their_float32_values_and_get_bfloat16_back():
    features, codebook = random(0, 500, 8).astype(jnp.bfloat16), random(1, 64, 8)
    found = quantize(features, codebook)
    wide = quantize(features.astype(jnp.float32), codebook)
    np.testing.assert_array_equal(found.index, wide.index)
    assert found.latent.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.latent, wide.latent.astype(jnp.bfloat16))
    for field in ("codebook_loss", "commitment_loss"):
        assert getattr(found, field).dtype == jnp.float32
        np.testing.assert_array_equal(getattr(found, field), getattr(wide, field))


@pytest.mark.parametrize(
    ("features", "codebook"),
    [
        (np.zeros((4, 3)), np.zeros((5, 3))),  # zero vectors, all distances equal and 0
        (np.zeros((4, 3)), np.eye(3)),  # equal distances
        (np.full((4, 3), 1e18), np.full((2, 3), -1e18)),  # near the end of float32
    ],
)
def test_edges_are_finite_in_value_and_gradient(features, codebook):
    def f(x, e):
        found = quantize(x, e)
        terms = found.codebook_loss + found.commitment_loss
        return jnp.sum(terms) + jnp.sum(found.latent), found

    features, codebook = jnp.float32(features), jnp.float32(codebook)
    gradients, found = jax.grad(f, argnums=(0, 1), has_aux=True)(features, codebook)
    np.testing.assert_array_equal(found.index, np.zeros(4))
    for leaf in jax.tree.leaves((gradients, found)):
        assert np.all(np.isfinite(leaf))


def test_jit_equals_eager_and_vmap_equals_loop():
    features, codebooks = random(0, 3, 10, 4), random(1, 3, 6, 4)
    eager, compiled = quantize(features[0], codebooks[0]), jax.jit(quantize)
    loop = [compiled(x, e) for x, e in zip(features, codebooks, strict=True)]
    mapped = jax.jit(jax.vmap(quantize))(features, codebooks)
    for field in range(4):
        expected = np.stack([one[field] for one in loop])
        np.testing.assert_allclose(mapped[field], expected, rtol=1e-6)
        np.testing.assert_allclose(eager[field], expected[0], rtol=1e-6)


@pytest.mark.parametrize("transform", [jax.pmap, jax.vmap])
def test_values_and_gradients_on_devices_are_those_of_one(transform):
    features, codebook, decoder = random(0, 8, 6, 4), random(1, 9, 4), random(2, 8, 6, 4)

    def loss(x, e, w):
        found = quantize(x, e)
        terms = found.codebook_loss + 0.25 * found.commitment_loss
        return jnp.mean(terms) + jnp.mean(w * found.latent), found.index

    def one_device(x, w, axis_name=None):
        gradients, index = jax.grad(loss, argnums=(0, 1), has_aux=True)(x, codebook, w)
        if axis_name:
            gradients = (gradients[0], jax.lax.pmean(gradients[1], axis_name))
        return index, *gradients

    def split(x):
        return x.reshape(4, 2, *x.shape[1:])

    mapped = transform(lambda x, w: one_device(x, w, "batch"), axis_name="batch")
    if transform is jax.vmap:
        mapped = jax.jit(mapped)
    many = jax.block_until_ready(mapped(split(features), split(decoder)))
    index, to_features, to_codebook = jax.jit(one_device)(features, decoder)
    np.testing.assert_array_equal(many[0], split(index))
    # A device's mean is over a quarter of the batch.
    np.testing.assert_allclose(many[1] / 4, split(to_features), rtol=1e-5, atol=1e-7)
    for device in range(4):
        np.testing.assert_allclose(many[2][device], to_codebook, rtol=1e-5, atol=1e-7)


def test_wrong_shapes_raise():
    with pytest.raises(ValueError, match=r"\(5, 3\).*\(7, 4\)"):
        quantize(jnp.zeros((5, 3)), jnp.zeros((7, 4)))
    with pytest.raises(ValueError, match="got -2"):
        quantize(jnp.zeros((5, 3)), jnp.zeros((7, 3)), tile=-2)


# Moving averages: one step -----------------------------------------------------------------------


def test_sonnet_ema_train_case():
    # google-deepmind/sonnet@26b0518 sonnet/src/conformance/goldens.py, case vqvae_ema_train: D=5,
    # K=7, beta=0.5, decay=0.9; codebook = hidden sums = 0, 1, 2 ... as [D, K], hidden counts 0..6,
    # counter 0. Outputs from the formulas in float64.
    codebook, features = jnp.arange(35.0).reshape(5, 7).T, jnp.arange(10.0).reshape(2, 5)
    state = CodebookState(codebook, count=jnp.arange(7.0), total=codebook, step=jnp.int32(0))
    found = quantize(features, codebook)
    np.testing.assert_array_equal(found.index, [0, 0])
    np.testing.assert_allclose(0.5 * mean_over_units(found.commitment_loss, 5), 84.25, rtol=1e-6)
    new = update_codebook(state, features, found.index, decay=0.9, debias=True)
    assert new.step == 1
    expected = [2.4999884163, 34.9998378280, 67.4996872398, 99.9995366515, 132.4993860633]
    np.testing.assert_allclose(new.codebook[0], expected, rtol=1e-6)
    expected = [0.9999992554, 7.9999940431, 14.9999888307, 21.9999836184, 28.9999784061]
    np.testing.assert_allclose(new.codebook[1], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("epsilon", "debias", "expected"),
    [
        # By hand, Eq. 6 to 8 with gamma = 0.99: (0.99 m + 0.01 sums) / (0.99 N + 0.01 n).
        (0.0, False, [[0.0029702970, 0.0029702970], [1.0009900990, 0], [0, 2]]),
        (1e-5, False, [[0.0029702970, 0.0029702970], [1.0009900990, 0], [0, 1.9999997315]]),
        # Averages from a hidden 0: with smoothing the unused code falls to the origin, without it
        # stays where it was.
        (1e-5, True, [[0.150000375, 0.150000375], [1.050002625, 0], [0, 0]]),
        (0.0, True, [[0.15, 0.15], [1.05, 0], [0, 2]]),
    ],
)
def test_one_step_by_hand(epsilon, debias, expected):
    state = start_codebook(HAND_CODEBOOK, debias=debias)
    index = jnp.array([0, 1, 1, 0])
    new = update_codebook(state, HAND_FEATURES, index, epsilon=epsilon, debias=debias)
    np.testing.assert_allclose(new.codebook, expected, rtol=1e-6, atol=1e-7)
    # The smoothed counts only divide; what is kept is Eq. 6.
    start = 0.0 if debias else 0.99
    np.testing.assert_allclose(new.count, [start + 0.02, start + 0.02, start], rtol=1e-6)


def test_smoothing_shows_in_the_unused_code():
    # 2 against 1.9999997315 is one unit in the last place of float32, too fine for the case above;
    # a larger epsilon by hand: N = (1.01, 1.01, 0.99), n = 3.01, N_2 = 1.99 / 6.01 * 3.01.
    state, index = start_codebook(HAND_CODEBOOK), jnp.array([0, 1, 1, 0])
    new = update_codebook(state, HAND_FEATURES, index, epsilon=1.0)
    np.testing.assert_allclose(new.codebook[2], [0, 2 * 0.99 / (1.99 / 6.01 * 3.01)], rtol=1e-6)
    np.testing.assert_allclose(new.count[2], 0.99, rtol=1e-6)


def test_start_states():
    codebook = random(0, 3, 2).astype(jnp.bfloat16)
    e = np.float32(codebook)
    plain = start_codebook(codebook)
    assert plain.codebook.dtype == plain.count.dtype == plain.total.dtype == jnp.float32
    np.testing.assert_array_equal(plain.codebook, e)
    np.testing.assert_array_equal(plain.count, [1, 1, 1])
    np.testing.assert_array_equal(plain.total, e)
    # A cluster that k-means left empty counts 1, for m / N of 0 / 0 has lost its place.
    counted = start_codebook(codebook, count=jnp.array([4.0, 0.0, 0.5]))
    np.testing.assert_array_equal(counted.count, [4, 1, 0.5])
    np.testing.assert_array_equal(counted.total, e * np.float32([[4], [1], [0.5]]))
    hidden = start_codebook(codebook, count=jnp.array([4.0, 0.0, 0.5]), debias=True)
    np.testing.assert_array_equal(hidden.count, np.zeros(3))
    np.testing.assert_array_equal(hidden.total, np.zeros((3, 2)))
    for state in (plain, counted, hidden):
        assert state.step == 0
        assert state.step.dtype == jnp.int32
        np.testing.assert_array_equal(state.codebook, e)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: start_codebook(jnp.zeros((0, 3))), r"\(0, 3\)"),
        (lambda: start_codebook(jnp.zeros(3)), r"\(3,\)"),
        (lambda: start_codebook(jnp.zeros((4, 3)), count=jnp.ones(3)), r"\(3,\).*\(4, 3\)"),
        (lambda: update(features=jnp.zeros((5, 2))), r"\(5, 2\).*\(4, 3\)"),
        (lambda: update(index=jnp.zeros((5, 3), jnp.int32)), r"\(5, 3\).*\(5, 3\)"),
        (lambda: update(index=jnp.zeros(5)), "float32"),
        (lambda: update(mask=jnp.ones((5, 1))), r"\(5,\), got \(5, 1\)"),
        (lambda: update(decay=1.0), r"got 1\.0"),
        (lambda: update(decay=-0.1), r"got -0\.1"),
        (lambda: update(epsilon=-1.0), r"got -1\.0"),
    ],
)
def test_wrong_arguments_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def update(features=None, index=None, **options):
    state = start_codebook(jnp.zeros((4, 3)))
    features = jnp.zeros((5, 3)) if features is None else features
    index = jnp.zeros(5, jnp.int32) if index is None else index
    return update_codebook(state, features, index, **options)
