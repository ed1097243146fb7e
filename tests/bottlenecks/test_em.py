from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottlenecks import routing

# Compiled as a whole: operation by operation these tests would take minutes.
em_routing = jax.jit(
    routing.em_routing,
    static_argnames=("iterations", "final_lambda", "lambda_decay", "variance_floor"),
)
ZERO = jnp.float32(0)


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def example(*lead, seed=0):
    rng = np.random.default_rng(seed)
    activation = jnp.asarray(rng.uniform(0.1, 1, (*lead, 5)), jnp.float32)
    return random(seed + 1, *lead, 5, 3, 4), activation, random(seed + 2, 3), random(seed + 3, 3)


def em_oracle(votes, activation, beta_u, beta_a, iterations=3, final=0.01, decay=0.95, floor=1e-6):
    """Hinton et al. 2018, procedure 1, capsule by capsule, in float64 and not in logarithms."""
    inputs, outputs, depth = votes.shape
    R = np.full((inputs, outputs), 1 / outputs)
    for t in range(1, iterations + 1):
        mu, variance, a = np.zeros((outputs, depth)), np.zeros((outputs, depth)), np.zeros(outputs)
        for j in range(outputs):
            r = R[:, j] * activation
            cost = 0
            for h in range(depth):
                mu[j, h] = np.sum(r * votes[:, j, h]) / np.sum(r)
                variance[j, h] = np.sum(r * (votes[:, j, h] - mu[j, h]) ** 2) / np.sum(r) + floor
                cost += (beta_u[j] + np.log(np.sqrt(variance[j, h]))) * np.sum(r)
            a[j] = 1 / (1 + np.exp(-final * (1 - decay**t) * (beta_a[j] - cost)))
        if t < iterations:
            p = np.prod(
                np.exp(-((votes - mu) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance),
                axis=-1,
            )
            R = a * p / np.sum(a * p, axis=1, keepdims=True)
    return mu, a, R


@pytest.mark.parametrize(
    ("iterations", "options"),
    [(1, {}), (2, {}), (5, {}), (3, dict(final_lambda=1.0, lambda_decay=0.5))],
)
def test_agrees_with_loops_in_float64(iterations, options):
    arrays = example()
    found = em_routing(*arrays, iterations=iterations, **options)
    names = dict(final_lambda="final", lambda_decay="decay")
    expected = em_oracle(
        *map(np.float64, arrays), iterations, **{names[k]: v for k, v in options.items()}
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(np.sum(found.coupling, axis=-1), 1, rtol=1e-5)


def test_one_iteration_by_hand():
    # Votes 0 and 2 of activations 1 and 3 for two outputs: R = 1/2, weights 1/4 and 3/4, mu = 1.5,
    # sigma^2 = 0.75, sum of R a = 2, cost = 2 (beta_u + ln(0.75) / 2), a = sigmoid(beta_a - cost).
    found = em_routing(
        jnp.tile(jnp.array([0.0, 2.0])[:, None, None], (1, 2, 1)),
        jnp.array([1.0, 3.0]),
        jnp.float32(0.25),
        jnp.array([0.5, 1.5]),
        iterations=1,
        final_lambda=1.0,
        lambda_decay=0.0,
    )
    np.testing.assert_allclose(found.latent, [[1.5], [1.5]], rtol=1e-6)
    np.testing.assert_array_equal(found.coupling, np.full((2, 2), 0.5))
    logit = np.array([0.5, 1.5]) - (0.5 + np.log(0.75))
    np.testing.assert_allclose(found.activation, 1 / (1 + np.exp(-logit)), rtol=1e-5)


def test_two_clusters_are_found_and_each_output_takes_one():
    rng = np.random.default_rng(0)
    centres, member = np.array([[3.0, 0.0], [-3.0, 1.0]]), np.arange(40) % 2
    votes = centres[member] + 0.1 * rng.normal(size=(40, 2))
    # Votes of one input for both outputs are alike, but for what breaks the tie.
    votes = jnp.float32(votes[:, None] + 0.1 * rng.normal(size=(40, 2, 2)))
    found = em_routing(votes, jnp.ones(40), ZERO, ZERO, iterations=15)
    # Outputs 0 and 1 in the order of their clusters; then each is the mean of the cluster's votes.
    order = np.argsort(-np.asarray(found.latent)[:, 0])
    np.testing.assert_allclose(np.asarray(found.coupling)[:, order], np.eye(2)[member], atol=1e-5)
    for cluster, output in enumerate(order):
        expected = np.mean(votes[member == cluster, output], axis=0)
        np.testing.assert_allclose(found.latent[output], expected, rtol=1e-4)


def test_gradients_agree_with_finite_differences():
    arrays = example(seed=3)
    weights = [np.float64(random(9, 3, 4)), np.float64(random(10, 3)), np.float64(random(11, 5, 3))]
    options = dict(final_lambda=0.5, lambda_decay=0.5)

    def f(*arrays):
        routed = em_routing(*arrays, **options)
        return sum(jnp.sum(jnp.float32(w) * x) for w, x in zip(weights, routed, strict=True))

    def reference(*arrays):
        routed = em_oracle(*arrays, final=0.5, decay=0.5)
        return sum(np.sum(w * x) for w, x in zip(weights, routed, strict=True))

    found = jax.jit(jax.grad(f, argnums=range(4)))(*arrays)
    at = [np.float64(x) for x in arrays]
    for n in range(4):
        expected = np.zeros(at[n].shape)
        for i in np.ndindex(at[n].shape):
            step = np.zeros(at[n].shape)
            step[i] = 1e-5
            ends = [
                reference(*(x + sign * step if m == n else x for m, x in enumerate(at)))
                for sign in (1, -1)
            ]
            expected[i] = (ends[0] - ends[1]) / 2e-5
        # float32 in six steps of division by variances, against the largest derivative.
        np.testing.assert_allclose(
            found[n], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
        )


def test_an_input_of_no_activation_has_no_say_but_a_gradient():
    votes, activation, beta_u, beta_a = example()
    activation = activation.at[2].set(0)

    def f(activation):
        return jnp.sum(jnp.sin(em_routing(votes, activation, beta_u, beta_a).latent))

    without = em_routing(jnp.delete(votes, 2, 0), jnp.delete(activation, 2, 0), beta_u, beta_a)
    found = em_routing(votes, activation, beta_u, beta_a)
    np.testing.assert_allclose(found.latent, without.latent, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.activation, without.activation, rtol=1e-5)
    step = 1e-5 * np.eye(5)[2]
    arrays = np.float64(votes), np.float64(activation), np.float64(beta_u), np.float64(beta_a)
    ends = [
        np.sum(np.sin(em_oracle(arrays[0], arrays[1] + sign * step, *arrays[2:])[0]))
        for sign in (1, -1)
    ]
    expected = (ends[0] - ends[1]) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(f))(activation)[2], expected, rtol=1e-3)


