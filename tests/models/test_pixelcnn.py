"""Gated PixelCNN: order, probabilities, sizes, and draws equal to those without a cache."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.priors import GatedPixelCNN, sample
from models.priors.pixelcnn import GatedLayer
from models.priors.pixelcnn_sampling import draw

SMALL = {"codes": 3, "layers": 2, "features": 4, "kernel": 3, "output_features": 6}


def shapes(module, *inputs):
    """Shapes of the module's parameters; computes nothing."""
    return jax.eval_shape(lambda *x: module.init(jax.random.key(0), *x), *inputs)


def variables_of(module, *inputs, seed=0):
    """Parameters that make every input count, drawn without compiling `init`."""
    rng = np.random.default_rng(seed)

    def leaf(path, a):
        fan_in = a.size / a.shape[-1]
        known = {"bias": 0.3, "logits_bias": 0.3, "embedding": 1, "earlier": 1}
        return jnp.asarray(
            rng.normal(size=a.shape) * known.get(path[-1].key, 1.5 / np.sqrt(fan_in)), a.dtype
        )

    return jax.tree.map_with_path(leaf, shapes(module, *inputs))


def prior(shape, classes=0, **options):
    """A small prior, its parameters, codes of a shape, and labels if it has classes."""
    model = GatedPixelCNN(**(SMALL | {"classes": classes} | options))
    rng = np.random.default_rng(1)
    code = jnp.asarray(rng.integers(model.codes, size=shape), jnp.int32)
    label = jnp.asarray(rng.integers(classes, size=shape[0]), jnp.int32) if classes else None
    return model, variables_of(model, code, label, features_for(model, shape)), code, label


def features_for(model, shape):
    """Three features of each position, if the prior takes any."""
    if not model.located:
        return None
    return jax.random.normal(jax.random.key(7), (*shape[:3], 3))


def test_a_position_sees_all_of_the_past_and_nothing_else():
    # 4 layers * floor(3 / 2) columns reach from one side of the 5 columns to the other.
    model, variables, _, _ = prior((1, 4, 5), layers=4)
    x = jax.random.normal(jax.random.key(0), (1, 4, 5, model.features))
    weights = jax.random.normal(jax.random.key(1), (model.features,))

    @jax.jit
    def jacobian(x):
        return jax.jacrev(lambda x: model.apply(variables, x, method="stacks")[0] @ weights)(x)

    # [position, position of the embedding]: sizes of the gradients.
    gradients = np.linalg.norm(jacobian(x)[:, :, 0], axis=-1).reshape(20, 20)
    assert np.all(gradients[np.triu_indices(20)] == 0)  # itself and the future
    assert np.all(gradients[np.tril_indices(20, -1)] > 1e-6)  # no spot is blind


def test_order_of_codes_at_one_position():
    # A grid for each code changed: which logits does it move?
    model, variables, code, _ = prior((1, 2, 3, 3), codebooks=3)
    size = code.size
    changed = jnp.tile(code.reshape(1, size), (size, 1))
    changed = changed.at[jnp.arange(size), jnp.arange(size)].add(1) % model.codes
    grids = jnp.concatenate([code.reshape(1, size), changed]).reshape(-1, *code.shape[1:])
    logits = np.asarray(jax.jit(model.apply)(variables, grids)).reshape(size + 1, size, -1)
    moved = np.abs(logits[1:] - logits[0]).max(axis=-1)  # [changed code, logits]
    assert np.all(moved[np.tril_indices(size)] < 1e-6)
    assert np.all(moved[np.triu_indices(size, 1)] > 1e-4)


