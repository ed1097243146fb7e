"""The adversary: the discriminator's sizes, arithmetic and statistics, losses, and the balance."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.adversarial import (
    ADVERSARIAL_LOSSES,
    PatchDiscriminator,
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
    kernel_gradient,
    non_saturating_discriminator_loss,
    non_saturating_generator_loss,
    r1_penalty,
)
from models.backbones import build_backbone

KEY = jax.random.key(0)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def start(module, x):
    """Variables of the module's shapes, none of them 0 or 1, drawn without compiling its init."""
    tree = jax.eval_shape(lambda x: module.init(KEY, x, train=True), x)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray(rng.uniform(0.1, 0.5, a.shape), a.dtype), tree)


# ---------------------------------------------------------------- the discriminator


# Counted from the layers of the released networks.
@pytest.mark.parametrize(
    ("layers", "parameters", "side"), [(3, 2_765_633, 30), (2, 663_361, 62)], ids=str
)
def test_sizes_of_the_release(layers, parameters, side):
    x = jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.float32)
    module = PatchDiscriminator(layers)
    logits, variables = jax.eval_shape(lambda x: module.init_with_output(KEY, x, train=True), x)
    assert logits.shape == (2, side, side)
    assert logits.dtype == jnp.float32
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters
    assert set(variables) == {"params", "batch_stats"}


def test_width_grows_eight_times_at_most():
    x = jax.ShapeDtypeStruct((1, 128, 128, 1), jnp.float32)
    module = PatchDiscriminator(5, width=2)
    params = jax.eval_shape(lambda x: module.init(KEY, x, train=True), x)["params"]
    widths = [params[f"conv_{i}"]["kernel"].shape[-1] for i in range(6)]
    assert widths == [2, 4, 8, 16, 16, 16]


