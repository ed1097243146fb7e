"""The partitioned Gaussian bottleneck: what a partition sees, what it costs, what is trained."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import models
from bottlenecks.partition import partition_of_units
from models.partition_vae import PartitionedGaussian, dense_widths

PARTITIONS = (4, 3, 1)
PART = partition_of_units(PARTITIONS)
NOISE = {"sample": jax.random.key(1)}


def features(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def draw(module, x, seed=0, scale=1.0):
    """Variables of the module's shapes, drawn without compiling its init; biases too are drawn."""
    keys = {"params": jax.random.key(0), **NOISE}
    tree = jax.eval_shape(lambda x: module.init(keys, x, train=True), x)
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda a: jnp.asarray(scale * rng.normal(size=a.shape) / np.sqrt(a.shape[0]), a.dtype),
        tree,
    )


def start(module, x):
    """Variables as a run starts with."""
    keys = {"params": jax.random.key(0), **NOISE}
    return jax.jit(lambda x: module.init(keys, x, train=True))(x)


def blocks(net, sizes):
    """The nets of a `BlockMLP`'s variables as float64 (A, b) per layer and part, cut from padding.

    `sizes` are those of the parts at the input and after each layer.
    """
    return [
        [
            (
                np.asarray(net[f"layer_{i}"]["kernel"], np.float64)[k, :d, :o],
                np.asarray(net[f"layer_{i}"]["bias"], np.float64)[k, :o],
            )
            for k, (d, o) in enumerate(zip(before, after, strict=True))
        ]
        for i, (before, after) in enumerate(itertools.pairwise(sizes))
    ]


def heads_by_hand(net, sizes, h, activation=lambda x: x):
    """Each part's net in a loop, float64."""
    ends = np.cumsum(sizes[0])
    results = []
    for k, (start, end) in enumerate(zip((0, *ends), ends, strict=False)):
        y = h[:, start:end]
        for i, layer in enumerate(blocks(net, sizes)):
            A, b = layer[k]
            y = (activation(y) if i else y) @ A + b
        results.append(y)
    return np.concatenate(results, axis=1)


def mixed(variables, x):
    mix = variables["params"]["mix"]
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    return x @ np.asarray(mix["kernel"], np.float64) + np.asarray(mix["bias"], np.float64)


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("activation", ["linear", "relu", "tanh"])
def test_posterior_and_kl_are_those_of_a_loop_over_partitions(activation):
    module = PartitionedGaussian(PARTITIONS, ((5,), (6,), (2,)), head_activation=activation)
    x = features(5, 3, 2)
    variables = draw(module, x)
    params = variables["params"]
    assert set(variables) == {"params"}
    sizes = (PARTITIONS, (5, 6, 2), PARTITIONS)
    between = {"linear": lambda x: x, "relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}
    h = mixed(variables, x)
    mean, log_variance = (
        heads_by_hand(params[name], sizes, h, between[activation])
        for name in ("mean", "log_variance")
    )
    output = jax.jit(lambda x: module.apply(variables, x, train=True, rngs=NOISE))(x)
    np.testing.assert_allclose(output.code, mean, rtol=1e-4, atol=1e-5)
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance)
    assert set(output.losses) == {"kl"}
    np.testing.assert_allclose(output.losses["kl"], kl.sum(1), rtol=1e-4)
    assert set(output.metrics) == {"kl_partition_0", "kl_partition_1", "kl_partition_2"}
    for k in range(3):
        found = output.metrics[f"kl_partition_{k}"]
        np.testing.assert_allclose(found, kl[:, k == PART].sum(1), rtol=1e-4)
    noise = (np.asarray(output.latent) - mean) / np.exp(0.5 * log_variance)
    if activation == "linear":  # outside of jit, and in evaluation
        again = module.apply(variables, x, train=False, rngs=NOISE)
        np.testing.assert_allclose(again.latent, output.latent, rtol=1e-5, atol=1e-6)
    assert 0.5 < noise.std() < 1.5
    quiet = module.apply(variables, x, train=False)
    np.testing.assert_array_equal(quiet.latent, quiet.code)
    assert output.latent.shape == output.code.shape == (5, 8)


