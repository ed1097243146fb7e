import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottlenecks import routing
from bottlenecks.routing import squash

# Compiled as a whole: operation by operation these tests would take minutes.
dynamic_routing = jax.jit(
    routing.dynamic_routing, static_argnames=("iterations", "leaky", "gradient")
)
attention_routing = jax.jit(routing.attention_routing, static_argnames="iterations")


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


# Oracles: loops over capsules in float64 ----------------------------------------------------------


def squash_oracle(s):
    length = np.sqrt(np.dot(s, s))
    return s * length / (1 + length**2)


def softmax(x):
    e = np.exp(x - np.max(x))
    return e / e.sum()


def dynamic_oracle(votes, iterations, logits=None, bias=None, leaky=False, constant=None):
    """v and c of one example; `constant` holds the agreements fixed at given values."""
    inputs, outputs, depth = votes.shape
    b = np.zeros((inputs, outputs)) if logits is None else np.array(logits)
    agreements = []
    for r in range(iterations):
        c = np.zeros((inputs, outputs))
        for i in range(inputs):
            c[i] = softmax(np.append(b[i], 0.0))[:outputs] if leaky else softmax(b[i])
        v = np.zeros((outputs, depth))
        for j in range(outputs):
            s = sum(c[i, j] * votes[i, j] for i in range(inputs))
            v[j] = squash_oracle(s if bias is None else s + bias[j])
        agreed = np.array([[votes[i, j] @ v[j] for j in range(outputs)] for i in range(inputs)])
        agreements.append(agreed)
        b = b + (agreed if constant is None else constant[r])
    return v, c, agreements


def attention_oracle(votes, iterations, scale, bias, epsilon=1e-5):
    inputs, outputs, depth = votes.shape
    r = np.full((inputs, outputs), 1 / outputs)
    for iteration in range(iterations):
        v = np.zeros((outputs, depth))
        for j in range(outputs):
            s = sum(r[i, j] * votes[i, j] for i in range(inputs))
            v[j] = (s - s.mean()) / np.sqrt(s.var() + epsilon) * scale + bias
        if iteration < iterations - 1:
            r = np.stack([softmax((own * v).sum(1) / depth**0.5) for own in votes])
    return v, r


def finite_difference(f, point):
    point, gradient = np.float64(point), np.zeros(np.shape(point))
    for i in np.ndindex(point.shape):
        step = np.zeros_like(point)
        step[i] = 1e-5
        gradient[i] = (f(point + step) - f(point - step)) / 2e-5
    return gradient


# squash ------------------------------------------------------------------------------------------


def test_squash_by_hand():
    np.testing.assert_allclose(np.linalg.norm(squash(jnp.ones((1,)))), 0.5, rtol=1e-6)
    # |s| = 5: 25 / 26 of the direction (3, 4) / 5.
    np.testing.assert_allclose(squash(jnp.array([3.0, 4.0])), [15 / 26, 20 / 26], rtol=1e-6)
    # With epsilon 11 under the root: 25 / 26 / 6 of (3, 4).
    found = squash(jnp.array([3.0, 4.0]), epsilon=11.0)
    np.testing.assert_allclose(found, [25 / 52, 25 / 39], rtol=1e-6)


def test_squash_is_shorter_than_one():
    s = random(0, 200, 5) * 10.0 ** jnp.linspace(-18, 17, 200)[:, None]
    v = squash(s)
    lengths = np.linalg.norm(v, axis=-1)
    assert np.all(np.isfinite(v))
    assert np.all(lengths <= 1 + 1e-6)
    assert np.all(np.diff(lengths[::20]) >= -1e-6)
    np.testing.assert_allclose(lengths[-20:], 1.0, rtol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-20, 1e-10, 1e15])
def test_squash_has_a_finite_gradient(size):
    jacobian = jax.jacobian(squash)(jnp.array([size, 0.0, -size]))
    assert np.all(np.isfinite(jacobian))
    if size < 1e-9:
        np.testing.assert_allclose(jacobian, np.zeros((3, 3)), atol=1e-8)