@jax.jit
def gradients_of_sums(*arrays):
    def f(*arrays):
        routed = em_routing(*arrays)
        return sum(jnp.sum(x) for x in routed), routed

    return jax.grad(f, argnums=range(4), has_aux=True)(*arrays)


@pytest.mark.parametrize(
    ("votes", "activation"),
    [
        (np.zeros((5, 3, 4)), np.ones(5)),  # no spread
        (np.ones((5, 3, 4)), np.zeros(5)),  # no activation at all
        (np.zeros((5, 3, 4)), np.zeros(5)),
        (np.arange(60).reshape(5, 3, 4), [0, 0, 1, 0, 0]),  # one vote each
        (1e4 * np.arange(60).reshape(5, 3, 4) ** 2, np.ones(5)),  # shares that underflow
        (np.ones((1, 1, 1)), np.full(1, 1e-38)),
    ],
)
def test_edges_are_finite_in_value_and_gradient(votes, activation):
    arrays = jnp.float32(votes), jnp.float32(activation), ZERO, jnp.float32(1)
    gradients, routed = gradients_of_sums(*arrays)
    for leaf in jax.tree.leaves((gradients, routed)):
        assert np.all(np.isfinite(leaf))
    if not np.any(activation):
        np.testing.assert_array_equal(routed.latent, np.zeros_like(routed.latent))
        expected = 1 / (1 + np.exp(-0.01 * (1 - 0.95**3)))
        np.testing.assert_allclose(routed.activation, expected, rtol=1e-5)