def test_on_a_grid_every_position_is_done_by_itself():
    options = {"partitions": PARTITIONS, "hidden": (5,), "heads": "permuted"}
    module, flat = PartitionedGaussian(**options, grid=True), PartitionedGaussian(**options)
    x = features(2, 2, 3, 6)
    variables = draw(module, x)
    output = module.apply(variables, x, train=False)
    by_position = flat.apply(variables, x.reshape(12, 6), train=False)
    np.testing.assert_allclose(output.code.reshape(12, 8), by_position.code, rtol=1e-5, atol=1e-6)
    assert output.latent.shape == (2, 2, 3, 8)
    for name in ("kl_partition_0", "kl_partition_2"):
        wanted = by_position.metrics[name].reshape(2, 6).sum(1)
        np.testing.assert_allclose(output.metrics[name], wanted, rtol=1e-5)
    total = by_position.losses["kl"].reshape(2, 6).sum(1)
    np.testing.assert_allclose(output.losses["kl"], total, rtol=1e-5)


def test_noise_belongs_to_an_example_not_to_a_device():
    x = features(8, 6)
    module = PartitionedGaussian(PARTITIONS)
    variables = draw(module, x)
    apart = PartitionedGaussian(PARTITIONS, axis_name="batch")

    @jax.jit
    def latents(x):
        whole, parts = (
            lambda x, module=module: module.apply(variables, x, train=True, rngs=NOISE).latent
            for module in (module, apart)
        )
        return whole(x), jax.vmap(parts, axis_name="batch")(x.reshape(4, 2, 6)).reshape(8, 8)

    whole, parts = latents(x)
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)
    assert (whole[0] != whole[1]).all()


def test_bfloat16_is_for_the_dense_layer_alone():
    x = features(5, 6)
    module = PartitionedGaussian(PARTITIONS, dtype=jnp.bfloat16)
    variables = draw(module, x)
    assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    output = module.apply(variables, x, train=True, rngs=NOISE)
    figures = (output.code, output.latent, output.losses["kl"], *output.metrics.values())
    assert {a.dtype for a in figures} == {jnp.dtype("float32")}
    exact = PartitionedGaussian(PARTITIONS).apply(variables, x, train=True, rngs=NOISE)
    np.testing.assert_allclose(output.losses["kl"], exact.losses["kl"], rtol=0.1)


# ---------------------------------------------------------------- who sees whom


def jacobian(module):
    """d mean / d h and d logvar / d h, `[units, units]`, with B = 1."""
    units = sum(module.partitions)
    x = features(1, units)
    variables = draw(module, x)
    variables["params"]["mix"] = {"kernel": jnp.eye(units), "bias": jnp.zeros(units)}
    both = jax.jacobian(lambda x: module.apply(variables, x, method="posterior"))
    return [np.asarray(J)[0, :, 0] for J in jax.jit(both)(x)]


@pytest.mark.parametrize("mode", ["described", "legacy"])
def test_a_partition_sees_its_own_slice_alone(mode):
    same = PART[:, None] == PART
    for J in jacobian(PartitionedGaussian(PARTITIONS, mode=mode)):
        np.testing.assert_array_equal(J[~same], 0)
        assert (J[same] != 0).all()


def test_dense_heads_see_everything():
    for J in jacobian(PartitionedGaussian(PARTITIONS, heads="dense", head_activation="tanh")):
        assert (J != 0).all()


def test_permuted_heads_see_as_much_but_not_what_is_named():
    partitions = (4, 3, 3)
    named = partition_of_units(partitions)
    named = named[:, None] == named
    for J in jacobian(PartitionedGaussian(partitions, heads="permuted")):
        seen = J != 0
        # Blocks of 4, 3 and 3 under another order: symmetric, with as many entries.
        assert seen.sum() == named.sum() == 16 + 9 + 9
        np.testing.assert_array_equal(seen, seen.T)
        assert seen.diagonal().all()
        assert sorted(seen.sum(0)) == [3] * 6 + [4] * 4
        assert (seen & named).sum() < 20  # ten of them are the diagonal


# ---------------------------------------------------------------- parameters


def trained(module, x):
    """How many numbers of each head a gradient ever reaches."""

    def total(variables):
        return sum(jnp.sum(y) for y in module.apply(variables, x, method="posterior"))

    gradient = jax.jit(jax.grad(total))(draw(module, x))["params"]
    count = jax.tree.map(lambda g: int(np.count_nonzero(g)), gradient)
    return {name: sum(jax.tree.leaves(tree)) for name, tree in count.items()}


