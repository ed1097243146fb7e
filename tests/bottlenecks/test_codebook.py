"""The life of a codebook over many steps: moving averages, devices, dead codes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottlenecks import quantize, revive_dead_codes, start_codebook, update_codebook

KEY = jax.random.key(0)


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def some_mask(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape) < 0.6, jnp.float32)


def assert_states_close(found, expected, rtol=1e-5, atol=1e-6):
    for field, a, b in zip(expected._fields, found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=field)


# Moving averages ---------------------------------------------------------------------------------


def oracle_step(state, features, index, mask, *, decay, epsilon, debias):
    """van den Oord et al. 2017, Eq. 6 to 8, code by code in float64, with Sonnet's smoothing."""
    codebook, count, total, step = state
    codebook, count, total, step = codebook.copy(), count.copy(), total.copy(), step + 1
    for i in range(len(codebook)):
        chosen = (index == i) & (mask > 0)
        count[i] = decay * count[i] + (1 - decay) * np.sum(chosen)
        total[i] = decay * total[i] + (1 - decay) * np.sum(features[chosen], axis=0)
    correction = 1 - decay**step if debias else 1.0
    n = np.sum(count) / correction
    for i in range(len(codebook)):
        N = count[i] / correction
        if epsilon:
            N = (N + epsilon) / (n + len(codebook) * epsilon) * n
        if N > 0:
            codebook[i] = total[i] / correction / N
    return codebook, count, total, step


@pytest.mark.parametrize("debias", [False, True])
@pytest.mark.parametrize("epsilon", [0.0, 1e-2])
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_hundred_masked_steps_agree_with_float64(decay, epsilon, debias):
    options = dict(decay=decay, epsilon=epsilon, debias=debias)
    state = start_codebook(random(0, 6, 3), debias=debias)
    expected = (*(np.float64(x) for x in state[:3]), 0)
    step = jax.jit(functools.partial(update_codebook, **options))
    generator = np.random.default_rng(1)
    for t in range(100):
        features = np.float32(generator.normal(size=(5, 2, 3)) + 0.02 * t)
        # Codes 4 and 5 come late and never; step 50 has no feature at all.
        index = np.int32(generator.integers(0, 4 if t < 30 else 5, size=(5, 2)))
        mask = np.float32((generator.uniform(size=(5, 2)) < 0.7) * (t != 50))
        state = step(state, features, index, mask=mask)
        expected = oracle_step(expected, np.float64(features), index, mask, **options)
        assert_states_close(state, type(state)(*expected), rtol=2e-5, atol=2e-6)


def test_a_code_unused_for_very_long_stays_without_smoothing():
    # 0.99^20000 is far below float32, the last features of code 1 long gone.
    state = start_codebook(jnp.array([[1.0, 0.0], [0.03, -7e-5]]))
    index = jnp.zeros(2, jnp.int32)

    @jax.jit
    def many(state):
        def step(_, state):
            return update_codebook(state, jnp.ones((2, 2)), index, epsilon=0.0)

        return jax.lax.fori_loop(0, 20_000, step, state)

    found = many(state)
    np.testing.assert_array_equal(found.codebook[1], state.codebook[1])
    np.testing.assert_allclose(found.codebook[0], [1.0, 1.0], rtol=1e-5)
    # And the next feature it gets takes it over.
    found = update_codebook(found, jnp.full((2, 2), 5.0), index + 1, epsilon=0.0)
    np.testing.assert_allclose(found.codebook[1], [5.0, 5.0], rtol=1e-5)


def test_smoothing_halves_an_unused_code_in_1146_steps():
    # e N / (N + epsilon) at N = 0.99^1146 = 0.995e-5.
    state = start_codebook(jnp.array([[1.0, 0.0], [3.0, -4.0]]))

    @jax.jit
    def many(state):
        def step(_, state):
            return update_codebook(state, jnp.ones((2, 2)), jnp.zeros(2, jnp.int32))

        return jax.lax.fori_loop(0, 1146, step, state)

    np.testing.assert_allclose(many(state).codebook[1], [1.5, -2.0], rtol=5e-3)