# Dynamic routing ---------------------------------------------------------------------------------


# votes = 0, 1 ... 7 as (batch, in, out, atoms), b = 0; float64, an independent rewrite of Sabour et
# al. 2017, no bias, no epsilon. At 30 iterations v_0 (4e-157, 7e-90) is below float32.
@pytest.mark.parametrize(
    ("iterations", "leaky", "v"),
    [
        (1, False, [0.5150787536, 0.7726181305, 0.6098213559, 0.7622766949]),
        (2, False, [0.0531787123, 0.0847813259, 0.6208438713, 0.7753736170]),
        (3, False, [7.5668019046e-08, 4.1536645926e-06, 0.62094230275, 0.77610091125]),
        (3, True, [5.0843789205e-08, 4.2109356331e-06, 0.62095861226, 0.77608371650]),
        (30, False, [0, 0, 0.62090901696, 0.77613627120]),
    ],
)
def test_golden_values(iterations, leaky, v):
    votes = jnp.arange(8.0).reshape(1, 2, 2, 2)
    found = dynamic_routing(votes, iterations=iterations, leaky=leaky)
    # v_0 is a squash of e^-b with b up to 17: rounding of b is that of v_0, times 17.
    np.testing.assert_allclose(found.latent.ravel(), v, rtol=1e-5, atol=1e-20)


@pytest.mark.parametrize(
    ("iterations", "c"),
    [
        (2, [0.0610049805, 0.9389950195, 0.0443000019, 0.9556999981]),
        (3, [1.9914835746e-03, 0.99800851643, 9.2811445611e-06, 0.99999071886]),
    ],
)
def test_golden_couplings(iterations, c):
    found = dynamic_routing(jnp.arange(8.0).reshape(1, 2, 2, 2), iterations=iterations)
    np.testing.assert_allclose(found.coupling.ravel(), c, rtol=1e-5)


SINES = {
    1: """0.0321534111 0.0133935459 -0.0186959950 -0.0343659677
          -0.0113234726 0.0088669215 0.0353212641 0.0231867737""",
    3: """0.0338704768 0.0162651824 -0.0239007525 -0.0375603262
          -0.0094072795 0.0078043177 0.0385920091 0.0269866004""",
}


@pytest.mark.parametrize("iterations", SINES)
def test_golden_values_of_sines(iterations):
    # As above, votes = sin(0), sin(1) ... as (1, 3, 4, 2).
    found = dynamic_routing(jnp.sin(jnp.arange(24.0)).reshape(1, 3, 4, 2), iterations=iterations)
    expected = np.fromstring(SINES[iterations], sep=" ")
    np.testing.assert_allclose(found.latent.ravel(), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("options", ["plain", "shared logits", "own logits", "bias"])
def test_agrees_with_loops_in_float64(leaky, options):
    votes, logits, bias = random(0, 2, 5, 3, 4), random(1, 2, 5, 3), random(2, 3, 4)
    given = {
        "plain": {},
        "shared logits": dict(logits=logits[0]),
        "own logits": dict(logits=logits),
        "bias": dict(bias=bias),
    }[options]
    found = dynamic_routing(votes, leaky=leaky, **given)
    for n in range(2):
        own = {k: np.float64(x[n] if x.ndim == 3 else x) for k, x in given.items()}
        v, c, _ = dynamic_oracle(np.float64(votes[n]), 3, leaky=leaky, **own)
        np.testing.assert_allclose(found.latent[n], v, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.coupling[n], c, rtol=1e-4, atol=1e-6)
    total = np.sum(found.coupling, axis=-1)
    if leaky:
        assert np.all(total < 1)
    else:
        np.testing.assert_allclose(total, 1.0, rtol=1e-6)


@pytest.mark.parametrize("gradient", ["all", "last"])
def test_gradients_agree_with_finite_differences(gradient):
    votes, logits, weight = random(0, 4, 3, 2), random(1, 4, 3), np.float64(random(2, 3, 2))

    def f(votes, logits):
        routed = dynamic_routing(votes, logits=logits, iterations=3, gradient=gradient)
        return jnp.sum(jnp.float32(weight) * routed.latent)

    at = np.float64(votes), np.float64(logits)
    # Of the last iteration alone: the same sum with the agreements held where they are.
    constant = dynamic_oracle(*at[:1], 3, logits=at[1])[2] if gradient == "last" else None

    def reference(votes, logits):
        return np.sum(weight * dynamic_oracle(votes, 3, logits=logits, constant=constant)[0])

    found = jax.jit(jax.grad(f, argnums=(0, 1)))(votes, logits)
    expected = [
        finite_difference(lambda x: reference(x, at[1]), at[0]),
        finite_difference(lambda x: reference(at[0], x), at[1]),
    ]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-5)


