"""The prior over frames of codes: what it sees, and draws equal to those by full recomputation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.priors import VideoPrior, sample_frames
from models.priors.pixelcnn_sampling import draw

SMALL = {
    "codes": 4,
    "layers": 2,
    "features": 4,
    "output_features": 6,
    "past_embedding": 3,
    "past_features": 5,
    "past_layers": 1,
}
GRID = (3, 2)
PAST = 2


def prior(**options):
    """A small prior, parameters that make every input count, a frame, its past and actions."""
    model = VideoPrior(**(SMALL | options))
    rng = np.random.default_rng(1)
    code = rng.integers(model.codes, size=(2, PAST + 1, *GRID, model.codebooks)).astype(np.int32)
    action = rng.integers(model.actions, size=(2, PAST)) if model.actions else None
    given = code[:, -1], code[:, :-1], action
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *given))

    def leaf(path, a):
        scale = {"bias": 0.3, "embedding": 1}.get(path[-1].key, np.sqrt(a.shape[-1] / a.size))
        return jnp.asarray(rng.normal(size=a.shape) * scale, a.dtype)

    variables = jax.tree.map_with_path(leaf, shapes)
    return model, variables, given


@pytest.mark.parametrize("codebooks", [1, 2])
def test_a_frame_given_the_past_and_the_actions(codebooks):
    model, variables, (code, past, action) = prior(actions=3, codebooks=codebooks)
    log_prob = jax.jit(partial(model.apply, method="log_prob"))
    found = np.asarray(log_prob(variables, code, past, action))
    assert found.shape == (2,)
    assert found.dtype == np.float32
    # Against the logits of every code.
    log_p = np.asarray(jax.nn.log_softmax(model.apply(variables, code, past, action)), np.float64)
    chosen = np.take_along_axis(log_p, code[..., None], axis=-1)
    by_hand = chosen.sum(axis=(1, 2, 3, 4))
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)
    # Every frame of the past and every action counts, each only for its own example.
    for t in range(PAST):
        other = past.copy()
        other[0, t] = (other[0, t] + 1) % model.codes
        changed = np.asarray(log_prob(variables, code, other, action))
        assert abs(changed[0] - found[0]) > 1e-4
        assert changed[1] == found[1]
        acted = action.copy()
        acted[0, t] = (acted[0, t] + 1) % 3
        changed = np.asarray(log_prob(variables, code, past, acted))
        assert abs(changed[0] - found[0]) > 1e-4
        assert changed[1] == found[1]


def test_features_are_the_networks_of_the_past():
    model, variables, (_, past, action) = prior(actions=3)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    embedded = p["embedding"][0][past[..., 0]]  # [batch, p, height, width, 3]
    h = np.zeros((2, *GRID, 5)) + p["past_conv"]["bias"]

    def conv(x, kernel):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        parts = [
            padded[:, i : i + GRID[0], j : j + GRID[1]] @ kernel[i, j]
            for i in range(3)
            for j in range(3)
        ]
        return sum(parts)

    h += conv(np.concatenate([embedded[:, 0], embedded[:, 1]], axis=-1), p["past_conv"]["kernel"])
    acted = p["action_embedding"][action].reshape(2, -1) @ p["action_dense"]["kernel"]
    h += acted[:, None, None]
    layer = p["residual_0"]
    inside = conv(np.maximum(h, 0), layer["conv3x3"]["kernel"]) + layer["conv3x3"]["bias"]
    h += np.maximum(inside, 0) @ layer["conv1x1"]["kernel"][0, 0] + layer["conv1x1"]["bias"]
    found = model.apply(variables, past, action, method="located_features")
    np.testing.assert_allclose(found, np.maximum(h, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("actions", [0, 3])
def test_gradients_reach_everything(actions):
    model, variables, given = prior(actions=actions)
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(model.apply(v, *given, method="log_prob"))))(
        variables
    )
    assert model.conditions == (("past", "action") if actions else ("past",))
    assert ("action_dense" in variables["params"]) == (actions > 0)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(leaf != 0), path


@pytest.mark.parametrize("actions", [0, 3])
def test_draws_are_those_by_full_recomputation(actions):
    model, variables, (_, past, _) = prior(actions=actions, codes=7)
    frames, temperature, key = 3, 0.8, jax.random.key(4)
    rng = np.random.default_rng(2)
    action = rng.integers(3, size=(2, PAST + frames - 1)) if actions else None
    found = sample_frames(
        model, variables, key, past, frames=frames, action=action, temperature=temperature
    )
    assert found.shape == (2, frames, *GRID, 1)
    assert found.dtype == jnp.int32
    logits_of = jax.jit(model.apply)
    video = list(np.moveaxis(past, 1, 0))
    for t in range(frames):
        seen = np.stack(video[-PAST:], axis=1)
        acted = action[:, t : t + PAST] if actions else None
        frame = np.zeros((2, *GRID, 1), np.int32)
        for number, at in enumerate(np.ndindex(*GRID)):
            logits = logits_of(variables, frame, seen, acted)[:, at[0], at[1], 0]
            position = jax.random.fold_in(jax.random.fold_in(key, t), number)
            drawn = draw(jax.random.fold_in(position, 0), logits, temperature)
            frame[:, at[0], at[1], 0] = drawn
        video.append(frame)
    np.testing.assert_array_equal(found, np.stack(video[PAST:], axis=1))
    assert len(np.unique(found)) > 3


def test_what_does_not_fit_is_refused():
    model, variables, (code, past, action) = prior(actions=3)
    without, _, _ = prior()

    def refused(message, call):
        with pytest.raises(ValueError, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)

    def log_prob(model, *given):
        return lambda: jax.eval_shape(
            lambda: model.init(jax.random.key(0), *given, method="log_prob")
        )

    refused("prior.past_layers is -1; it must be at least 0", lambda: prior(past_layers=-1))
    refused("prior.kernel is 4; it must be odd", lambda: prior(kernel=4))
    refused(
        r"the past is int32 \(2, 2, 3, 2\); expected", log_prob(model, code, past[..., 0], action)
    )
    refused("the past is float32", log_prob(model, code, past.astype(np.float32), action))
    refused("actions=3 and actions were not given", log_prob(model, code, past))
    refused("actions=0 and actions were given", log_prob(without, code, past, action))
    refused(
        r"actions are int64 \(2, 1\)|int32 \(2, 1\)", log_prob(model, code, past, action[:, 1:])
    )
    refused(
        r"actions are \(2, 2\); expected \(2, 3\)",
        lambda: sample_frames(model, variables, jax.random.key(0), past, frames=2, action=action),
    )
    refused(
        "temperature is 0",
        lambda: sample_frames(without, variables, jax.random.key(0), past, frames=2, temperature=0),
    )