@pytest.mark.parametrize("debias", [False, True])
@pytest.mark.parametrize("epsilon", [0.0, 1e-5])
def test_batches_without_a_feature_leave_the_codes(epsilon, debias):
    state = start_codebook(random(0, 4, 3), debias=debias)
    features, index, mask = jnp.full((5, 3), jnp.nan), jnp.zeros(5, jnp.int32), jnp.zeros(5)
    step = jax.jit(functools.partial(update_codebook, epsilon=epsilon, debias=debias))
    new = state
    for _ in range(3):
        new = step(new, features, index, mask=mask)
    np.testing.assert_allclose(new.codebook, state.codebook, rtol=1e-5)
    np.testing.assert_allclose(new.count, 0.99**3 * state.count, rtol=1e-5)
    np.testing.assert_allclose(new.total, 0.99**3 * state.total, rtol=1e-5)


def test_what_is_masked_does_not_matter():
    state = start_codebook(random(0, 4, 3))
    features, index = random(1, 6, 3), jnp.array([0, 1, 2, 0, 1, 3])
    mask = jnp.array([1.0, 1, 0, 1, 0, 0])
    kept = np.array([0, 1, 3])
    expected = update_codebook(state, features[kept], index[kept])
    bad = features.at[2].set(jnp.nan).at[4].set(jnp.inf)
    for m in (mask, mask > 0):
        assert_states_close(update_codebook(state, bad, index, mask=m), expected, rtol=1e-6)


def test_no_gradient_flows_into_the_state():
    state, features = start_codebook(random(0, 4, 3)), random(1, 6, 3)
    index = quantize(features, state.codebook).index

    def f(codebook, total, features):
        old = state._replace(codebook=codebook, total=total)
        new = update_codebook(old, features, index)
        return jnp.sum(new.codebook) + jnp.sum(new.count) + jnp.sum(new.total)

    gradients = jax.grad(f, argnums=(0, 1, 2))(state.codebook, state.total, features)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, jnp.zeros_like(gradient))


def test_bfloat16_features_are_summed_in_float32():
    # In bfloat16 the sum of 1000 ones stops at 256.
    features = jnp.ones((1000, 2), jnp.bfloat16)
    state = start_codebook(jnp.zeros((1, 2)))
    new = update_codebook(state, features, jnp.zeros(1000, jnp.int32), decay=0.0, epsilon=0.0)
    np.testing.assert_array_equal(new.total, [[1000.0, 1000.0]])
    np.testing.assert_array_equal(new.codebook, [[1.0, 1.0]])
    assert new.codebook.dtype == jnp.float32


@pytest.mark.parametrize("debias", [False, True])
def test_updates_on_devices_are_those_of_one(on_devices, debias):
    features, mask = random(0, 12, 5, 3), some_mask(1, 12, 5)
    mask = mask.at[:3].set(0)  # the first device has nothing to add
    start = start_codebook(random(2, 7, 3), debias=debias)

    def f(x, m, axis_name="batch"):
        state = start
        for _ in range(3):
            index = quantize(x, state.codebook).index
            options = dict(decay=0.5, debias=debias, axis_name=axis_name, mask=m)
            state = update_codebook(state, x, index, **options)
        return state

    one_device = jax.jit(functools.partial(f, axis_name=None))
    one = one_device(features, mask)
    assert_states_close(on_devices(f, features, mask), one)
    # It does matter to see the whole batch.
    alone = one_device(features[:3], jnp.ones((3, 5)))
    assert np.max(np.abs(one.codebook - alone.codebook)) > 0.1


def test_update_jit_equals_eager_and_vmap_equals_loop():
    codebooks, features, masks = random(0, 2, 5, 3), random(1, 2, 8, 3), some_mask(2, 2, 8)

    def f(e, x, m):
        return update_codebook(start_codebook(e), x, quantize(x, e).index, mask=m)

    compiled = jax.jit(f)
    loop = [compiled(*arguments) for arguments in zip(codebooks, features, masks, strict=True)]
    assert_states_close(loop[0], f(codebooks[0], features[0], masks[0]), rtol=1e-6)
    mapped = jax.jit(jax.vmap(f))(codebooks, features, masks)
    assert_states_close(mapped, jax.tree.map(lambda *x: np.stack(x), *loop), rtol=1e-6)


# Dead codes --------------------------------------------------------------------------------------


def a_state(counts):
    state = start_codebook(random(0, len(counts), 3), count=jnp.float32(counts))
    return state._replace(count=jnp.float32(counts), step=jnp.int32(9))


def same_rows(codebook, features):
    """Whether code i is row j: `[codes, rows]`."""
    return np.all(np.asarray(codebook)[:, None] == np.asarray(features), axis=-1)