def test_padding_is_not_trained_and_dense_heads_have_as_many_parameters():
    x = features(3, 7)
    # 4, 3 and 3 units: each n -> 10 -> n has n 10 + 10 + 10 n + n.
    heads = sum(20 * n + 10 + n for n in (4, 3, 3))
    mix = 7 * 10 + 10
    assert heads == 240
    found = trained(PartitionedGaussian((4, 3, 3)), x)
    assert found == {"mix": mix, "mean": 240, "log_variance": 240}
    assert trained(PartitionedGaussian((4, 3, 3), heads="permuted"), x) == found
    found = trained(PartitionedGaussian((4, 3, 3), heads="dense"), x)
    assert found == {"mix": mix, "mean": 241, "log_variance": 241}  # 10 -> 11 -> 10


@pytest.mark.parametrize(
    ("partitions", "hidden"),
    [((4, 3, 3), (10,)), ((5, 5, 4, 3, 2, 1), (10,)), ((2, 4), (40, 20)), ((3, 3), (32, 32))],
)
def test_dense_widths_are_the_nearest(partitions, hidden):
    def parameters(sizes):
        return sum(a * b + b for a, b in itertools.pairwise(sizes))

    wanted = sum(parameters((d, *hidden, d)) for d in partitions)
    widths = dense_widths(partitions, (hidden,) * len(partitions))
    units = sum(partitions)
    found = parameters((units, *widths, units))
    assert abs(found - wanted) <= 0.05 * wanted
    assert len(widths) == len(hidden)
    ratio = widths[0] / hidden[0]
    assert all(abs(w - ratio * h) <= 0.5 + 0.5 * ratio for w, h in zip(widths, hidden, strict=True))
    for change in (-1, 1):
        other = parameters((units, *(w + change for w in widths), units))
        assert abs(found - wanted) <= abs(other - wanted)


def test_legacy_shares_one_frozen_net():
    module = PartitionedGaussian((2, 4), ((5,), (10,)), mode="legacy")
    x = features(6, 9)
    variables = start(module, x)
    mean, log_variance = module.apply(variables, x, method="posterior")
    assert np.asarray(mean).tobytes() == np.asarray(log_variance).tobytes()
    assert set(variables["params"]) == {"mix"}
    sizes = ((2, 4), (5, 10), (2, 4), (2, 4))
    frozen = variables["frozen"]["heads"]
    h = mixed(variables, x)
    np.testing.assert_allclose(mean, heads_by_hand(frozen, sizes, h), rtol=1e-4, atol=1e-5)
    # 2 -> 5 -> 2 -> 2: 33, 4 -> 10 -> 4 -> 4: 114, of the authors' script.
    parts = blocks(frozen, sizes)
    counts = [sum(A.size + b.size for A, b in net) for net in zip(*parts, strict=True)]
    assert counts == [33, 114]
    # torch.nn.Linear's start: uniform within 1/sqrt(inputs), and nothing in the padding.
    for before, layer in zip(sizes, parts, strict=False):
        for d, (A, b) in zip(before, layer, strict=True):
            assert 0 < np.abs(A).max() <= 1 / np.sqrt(d)
            assert 0 < np.abs(b).max() <= 1 / np.sqrt(d)
    used = sum(counts)
    assert sum(np.count_nonzero(a) for a in jax.tree.leaves(frozen)) == used
    # And the trained nets' start: variance 1 / inputs, whatever the padding.
    params = start(PartitionedGaussian((2, 50), (400,)), x)["params"]
    kernel = np.asarray(params["mean"]["layer_0"]["kernel"])
    assert kernel[0, :2].std() == pytest.approx(2**-0.5, rel=0.1)
    assert kernel[1].std() == pytest.approx(50**-0.5, rel=0.05)
    np.testing.assert_array_equal(kernel[0, 2:], 0)


def test_linear_heads_do_not_restrict_the_mean():
    # mu = blockdiag(A_k) B x with B free: for whatever a dense linear head computes, M x + c, there
    # is a B, for the heads that happen to be there.
    module = PartitionedGaussian(PARTITIONS)
    x = features(20, 7)
    variables = draw(module, x)
    rng = np.random.default_rng(1)
    M, c = rng.normal(size=(7, 8)), rng.normal(size=8)
    kernel, bias, start = np.zeros((7, 8)), np.zeros(8), 0
    sizes = (PARTITIONS, (10,) * 3, PARTITIONS)
    for k, d in enumerate(PARTITIONS):
        (A_1, b_1), (A_2, b_2) = (layer[k] for layer in blocks(variables["params"]["mean"], sizes))
        back = np.linalg.inv(A_1 @ A_2)
        unit = slice(start, start + d)
        kernel[:, unit] = M[:, unit] @ back
        bias[unit] = (c[unit] - b_1 @ A_2 - b_2) @ back
        start += d
    variables["params"]["mix"] = {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}
    mean, _ = module.apply(variables, x, method="posterior")
    np.testing.assert_allclose(mean, x @ M + c, rtol=1e-3, atol=2e-3)