def test_permuting_inputs_changes_nothing_and_permuting_outputs_permutes():
    votes, activation, beta_u, beta_a = example(2)
    inputs, outputs = np.array([3, 0, 1, 4, 2]), np.array([2, 0, 1])
    plain = em_routing(votes, activation, beta_u, beta_a)
    shuffled = em_routing(
        votes[:, inputs][:, :, outputs], activation[:, inputs], beta_u[outputs], beta_a[outputs]
    )
    np.testing.assert_allclose(shuffled.latent, plain.latent[:, outputs], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(shuffled.activation, plain.activation[:, outputs], rtol=1e-5)
    changed = em_routing(votes.at[1].mul(5), activation, beta_u, beta_a)
    np.testing.assert_array_equal(changed.latent[0], plain.latent[0])


def test_bfloat16_votes_route_as_their_float32_values():
    narrow = [x.astype(jnp.bfloat16) for x in example(2)]
    found, wide = em_routing(*narrow), em_routing(*(x.astype(jnp.float32) for x in narrow))
    assert (found.latent.dtype, found.activation.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert found.coupling.dtype == jnp.float32
    np.testing.assert_array_equal(found.latent, wide.latent.astype(jnp.bfloat16))
    np.testing.assert_array_equal(found.activation, wide.activation.astype(jnp.bfloat16))
    np.testing.assert_array_equal(found.coupling, wide.coupling)


def test_jit_equals_eager_and_vmap_equals_loop():
    votes, activation, beta_u, beta_a = example(2, 3)  # two leading axes
    with jax.disable_jit():
        eager = em_routing(votes, activation, beta_u, beta_a, iterations=2)
    mapped = jax.jit(jax.vmap(lambda *x: em_routing(*x, beta_u, beta_a, iterations=2)))(
        votes, activation
    )
    loop = [
        em_routing(*one, beta_u, beta_a, iterations=2)
        for one in zip(votes, activation, strict=True)
    ]
    loop = [np.stack(x) for x in zip(*loop, strict=True)]
    for other in (em_routing(votes, activation, beta_u, beta_a, iterations=2), mapped, loop):
        for one, two in zip(eager, other, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_devices_and_checkpoint_give_the_means_and_gradients_of_one_call(on_devices):
    votes, activation, beta_u, beta_a = example(8)

    def mean(votes, activation, axis_name=None, route=routing.em_routing):
        def loss(votes):
            routed = route(votes, activation, beta_u, beta_a)
            return jnp.mean(jnp.sin(routed.latent)) + jnp.mean(routed.activation)

        value, gradient = jax.value_and_grad(loss)(votes)
        results = value, jnp.mean(gradient * votes), jnp.mean(jnp.square(gradient))
        return jax.lax.pmean(results, axis_name) if axis_name else results

    many = on_devices(partial(mean, axis_name="batch"), votes, activation)
    one = jax.jit(mean)(votes, activation)
    again = jax.jit(partial(mean, route=jax.checkpoint(routing.em_routing)))(votes, activation)
    np.testing.assert_allclose(again, one, rtol=1e-5, atol=1e-8)
    # A device's mean is over a quarter of the batch, its gradient four times as large.
    np.testing.assert_allclose(many, np.array(one) * [1, 4, 16], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(votes=jnp.zeros((3, 4))), r"\[\.\.\., I, J, D\].*\(3, 4\)"),
        (dict(votes=jnp.zeros((5, 3, 4), jnp.int32)), "votes.*int32"),
        (dict(activation=jnp.ones(3)), r"expected \(5,\), got \(3,\)"),
        (dict(activation=jnp.ones(5, jnp.int32)), "activation.*int32"),
        (dict(beta_u=jnp.ones(4)), r"beta_u.*\(3,\), got \(4,\)"),
        (dict(beta_a=jnp.ones((3, 1))), r"beta_a.*\(3,\), got \(3, 1\)"),
        (dict(iterations=0), "got 0"),
        (dict(variance_floor=0), "got 0"),
        (dict(lambda_decay=1), "got 1"),
    ],
)
def test_wrong_arguments_raise(change, message):
    votes, activation, beta_u, beta_a = example()
    given = dict(votes=votes, activation=activation, beta_u=beta_u, beta_a=beta_a)
    with pytest.raises(ValueError, match=message):
        routing.em_routing(**(given | change))