def test_one_iteration_is_the_plain_average_and_thirty_are_not():
    votes = random(0, 2, 6, 4, 3)
    one, two, thirty = (dynamic_routing(votes, iterations=n) for n in (1, 1, 30))
    expected = [[squash_oracle(np.float64(s)) for s in image] for image in votes.sum(1) / 4]
    np.testing.assert_allclose(one.latent, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(one.coupling, np.full((2, 6, 4), 0.25))
    np.testing.assert_array_equal(one.latent, two.latent)
    assert np.max(np.abs(one.latent - thirty.latent)) > 0.01


# Both routings -----------------------------------------------------------------------------------

ROUTINGS = [dynamic_routing, attention_routing]
both = pytest.mark.parametrize("routing", ROUTINGS)


@both
def test_permuting_inputs_changes_nothing_and_permuting_outputs_permutes(routing):
    votes = random(0, 2, 6, 4, 3)
    inputs, outputs = np.array([3, 0, 5, 1, 4, 2]), np.array([2, 0, 3, 1])
    plain, shuffled = routing(votes), routing(votes[:, inputs][:, :, outputs])
    np.testing.assert_allclose(shuffled.latent, plain.latent[:, outputs], rtol=1e-5, atol=1e-6)
    expected = plain.coupling[:, inputs][:, :, outputs]
    np.testing.assert_allclose(shuffled.coupling, expected, rtol=1e-5)


@both
def test_an_image_does_not_depend_on_its_batch(routing):
    votes = random(0, 3, 6, 4, 3)
    changed = votes.at[1:].set(7 * random(1, 2, 6, 4, 3))
    for one, other in zip(routing(votes), routing(changed), strict=True):
        np.testing.assert_array_equal(one[0], other[0])


@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_attention_agrees_with_loops_in_float64(iterations):
    votes, scale, bias = random(0, 5, 3, 4), random(1, 4), random(2, 4)
    found = attention_routing(votes, iterations=iterations, scale=scale, bias=bias)
    v, r = attention_oracle(np.float64(votes), iterations, np.float64(scale), np.float64(bias))
    np.testing.assert_allclose(found.latent, v, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.coupling, r, rtol=1e-4)


def test_attention_gradients_agree_with_finite_differences():
    arrays = random(0, 4, 3, 3), random(1, 3), random(2, 3)
    weight = np.float64(random(3, 3, 3))

    def f(votes, scale, bias):
        latent = attention_routing(votes, iterations=3, scale=scale, bias=bias).latent
        return jnp.sum(jnp.float32(weight) * latent)

    at = [np.float64(x) for x in arrays]
    for n, found in enumerate(jax.jit(jax.grad(f, argnums=(0, 1, 2)))(*arrays)):

        def reference(x, n=n):
            votes, scale, bias = (x if m == n else y for m, y in enumerate(at))
            return np.sum(weight * attention_oracle(votes, 3, scale, bias)[0])

        expected = finite_difference(reference, at[n])
        np.testing.assert_allclose(found, expected, rtol=5e-4, atol=1e-4)


@both
@pytest.mark.parametrize("votes", [np.zeros((3, 2, 4)), np.ones((3, 2, 4)), np.full((1, 1, 1), 2)])
def test_zero_and_equal_votes_are_finite_in_value_and_gradient(routing, votes):
    def f(votes):
        routed = routing(votes)
        return jnp.sum(routed.latent) + jnp.sum(jnp.square(routed.coupling)), routed

    gradient, routed = jax.jit(jax.grad(f, has_aux=True))(jnp.float32(votes))
    for leaf in jax.tree.leaves((gradient, routed)):
        assert np.all(np.isfinite(leaf))
    np.testing.assert_allclose(routed.coupling, 1 / votes.shape[1], rtol=1e-6)


@both
def test_bfloat16_votes_couple_as_their_float32_values(routing):
    votes = random(0, 2, 6, 4, 3).astype(jnp.bfloat16)
    found, wide = routing(votes), routing(votes.astype(jnp.float32))
    assert found.latent.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.latent, wide.latent.astype(jnp.bfloat16))
    assert found.coupling.dtype == jnp.float32
    np.testing.assert_array_equal(found.coupling, wide.coupling)