# ---------------------------------------------------------------- gradients, learning


@pytest.mark.parametrize("size", [0.0, 1e4])
@pytest.mark.parametrize("options", [{}, {"head_activation": "relu"}, {"mode": "legacy"}], ids=str)
def test_gradients_are_finite(options, size):
    module = PartitionedGaussian(PARTITIONS, **options)
    x = size * features(3, 6)
    variables = draw(module, x)

    def total(params):
        output = module.apply({**variables, "params": params}, x, train=True, rngs=NOISE)
        return jnp.sum(jnp.square(output.latent)) + jnp.sum(output.losses["kl"])

    for leaf in jax.tree.leaves(jax.jit(jax.grad(total))(variables["params"])):
        assert np.isfinite(leaf).all()


def test_it_learns_digits_better_than_their_mean():
    images = (load_digits().images / 16).astype(np.float32)[..., None]
    train, test = images[:1500], images[1500:]
    model = models.build(
        {
            "image_shape": (8, 8, 1),
            "backbone": {
                "name": "partition",
                "convs": ((3, 8),),
                "dense": (64,),
                "decoder_convs": (),
                "subresolution": 1,
                "activation": "relu",
            },
            "bottleneck": {"name": "partition", "partitions": PARTITIONS},
            "likelihood": {"name": "gaussian", "variance": 0.04},
            "data_variance": float(train.var()),
            "dtype": "float32",
            "remat": False,
        }
    )
    keys = {"params": jax.random.key(0), **NOISE}
    params = jax.jit(lambda x: model.init(keys, {"image": x}, train=True))(train[:2])["params"]
    optimizer = optax.adam(5e-3)

    def loss(params, x, key):
        rngs = {"sample": key}
        options = {"train": True, "method": "losses", "rngs": rngs}
        losses, _ = model.apply({"params": params}, {"image": x}, **options)
        return sum(jnp.mean(v) for v in losses.values())

    @jax.jit
    def step(params, state, x, key):
        updates, state = optimizer.update(jax.grad(loss)(params, x, key), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    rng = np.random.default_rng(0)
    for i in range(150):
        rows = rng.integers(len(train), size=64)
        params, state = step(params, state, train[rows], jax.random.key(i))
    again = jax.jit(lambda x: model.apply({"params": params}, x, method="reconstruct"))(test)
    error = float(np.mean((again - test) ** 2))
    baseline = float(np.mean((train.mean(0) - test) ** 2))
    assert error < 0.75 * baseline


# ---------------------------------------------------------------- errors


def test_lists_are_taken_as_a_config_holds_them():
    module = PartitionedGaussian([4, 3, 1], [[5], [6], [2]])
    assert module == PartitionedGaussian((4, 3, 1), ((5,), (6,), (2,)))
    assert PartitionedGaussian((2, 1), [7, 5]).hidden == ((7, 5), (7, 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partitions": ()}, r"partitions are 1 or more positive whole numbers.*found \(\)"),
        ({"partitions": (4, 0)}, r"partitions are .* found \(4, 0\)"),
        ({"partitions": 4}, "partitions are .* found 4"),
        ({"hidden": (10, 0.5)}, r"hidden are .* found \(10, 0\.5\)"),
        ({"hidden": ((5,), (10,))}, "for each partition, 3 lists of one length"),
        ({"hidden": ((5,), (10,), ())}, "for each partition, 3 lists of one length"),
        ({"head_activation": "gelu"}, "head_activation is 'gelu'; known: linear, tanh, relu"),
        ({"mode": "released"}, "mode is 'released'; known: described, legacy"),
        ({"heads": "mixed"}, "heads is 'mixed'; known: partitioned, dense, permuted"),
        ({"mode": "legacy", "heads": "dense"}, "'legacy' is the release.*found heads='dense'"),
        ({"mode": "legacy", "head_activation": "relu"}, "'legacy' is the release.*'relu'"),
        ({"heads": "dense", "hidden": ()}, r"give a width such as \(10,\)"),
        ({"heads": "permuted", "partitions": (4,)}, "needs two partitions or more"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        PartitionedGaussian(**{"partitions": PARTITIONS, **options})