def conv(x, kernel, stride):
    """Output pixel by pixel, with a border of one zero."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = ((n - 4) // stride + 1 for n in x.shape[1:3])
    y = np.empty((x.shape[0], height, width, kernel.shape[-1]))
    for i, j in np.ndindex(height, width):
        window = x[:, stride * i : stride * i + 4, stride * j : stride * j + 4]
        y[:, i, j] = np.tensordot(window, kernel, 3)
    return y


def discriminator_by_hand(variables, x, *, layers, train):
    """D(x), and mean and variance at each normalisation."""
    params, seen = variables["params"], []
    h = x
    for i in range(layers + 1):
        layer = params[f"conv_{i}"]
        h = conv(h, layer["kernel"], stride=2 if i < layers else 1)
        if i == 0:
            h = h + layer["bias"]
        else:
            mean, variance = h.mean((0, 1, 2)), h.var((0, 1, 2))
            if not train:
                mean, variance = (variables["batch_stats"][f"norm_{i}"][n] for n in ("mean", "var"))
            seen.append((mean, variance))
            norm = params[f"norm_{i}"]
            h = (h - mean) / np.sqrt(variance + 1e-5) * norm["scale"] + norm["bias"]
        h = np.where(h > 0, h, 0.2 * h)
    h = conv(h, params["logits"]["kernel"], stride=1) + params["logits"]["bias"]
    return h[..., 0], seen


@pytest.mark.parametrize("train", [True, False])
def test_discriminator_by_hand(train):
    module = PatchDiscriminator(2, width=2)
    x = normal(3, 12, 16, 3)
    variables = start(module, x)
    exact = jax.tree.map(lambda a: np.asarray(a, np.float64), variables)
    expected, seen = discriminator_by_hand(exact, np.float64(x), layers=2, train=train)
    apply = jax.jit(lambda v, x: module.apply(v, x, train=train, mutable=["batch_stats"]))
    found, new = apply(variables, x)
    assert found.shape == (3, 1, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    for i, (mean, variance) in enumerate(seen, 1):
        before, after = (tree["batch_stats"][f"norm_{i}"] for tree in (exact, new))
        # A tenth of the batch's (the variance as it is, where PyTorch's is that of n - 1).
        weight = 0.1 if train else 0.0
        for name, value in (("mean", mean), ("var", variance)):
            moved = (1 - weight) * before[name] + weight * value
            np.testing.assert_allclose(after[name], moved, rtol=1e-4, atol=1e-6)


def test_start_is_that_of_the_release():
    x = normal(1, 16, 16, 3)
    params = jax.jit(lambda x: PatchDiscriminator(1, width=64).init(KEY, x, train=True))(x)
    params = params["params"]
    for name in ("conv_0", "conv_1", "logits"):
        assert float(jnp.std(params[name]["kernel"])) == pytest.approx(0.02, rel=0.1)
    # torch.nn.Conv2d's bias is uniform within 1 / sqrt(fan in).
    assert 0.5 < float(jnp.abs(params["conv_0"]["bias"]).max()) * math.sqrt(48) <= 1
    assert "bias" not in params["conv_1"]
    scale = params["norm_1"]["scale"]
    assert float(jnp.mean(scale)) == pytest.approx(1, abs=0.01)
    assert float(jnp.std(scale)) == pytest.approx(0.02, rel=0.2)
    assert not params["norm_1"]["bias"].any()


def test_devices_normalise_as_one_when_they_share_an_axis_and_not_otherwise():
    x = normal(8, 12, 12, 1) * np.arange(1, 9, dtype=np.float32)[:, None, None, None]
    one = PatchDiscriminator(2, width=2)
    variables = start(one, x)

    def step(module, x, devices=1):
        def total(params):
            given = {**variables, "params": params}
            logits, new = module.apply(given, x, train=True, mutable=["batch_stats"])
            return jnp.mean(jnp.sin(logits)), (logits, new)

        grads, (logits, new) = jax.grad(total, has_aux=True)(variables["params"])
        if devices > 1:
            grads = jax.lax.pmean(grads, "batch")
        return logits, new, grads

    whole = jax.jit(lambda x: step(one, x))(x)
    parts = x.reshape(4, 2, *x.shape[1:])
    for axis_name in ("batch", None):
        module = PatchDiscriminator(2, width=2, axis_name=axis_name)
        mapped = jax.pmap(
            lambda x, module=module: step(module, x, 4),
            axis_name="batch",
            out_axes=(0, None, None),
            devices=jax.local_devices()[:4],
        )
        logits, new, grads = mapped(parts)
        found = (logits.reshape(whole[0].shape), new, grads)
        if axis_name:
            chex.assert_trees_all_close(found, whole, rtol=1e-3, atol=1e-5)
        else:
            assert float(jnp.abs(found[0] - whole[0]).max()) > 0.01


def test_bfloat16_keeps_float32_parameters_statistics_and_logits():
    x = normal(4, 12, 12, 3)
    variables = start(PatchDiscriminator(2, width=2), x)
    module = PatchDiscriminator(2, width=2, dtype=jnp.bfloat16)
    apply = lambda m: jax.jit(lambda x: m.apply(variables, x, train=True, mutable=True))(x)  # noqa: E731
    (half, new), (exact, _) = apply(module), apply(PatchDiscriminator(2, width=2))
    assert {a.dtype for a in jax.tree.leaves((half, new))} == {jnp.dtype("float32")}
    np.testing.assert_allclose(half, exact, atol=0.05 * float(jnp.abs(exact).max()))


def test_one_device_of_an_axis_is_initialised_outside_of_it():
    module = PatchDiscriminator(1, width=2, axis_name="batch")
    x = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
    assert set(jax.eval_shape(lambda x: module.init(KEY, x, train=True), x)) == {
        "params",
        "batch_stats",
    }


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"layers": 0}, (1, 8, 8, 1), "layers of a discriminator is 0; it must be at least 1"),
        ({"width": 0}, (1, 8, 8, 1), "width of a discriminator is 0"),
        ({}, (1, 16, 32, 1), r"of 3 layers .* at least 24x24, got \(1, 16, 32, 1\)"),
        ({"layers": 1}, (8, 8, 1), r"\[batch, height, width, channels\].*got \(8, 8, 1\)"),
    ],
    ids=str,
)
def test_what_cannot_be(options, shape, message):
    with pytest.raises(ValueError, match=message):
        PatchDiscriminator(**options).init(KEY, jnp.zeros(shape), train=True)


# ---------------------------------------------------------------- losses


def test_a_hinge_is_0_where_it_is_sure_and_1_where_it_knows_nothing():
    sure, unsure = jnp.full((2, 3, 3), 1.5), jnp.zeros((2, 3, 3))
    np.testing.assert_array_equal(hinge_discriminator_loss(sure, -sure), [0, 0])
    np.testing.assert_array_equal(hinge_discriminator_loss(unsure, unsure), [1, 1])
    np.testing.assert_array_equal(hinge_generator_loss(sure), [-1.5, -1.5])
    ignorant = non_saturating_discriminator_loss(unsure, unsure)
    np.testing.assert_allclose(ignorant, [math.log(2)] * 2, rtol=1e-6)
    np.testing.assert_allclose(non_saturating_generator_loss(unsure), ignorant, rtol=1e-6)


def test_losses_by_hand():
    real, fake = (3 * normal(4, 5, 6, seed=seed) for seed in (0, 1))
    r, f = np.float64(real), np.float64(fake)

    def nats(logit):  # -log sigmoid
        return np.log1p(np.exp(-logit))

    def mean(x):
        return x.mean((1, 2))

    expected = {
        "hinge": (mean(np.maximum(0, 1 - r) + np.maximum(0, 1 + f)) / 2, mean(-f)),
        "non_saturating": (mean(nats(r) + nats(-f)) / 2, mean(nats(f))),
    }
    assert set(expected) == set(ADVERSARIAL_LOSSES)
    for name, loss in ADVERSARIAL_LOSSES.items():
        discriminator, generator = expected[name]
        np.testing.assert_allclose(loss.discriminator(real, fake), discriminator, rtol=1e-5)
        np.testing.assert_allclose(loss.generator(fake), generator, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ADVERSARIAL_LOSSES)
def test_losses_of_extreme_logits_are_finite_and_push_apart(name):
    loss = ADVERSARIAL_LOSSES[name]
    for size in (0.0, 100.0):
        real, fake = jnp.full((1, 2), -size), jnp.full((1, 2), size)
        towards = jax.grad(lambda *x: loss.discriminator(*x).sum(), (0, 1))(real, fake)
        assert (towards[0] < 0).all()
        assert (towards[1] > 0).all()
    fooling = jax.grad(lambda x: loss.generator(x).sum())(jnp.full((1, 2), -100.0))
    assert (fooling < 0).all()  # a sure discriminator still teaches
    assert np.isfinite(loss.generator(jnp.full((1, 2), 1e4))).all()


def test_r1_of_known_slopes():
    a, x = normal(4, 4, 1), normal(3, 4, 4, 1, seed=1)
    found = r1_penalty(lambda x: jnp.tensordot(x, a, 3), x)
    np.testing.assert_allclose(found, np.full(3, 0.5 * (a**2).sum()), rtol=1e-5)
    # D(x) = 1/2 x^2, its map averaged over 16 patches.
    found = r1_penalty(lambda x: 0.5 * x**2, x)
    np.testing.assert_allclose(found, 0.5 * (x**2).sum((1, 2, 3)) / 16**2, rtol=1e-5)
    # And its gradient, of a discriminator.
    gradient = jax.jit(jax.grad(lambda a: r1_penalty(lambda x: jnp.tanh(x * a), x).sum()))(a)
    assert np.isfinite(gradient).all()
    assert gradient.any()


# ---------------------------------------------------------------- the balance


def test_adaptive_weight():
    nll, g = normal(3, 3, 4, 3), 0.1 * normal(3, 3, 4, 3, seed=1)
    weight = adaptive_weight(nll, g)
    expected = np.linalg.norm(np.float64(nll)) / (np.linalg.norm(np.float64(g)) + 1e-4)
    assert float(weight) == pytest.approx(expected, rel=1e-5)
    assert float(adaptive_weight(3 * nll, g)) == pytest.approx(3 * expected, rel=1e-5)
    # Without an adversary: |nll| / 1e-4, 1e4 at most.
    zero = np.zeros_like(g)
    small = 1e-3 * nll / np.linalg.norm(nll)
    assert float(adaptive_weight(small, zero)) == pytest.approx(10, rel=1e-5)
    assert float(adaptive_weight(nll, zero)) == 1e4
    assert float(adaptive_weight(zero, g)) == 0
    assert float(adaptive_weight(nll, g, delta=1e-6)) > expected
    gradients = jax.grad(adaptive_weight, (0, 1))(nll, g)
    assert not any(x.any() for x in gradients)
    with pytest.raises(ValueError, match=r"\(3, 3, 4, 3\) and \(3, 3, 4, 2\)"):
        adaptive_weight(nll, g[..., :2])


def test_lambda_without_another_pass_is_that_of_two_passes():
    path = ("output", "kernel")
    _, decoder = build_backbone(
        "convnet", output_shape=(8, 8, 3), widths=(4,), last_width=6, residual_layers=1
    )
    latent, image = normal(2, 4, 4, 5), normal(2, 8, 8, 3, seed=2)
    params = start(decoder, latent)["params"]

    def decode(params):
        return decoder.apply({"params": params}, latent, train=True)

    def nll(output):
        return jnp.mean(jnp.abs(image - output))

    def g(output):
        return -jnp.mean(jnp.tanh(output * jnp.asarray(image)))

    def at_once(params):
        output, pullback = jax.vjp(decode, params)
        of_nll, of_g = jax.grad(nll)(output), jax.grad(g)(output)
        weight = adaptive_weight(*(kernel_gradient(pullback, c, path) for c in (of_nll, of_g)))
        return weight, pullback(of_nll + weight * of_g)[0]

    def in_two_passes(params):
        first, second = (jax.grad(lambda p, f=f: f(decode(p)))(params) for f in (nll, g))
        last = [gradients[path[0]][path[1]] for gradients in (first, second)]
        weight = adaptive_weight(*last)
        return weight, jax.tree.map(lambda a, b: a + weight * b, first, second)

    def without(params):
        output, pullback = jax.vjp(decode, params)
        return pullback(jax.grad(nll)(output) + jax.grad(g)(output))[0]

    programs = [jax.jit(f).lower(params).compile() for f in (at_once, in_two_passes, without)]
    found, expected = (program(params) for program in programs[:2])
    assert float(found[0]) > 0
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)
    once, twice, plain = (program.cost_analysis()["flops"] for program in programs)
    assert once < 1.2 * plain < 1.4 * plain < twice

    with pytest.raises(ValueError, match=r"no last/kernel; they has "):
        kernel_gradient(jax.vjp(decode, params)[1], jnp.ones((2, 8, 8, 3)), ("last", "kernel"))