def layer_by_loops(p, v, h, label, features, n):
    """Sections 2.1 to 2.3 in float64: sums over the masked n x n and 1 x n windows."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), p)
    height, width, maps = v.shape
    half = n // 2
    v_next, h_next = np.zeros_like(v), np.zeros_like(h)

    def gate(a):
        return np.tanh(a[:maps]) / (1 + np.exp(-a[maps:]))

    for r, c in itertools.product(range(height), range(width)):
        vertical = p["vertical_conv"]["bias"] + p["vertical_class"][label]
        horizontal = p["vertical_to_horizontal"]["bias"] + p["horizontal_class"][label]
        vertical += features[r, c] @ p["vertical_map"]["kernel"]
        horizontal += features[r, c] @ p["horizontal_map"]["kernel"]
        for up, across in itertools.product(range(half + 1), range(-half, half + 1)):
            if r - up >= 0 and 0 <= c + across < width:
                kernel = p["vertical_conv"]["kernel"][half - up, half + across]
                vertical += v[r - up, c + across] @ kernel
        for back in range(half + 1):
            if c - back >= 0:
                horizontal += h[r, c - back] @ p["horizontal_kernel"][half - back]
        horizontal += vertical @ p["vertical_to_horizontal"]["kernel"]
        v_next[r, c] = gate(vertical)
        out = gate(horizontal) @ p["residual"]["kernel"] + p["residual"]["bias"]
        h_next[r, c] = out + h[r, c]
    return v_next, h_next


def test_a_layer_is_the_papers():
    layer = GatedLayer(features=3, kernel=5, classes=4, located=True)
    v, h, s = np.random.default_rng(0).normal(size=(3, 2, 4, 5, 3))
    label = np.array([3, 1])
    inputs = *(jnp.asarray(x, jnp.float32) for x in (v, h)), jnp.asarray(label), jnp.asarray(s)
    variables = variables_of(layer, *inputs)
    found = jax.jit(layer.apply)(variables, *inputs)
    for i in range(2):
        expected = layer_by_loops(variables["params"], v[i], h[i], label[i], s[i], 5)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours[i], theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("grid", "options"),
    [((2, 2), {}), ((2, 2, 2), {"codes": 2, "codebooks": 2})],
    ids=["one codebook", "two codebooks"],
)
def test_probabilities_of_all_grids_sum_to_one(grid, options):
    model, variables, _, _ = prior((1, *grid), **options)
    every = np.array(list(itertools.product(range(model.codes), repeat=np.prod(grid))))
    log_prob = jax.jit(partial(model.apply, method="log_prob"))
    nats = log_prob(variables, jnp.asarray(every, jnp.int32).reshape(-1, *grid))
    assert nats.shape == (len(every),)
    assert nats.dtype == jnp.float32
    assert np.ptp(nats) > 1  # far from uniform
    np.testing.assert_allclose(np.exp(np.float64(nats)).sum(), 1, rtol=1e-5)


def test_log_prob_jitted_its_gradient_and_the_class():
    model, variables, code, label = prior((3, 3, 4, 2), classes=4, codebooks=2)

    @jax.jit
    def nats_and_gradient(variables, label):
        def total(variables):
            nats = model.apply(variables, code, label, method="log_prob")
            return jnp.sum(nats), nats

        (_, nats), gradient = jax.value_and_grad(total, has_aux=True)(variables)
        return nats, gradient

    found, gradient = nats_and_gradient(variables, label)
    logits = model.apply(variables, code, label)
    assert logits.shape == (3, 3, 4, 2, 3)
    log_p = np.asarray(jax.nn.log_softmax(logits))
    by_hand = [sum(log_p[(b, *at, code[(b, *at)])] for at in np.ndindex(3, 4, 2)) for b in range(3)]
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(leaf != 0), path
    other, _ = nats_and_gradient(variables, (label + 1) % 4)
    assert np.all(np.abs(other - found) > 1e-3)


def test_a_code_outside_its_range_makes_nan():
    model, variables, code, label = prior((3, 2, 2), classes=2)
    nats = jax.jit(partial(model.apply, method="log_prob"))
    # The last position, which no logits see.
    code = code.at[0, 1, 1].set(3).at[1, 1, 1].set(-1)
    assert list(np.isnan(nats(variables, code, label))) == [True, True, False]
    assert np.all(np.isnan(nats(variables, code, jnp.array([2, -1, 5]))))


@pytest.mark.parametrize("classes", [0, 10])
def test_parameters(classes):
    K, C, L, p, n, F = 512, 3, 4, 16, 5, 32
    model = GatedPixelCNN(
        codes=K, codebooks=C, layers=L, features=p, kernel=n, output_features=F, classes=classes
    )
    label = jnp.zeros(2, jnp.int32) if classes else None
    found = sum(a.size for a in jax.tree.leaves(shapes(model, jnp.zeros((2, 4, 4, C), int), label)))
    # Vertical ceil(n/2) x n, 1x1 to horizontal, horizontal 1 x ceil(n/2), 1x1 residual, classes.
    layer = (15 * p * 2 * p + 2 * p) + (4 * p * p + 2 * p) + 3 * p * 2 * p + (p * p + p)
    layer += 2 * classes * 2 * p
    head = (p * F + F) + (C - 1) * K * F + C * (F * K + K)
    assert found == C * K * p + L * layer + head


def test_lower_precision_keeps_float32_logits():
    model, variables, code, _ = prior((1, 3, 3), dtype=jnp.bfloat16)
    lower = jax.jit(model.apply)(variables, code)
    assert lower.dtype == jnp.float32
    same = jax.jit(GatedPixelCNN(**SMALL).apply)(variables, code[..., None])  # one codebook, named
    assert same.shape == (1, 3, 3, 1, 3)
    assert 1e-4 < np.max(np.abs(same[..., 0, :] - lower)) < 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codes": 0}, r"prior.codes is 0; it must be at least 1"),
        ({"layers": 0}, r"prior.layers is 0"),
        ({"kernel": 4}, r"prior.kernel is 4; it must be odd, and at least 3"),
        ({"kernel": 1}, r"prior.kernel is 1; it must be odd, and at least 3"),
        ({"classes": -1}, r"prior.classes is -1; it must be 0 \(none\) or more"),
    ],
)
def test_sizes_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        GatedPixelCNN(**(SMALL | options))


@pytest.mark.parametrize(
    ("options", "code", "label", "message"),
    [
        ({}, jnp.zeros((2, 3), int), None, r"shape \(2, 3\); expected \[batch, height, width\] or"),
        ({}, jnp.zeros((2, 3, 0), int), None, r"shape \(2, 3, 0\)"),
        ({"codebooks": 2}, jnp.zeros((2, 3, 3), int), None, r"\[batch, height, width, 2\]"),
        ({"codebooks": 2}, jnp.zeros((2, 3, 3, 3), int), None, r"codebooks=2"),
        ({}, jnp.zeros((2, 3, 3)), None, r"codes must be whole numbers, found float32"),
        ({}, jnp.zeros((2, 3, 3), int), jnp.zeros(2, int), r"classes=0 and labels were given"),
        ({"classes": 4}, jnp.zeros((2, 3, 3), int), None, r"classes=4 and labels were not given"),
        ({"classes": 4}, jnp.zeros((2, 3, 3), int), jnp.zeros(3, int), r"int32 \(3,\); expected"),
        ({"classes": 4}, jnp.zeros((2, 3, 3), int), jnp.zeros(2), r"labels are float32 \(2,\)"),
        (
            {"located": True},
            jnp.zeros((2, 3, 3), int),
            None,
            r"are None; \(2, 3, 3, 'any'\) or \(2, 1",
        ),
    ],
)
def test_codes_and_labels_that_do_not_fit(options, code, label, message):
    with pytest.raises(ValueError, match=message) as raised:
        shapes(GatedPixelCNN(**(SMALL | options)), code, label)
    assert "\n" not in str(raised.value)


def test_a_vector_is_given_to_all_positions():
    model, variables, code, _ = prior((2, 3, 4), located=True)
    h = features_for(model, (2, 1, 1))
    everywhere = jnp.broadcast_to(h, (2, 3, 4, 3))
    logits = jax.jit(model.apply)
    found = logits(variables, code, None, h)
    np.testing.assert_allclose(found, logits(variables, code, None, everywhere), atol=1e-5)
    # Every position's logits follow it, the first's too, which sees nothing else.
    assert np.all(np.abs(logits(variables, code, None, h + 1) - found).max(axis=-1) > 1e-3)


@partial(jax.jit, static_argnums=0)
def draw_one(model, variables, key, code, at, label, features, temperature):
    """Draws one code of each grid, from the logits of the whole; the rule of keys is `sample`'s."""
    logits = model.apply(variables, code, label, features)
    logits = logits.reshape(code.shape[0], -1, model.codes)[:, at]
    key = jax.random.fold_in(jax.random.fold_in(key, at // model.codebooks), at % model.codebooks)
    drawn = draw(key, logits, temperature)
    return code.reshape(code.shape[0], -1).at[:, at].set(drawn).reshape(code.shape)


@pytest.mark.parametrize(
    ("shape", "temperature", "options"),
    [
        ((3, 4, 5), 1.0, {}),
        ((2, 5, 3, 3), 0.7, {"codebooks": 3, "kernel": 5, "layers": 3, "classes": 4}),
        ((4, 3, 4, 1), 1.6, {"kernel": 7, "classes": 2}),
        ((2, 3, 4), 1.0, {"located": True}),
        ((2, 4, 3), 1.0, {"located": True, "vector": True}),
    ],
    ids=["plain", "codebooks", "wide kernel", "features of positions", "a vector"],
)
def test_draws_are_those_without_a_cache(shape, temperature, options):
    vector = options.get("vector", False)
    options = {name: value for name, value in options.items() if name != "vector"}
    model, variables, _, label = prior(shape, codes=11, **options)
    features = features_for(model, (shape[0], 1, 1) if vector else shape)
    given = {"label": label, "features": features, "temperature": temperature}
    for seed in range(3):
        key = jax.random.key(seed)
        found = sample(model, variables, key, shape, **given)
        expected = jnp.zeros(shape, jnp.int32)
        for at in range(np.prod(shape[1:])):
            expected = draw_one(model, variables, key, expected, at, **given)
        assert found.dtype == jnp.int32
        np.testing.assert_array_equal(found, expected)
        assert len(np.unique(found)) >= 5


def test_draws_on_several_devices():
    model, variables, _, label = prior((4, 2, 2), classes=3)
    keys = jax.random.split(jax.random.key(0), 2)

    def two(key, label):
        return sample(model, variables, key, (2, 2, 2), label=label)

    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    batch = jax.sharding.PartitionSpec("batch")
    spread = jax.shard_map(
        lambda keys, label: two(keys[0], label), mesh=mesh, in_specs=batch, out_specs=batch
    )
    here = jax.vmap(two)(keys, label.reshape(2, 2))
    np.testing.assert_array_equal(spread(keys, label), here.reshape(4, 2, 2))


def test_draws_follow_the_probabilities():
    model, variables, _, _ = prior((1, 2, 1))
    every = jnp.array(list(itertools.product(range(3), repeat=2)), jnp.int32).reshape(9, 2, 1)
    nats = jax.jit(partial(model.apply, method="log_prob"))(variables, every)
    p = np.exp(nats).reshape(3, 3)
    drawn = partial(sample, model, variables, jax.random.key(5), (4000, 2, 1))
    first, second = np.asarray(drawn()).reshape(4000, 2).T
    share = np.zeros((3, 3))
    np.add.at(share, (first, second), 1 / 4000)
    np.testing.assert_allclose(share, p, atol=4 * 0.5 / np.sqrt(4000))
    likeliest = p.sum(axis=1).argmax()
    greedy = np.asarray(drawn(temperature=1e-6)).reshape(4000, 2)
    assert np.all(greedy == [likeliest, p[likeliest].argmax()])


def test_draws_from_logits():
    p = np.array([0.0, 0.6, 0.0, 0.1, 0.3, 0.0])
    logits = jnp.log(jnp.asarray(p, jnp.float32))
    for temperature in (1.0, 2.0, 1e-37):
        code = jax.jit(draw)(jax.random.key(0), jnp.tile(logits, (20000, 1)), temperature)
        expected = (p / p.max()) ** (1 / temperature)
        expected /= expected.sum()
        share = np.bincount(code, minlength=6) / 20000
        np.testing.assert_allclose(share, expected, atol=4 * 0.5 / np.sqrt(20000))
        assert np.all(share[p == 0] == 0)
    assert draw(jax.random.key(0), logits.at[4].set(jnp.nan)[None]) == -1


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 3, 3), {"temperature": 0}, r"temperature is 0; it must be finite and above 0"),
        ((2, 3, 3), {"temperature": float("nan")}, r"temperature is nan"),
        ((2, 3), {}, r"shape \(2, 3\); expected"),
        ((2, 3, 3, 2), {}, r"codebooks=1"),
        ((2, 3, 3), {"label": jnp.zeros(2, int)}, r"classes=0 and labels were given"),
        ((2, 3, 3), {"features": jnp.zeros((2, 3, 3, 4))}, r"\(2, 3, 3, 4\); it takes none"),
    ],
)
def test_draws_that_cannot_be(shape, options, message):
    with pytest.raises(ValueError, match=message) as raised:
        sample(GatedPixelCNN(**SMALL), {}, jax.random.key(0), shape, **options)
    assert "\n" not in str(raised.value)