@both
def test_jit_equals_eager_and_vmap_equals_loop(routing):
    votes = random(0, 2, 3, 6, 4, 3)  # two leading axes
    with jax.disable_jit():
        eager = routing(votes)
    compiled, mapped = routing(votes), jax.jit(jax.vmap(routing))(votes)
    loop = [np.stack(x) for x in zip(*map(routing, votes), strict=True)]
    for others in (compiled, mapped, loop):
        for one, other in zip(eager, others, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@both
def test_devices_and_checkpoint_give_the_values_and_gradients_of_one_call(routing, on_devices):
    votes, weight = random(0, 8, 6, 4, 3), random(1, 8, 4, 3)

    def gradient(votes, weight, routing=routing):
        return jax.grad(lambda u: jnp.sum(weight * routing(u).latent))(votes)

    def everyones(votes, weight):
        # psum of what each device holds in its own rows: the same on all devices.
        def gathered(x):
            device = jax.lax.axis_index("batch")
            rows = jnp.zeros((8, *x.shape[1:]), x.dtype)
            place = jax.lax.dynamic_update_slice_in_dim(rows, x, 2 * device, 0)
            return jax.lax.psum(place, "batch")

        return gathered(routing(votes).latent), gathered(gradient(votes, weight))

    latent, to_votes = on_devices(everyones, votes, weight)
    np.testing.assert_allclose(latent, routing(votes).latent, rtol=1e-5, atol=1e-6)
    expected = jax.jit(gradient)(votes, weight)
    np.testing.assert_allclose(to_votes, expected, rtol=1e-5, atol=1e-6)
    again = jax.jit(lambda *x: gradient(*x, jax.checkpoint(routing)))(votes, weight)
    np.testing.assert_allclose(again, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dynamic_routing(jnp.zeros((3, 4))), r"\[\.\.\., I, J, D\].*\(3, 4\)"),
        (lambda: dynamic_routing(jnp.zeros((0, 3, 4))), r"\(0, 3, 4\)"),
        (lambda: dynamic_routing(jnp.zeros((2, 3, 4), jnp.int32)), "int32"),
        (lambda: dynamic_routing(jnp.zeros((2, 3, 4)), iterations=0), "got 0"),
        (lambda: dynamic_routing(jnp.zeros((2, 3, 4)), gradient="none"), "'none'"),
        (
            lambda: dynamic_routing(jnp.zeros((5, 2, 3, 4)), logits=jnp.zeros((3, 2))),
            r"\(2, 3\) or \(5, 2, 3\), got \(3, 2\)",
        ),
        (lambda: dynamic_routing(jnp.zeros((2, 3, 4)), bias=jnp.zeros(4)), r"\(3, 4\), got \(4,\)"),
        (lambda: attention_routing(jnp.zeros((3, 4))), r"\(3, 4\)"),
        (lambda: attention_routing(jnp.zeros((2, 3, 4)), iterations=0), "got 0"),
        (lambda: attention_routing(jnp.zeros((2, 3, 4)), scale=jnp.ones(3)), r"scale.*\(4,\)"),
        (lambda: attention_routing(jnp.zeros((2, 3, 4)), bias=jnp.ones(3)), r"bias.*\(4,\)"),
    ],
)
def test_wrong_arguments_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()
