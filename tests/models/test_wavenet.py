"""WaveNet: order, probabilities, layers against loops, and draws equal to those without a cache."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.priors import PRIORS, WaveNet, sample_sequences
from models.priors.pixelcnn_sampling import draw

SMALL = {"codes": 5, "layers": 2, "features": 3, "skip_features": 4}
TOLD = {"classes": 3, "local_features": 2}


def shapes(model, *inputs):
    """Shapes of the parameters; computes nothing."""
    return jax.eval_shape(lambda *x: model.init(jax.random.key(0), *x), *inputs)


def wavenet(shape, stretches=0, **options):
    """A small model, parameters that make every input count, and inputs."""
    model = WaveNet(**(SMALL | options))
    rng = np.random.default_rng(1)
    code = jnp.asarray(rng.integers(model.codes, size=shape), jnp.int32)
    label = jnp.asarray(rng.integers(model.classes, size=shape[0])) if model.classes else None
    local = None
    if model.local_features:
        size = (shape[0], stretches, model.local_features)
        local = jnp.asarray(rng.normal(size=size), jnp.float32)

    def leaf(a):
        return jnp.asarray(rng.normal(size=a.shape) * 0.7, a.dtype)

    return model, jax.tree.map(leaf, shapes(model, code, label, local)), code, label, local


def test_a_position_sees_its_receptive_field_and_nothing_else():
    model, variables, _, label, local = wavenet((1, 16), 4, layers=2, cycles=2, **TOLD)
    assert model.dilations() == (1, 2, 1, 2)
    assert model.receptive_field() == 7
    table = variables["params"]["embedding"]
    code = jnp.arange(16) % model.codes

    # A table row for each position: the Jacobian of the logits in it is that in the position.
    def logits(rows):
        params = {**variables["params"], "embedding": rows}
        wide = model.clone(codes=16)
        head = {"kernel": jnp.ones((4, 16)), "bias": jnp.zeros(16)}
        found = wide.apply(
            {"params": {**params, "logits": head}}, jnp.arange(16)[None], label, local
        )
        return found[0, :, 0]

    jacobian = np.abs(jax.jit(jax.jacrev(logits))(table[code])).max(axis=-1)
    back = np.subtract.outer(np.arange(16), np.arange(16))
    assert np.all(jacobian[(back < 1) | (back > 7)] == 0)
    assert np.mean(jacobian[(back >= 1) & (back <= 7)] > 1e-7) > 0.9  # a ReLU may be closed


def by_loops(p, code, label, local, dilations, skip_features):
    """Eq. 2 with both conditionings and Figure 4, in float64, a position at a time."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), p)
    time, C = len(code), p["residual_kernel"].shape[-1]
    h = np.zeros((time, C))
    h[1:] = p["embedding"][code[:-1]]
    skip = np.zeros((time, skip_features))
    local_kernel = p["local_kernel"].reshape(local.shape[1], len(dilations), 2 * C)
    skip_kernel = p["skip_kernel"].reshape(len(dilations), C, skip_features)
    for i, dilation in enumerate(dilations):
        after = np.zeros_like(h)
        for t in range(time):
            a = p["gate_bias"][i] + p["class_bias"][label, i] + h[t] @ p["present_kernel"][i]
            a += local[t * len(local) // time] @ local_kernel[:, i]
            if t >= dilation:
                a += h[t - dilation] @ p["past_kernel"][i]
            z = np.tanh(a[:C]) / (1 + np.exp(-a[C:]))
            skip[t] += z @ skip_kernel[i]
            after[t] = h[t] + z @ p["residual_kernel"][i] + p["residual_bias"][i]
        h = after
    u = np.maximum(skip + p["skip_bias"], 0) @ p["output"]["kernel"] + p["output"]["bias"]
    return np.maximum(u, 0) @ p["logits"]["kernel"] + p["logits"]["bias"]


def test_layers_are_the_papers():
    model, variables, code, label, local = wavenet((2, 12), 3, cycles=2, **TOLD)
    found = jax.jit(model.apply)(variables, code, label, local)
    for i in range(2):
        expected = by_loops(variables["params"], code[i], label[i], local[i], model.dilations(), 4)
        np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-4)