def test_dead_codes_take_different_rows_and_start_anew():
    state, features = a_state([0.5, 0.0, 3, 7, 0.1, 0.099]), random(1, 4, 3)
    revived = revive_dead_codes(KEY, state, features, threshold=0.1)
    new, count = revived
    assert count == 2
    assert new.step == 9
    dead, alive = np.array([1, 5]), np.array([0, 2, 3, 4])
    for before, after in zip(state[:3], new[:3], strict=True):
        np.testing.assert_array_equal(after[alive], before[alive])
    np.testing.assert_array_equal(new.count[dead], [1, 1])
    np.testing.assert_array_equal(new.total[dead], new.codebook[dead])
    same = same_rows(new.codebook[dead], features)
    assert np.all(np.sum(same, axis=1) == 1)  # each is a row ...
    assert np.max(np.sum(same, axis=0)) == 1  # ... and no row is taken twice


def test_the_next_update_does_not_undo_a_revival():
    # espnet/espnet#6284: where the averages are not reset, the update puts the dead code back.
    state, features = a_state([5, 1e-4, 5]), random(1, 6, 3)
    revived = revive_dead_codes(KEY, state, features, threshold=0.1).state
    new = update_codebook(revived, features, jnp.zeros(6, jnp.int32))
    np.testing.assert_allclose(new.codebook[1], revived.codebook[1], rtol=1e-4)
    assert np.max(np.abs(revived.codebook[1] - state.codebook[1])) > 0.1


def test_more_dead_codes_than_rows_share_them():
    features, mask = random(1, 5, 3), jnp.array([0.0, 1, 0, 1, 0])
    new, count = revive_dead_codes(KEY, a_state([0] * 7), features, threshold=1.0, mask=mask)
    assert count == 7
    same = same_rows(new.codebook, features)
    np.testing.assert_array_equal(np.sort(np.sum(same, axis=0)), [0, 0, 0, 3, 4])
    assert np.all(np.sum(same, axis=0)[np.array([0, 2, 4])] == 0)


@pytest.mark.parametrize(
    ("threshold", "masked"), [(0.0, False), (0.5, True)], ids=["threshold 0", "all masked"]
)
def test_nothing_to_revive_leaves_the_state(threshold, masked):
    state, features = a_state([0, 1e-9, 2]), random(1, 4, 3)
    mask = jnp.zeros(4) if masked else None
    new, count = revive_dead_codes(KEY, state, features, threshold=threshold, mask=mask)
    assert count == 0
    jax.tree.map(np.testing.assert_array_equal, new, state)


def test_revival_on_devices_is_that_of_one(on_devices):
    features, mask = random(1, 12, 2, 3), some_mask(2, 12, 2)
    state = a_state([0, 5, 0, 0.2, 4, 0.9, 0, 0])

    def f(x, m, axis_name="batch"):
        return revive_dead_codes(KEY, state, x, threshold=0.5, axis_name=axis_name, mask=m)

    one = jax.jit(functools.partial(f, axis_name=None))(features, mask)
    many = on_devices(f, features, mask)
    assert one.count == 5
    jax.tree.map(np.testing.assert_array_equal, many, one)
    # The drawn rows come from more than one device's quarter of the batch.
    same = same_rows(one.state.codebook[np.array([0, 2, 3, 6, 7])], features.reshape(24, 3))
    assert len(set(np.argmax(same, axis=1) // 6)) > 1


def test_revival_jit_equals_eager_and_keys_differ():
    state, features = a_state([0, 5, 0, 0.2]), random(1, 20, 3)
    eager = revive_dead_codes(KEY, state, features, threshold=0.5)
    compiled = jax.jit(functools.partial(revive_dead_codes, threshold=0.5))(KEY, state, features)
    jax.tree.map(np.testing.assert_array_equal, compiled, eager)
    other = revive_dead_codes(jax.random.key(1), state, features, threshold=0.5)
    assert np.any(other.state.codebook != eager.state.codebook)


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (jnp.zeros((5, 2)), {"threshold": 0.5}, r"\(5, 2\).*\(3, 3\)"),
        (jnp.zeros((5, 3)), {"threshold": 1.5}, r"got 1\.5"),
        (jnp.zeros((5, 3)), {"threshold": -0.5}, r"got -0\.5"),
        (jnp.zeros((5, 3)), {"threshold": 0.5, "mask": jnp.ones(4)}, r"\(5,\), got \(4,\)"),
    ],
)
def test_wrong_arguments_raise(features, options, message):
    with pytest.raises(ValueError, match=message):
        revive_dead_codes(KEY, a_state([1, 1, 1]), features, **options)