def test_levels_are_given_beside_their_embedding():
    model, variables, _, _, _ = wavenet((1, 4), ordered=True)
    found = model.apply(variables, jnp.array([0, 2, 4]), method="embed")
    p = variables["params"]
    expected = p["embedding"][jnp.array([0, 2, 4])] + jnp.array([[-1], [0], [1]]) * p["level"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_probabilities_of_all_sequences_sum_to_one():
    model, variables, _, _, _ = wavenet((1, 4), codes=3)
    every = jnp.asarray(list(itertools.product(range(3), repeat=4)), jnp.int32)[..., None]
    log_prob = jax.jit(partial(model.apply, method="log_prob"))(variables, every)
    assert log_prob.shape == (81,)
    assert np.ptp(log_prob) > 1
    np.testing.assert_allclose(np.exp(np.float64(log_prob)).sum(), 1, rtol=1e-5)


def test_gradients_and_values_outside_their_range():
    model, variables, code, label, local = wavenet((3, 8), 2, ordered=True, **TOLD)

    @jax.jit
    def nats(variables, code, label):
        return model.apply(variables, code, label, local, method="nats").sum(axis=1)

    gradient = jax.grad(lambda v: nats(v, code, label).sum())(variables)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(leaf != 0), path
    bad = code.at[0, 7].set(5).at[1, 7].set(-1)
    assert list(np.isnan(nats(variables, bad, label))) == [True, True, False]
    assert np.all(np.isnan(nats(variables, code, jnp.array([3, -1, 7]))))


@partial(jax.jit, static_argnums=0)
def draw_one(model, variables, key, code, at, label, local, temperature):
    """Draws one value of each sequence from the logits of the whole."""
    logits = model.apply(variables, code, label, local)[:, at]
    return code.at[:, at].set(draw(jax.random.fold_in(key, at), logits, temperature))


@pytest.mark.parametrize(
    ("shape", "stretches", "temperature", "options"),
    [((3, 20), 0, 1.0, {"layers": 3}), ((2, 24), 6, 0.8, {"cycles": 2, "ordered": True, **TOLD})],
    ids=["plain", "conditioned"],
)
def test_draws_are_those_without_a_cache(shape, stretches, temperature, options):
    model, variables, _, label, local = wavenet(shape, stretches, codes=11, **options)
    for seed in range(2):
        key = jax.random.key(seed)
        found = sample_sequences(
            model, variables, key, shape, label=label, local=local, temperature=temperature
        )
        expected = jnp.zeros(shape, jnp.int32)
        for at in range(shape[1]):
            expected = draw_one(model, variables, key, expected, at, label, local, temperature)
        assert found.dtype == jnp.int32
        np.testing.assert_array_equal(found, expected)
        assert len(np.unique(found)) >= 5


def test_lower_precision_keeps_float32_logits():
    model, variables, code, _, _ = wavenet((2, 8))
    lower = model.clone(dtype=jnp.bfloat16).apply(variables, code[..., None])
    assert lower.dtype == jnp.float32
    assert lower.shape == (2, 8, 1, 5)
    assert 1e-4 < np.max(np.abs(model.apply(variables, code) - lower[:, :, 0])) < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, r"wavenet.layers is 0; it must be at least 1"),
        ({"classes": -1}, r"wavenet.classes is -1; it must be 0 \(none\) or more"),
        ({"codebooks": 2}, r"wavenet.codebooks is 2; it models one code at each position"),
    ],
)
def test_sizes_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        WaveNet(**(SMALL | options))


@pytest.mark.parametrize(
    ("options", "code", "label", "local", "message"),
    [
        ({}, jnp.zeros((2, 3, 2), int), None, None, r"shape \(2, 3, 2\); expected \[batch, time\]"),
        ({}, jnp.zeros((2, 3)), None, None, r"codes must be whole numbers, found float32"),
        ({}, jnp.zeros((2, 3), int), jnp.zeros(2, int), None, r"classes=0 and labels were given"),
        (TOLD, jnp.zeros((2, 3), int), jnp.zeros(2, int), None, r"local features were not given"),
        (
            {"local_features": 2},
            *(jnp.zeros((2, 6), int), None, jnp.zeros((2, 4, 2))),
            r"4 local features do not divide 6 positions evenly",
        ),
        (
            {"local_features": 2},
            *(jnp.zeros((2, 6), int), None, jnp.zeros((2, 3, 1))),
            r"shape \(2, 3, 1\); expected \[2, stretches, 2\]",
        ),
        ({"classes": 3}, jnp.zeros((2, 6), int), jnp.zeros(2), None, r"labels are float32 \(2,\)"),
    ],
)
def test_inputs_that_do_not_fit(options, code, label, local, message):
    with pytest.raises(ValueError, match=message):
        shapes(WaveNet(**(SMALL | options)), code, label, local)


def test_a_wavenet_is_a_prior():
    assert PRIORS["wavenet"] is WaveNet
    assert WaveNet(**SMALL).conditions == ()
    assert WaveNet(**SMALL, classes=4).conditions == ("label",)
