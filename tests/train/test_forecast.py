"""Forecasts: nothing of unseen frames gets in, rolled capsules are right where capsules roll."""

import json
import types

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import train.loop
from configs import topographic_vae_digits
from models.autoencoder import Autoencoder
from models.likelihoods import Gaussian
from models.topographic_vae import TopographicCapsules
from train import forecast, runs
from train.errors import UserError

S = D = 6
C = 2


class Given(nn.Module):
    """Posteriors whose means are the images `[frames, C, D, 1]`, of little variance."""

    encoders: int

    @nn.compact
    def __call__(self, x, *, train):
        mean = x.reshape(len(x), C * D) + 0.5
        both = jnp.stack([mean, jnp.full_like(mean, -40.0)], axis=1)
        return jnp.stack([both] * self.encoders, axis=1)


class Shown(nn.Module):
    """Images that are the capsules, as `Given` reads them."""

    @nn.compact
    def __call__(self, t, *, train):
        return t.reshape(len(t), C, D, 1) - 0.5


def run(kernel="none", frames=S, **options):
    model = Autoencoder(
        Given(1 if kernel == "none" else 2),
        TopographicCapsules(capsules=C, places=D, kernel=kernel, **options),
        Shown(),
        Gaussian(variance=1.0),
    )
    model_section = {"image_shape": (C, D, 1), "speech": {}}
    config = ConfigDict({"name": "test", "data": {"frames": frames}, "model": model_section})
    variables = {} if kernel == "none" else {"params": {"bottleneck": {"mu": jnp.float32(0.1)}}}
    return runs.Run(model, variables, config, 0)


def rolling(count=5):
    """Sequences whose images roll on by one place a frame."""
    base = np.random.default_rng(0).random((count, C, D, 1)).astype(np.float32)
    return np.stack([np.roll(base, frame, axis=2) for frame in range(S)], axis=1)


def test_capsules_that_roll_give_the_unseen_frames():
    images = rolling()
    found = forecast.forecast(run(), images[:, :4], frames=S)
    assert found.frame == 3
    np.testing.assert_allclose(found.rolled, images, atol=1e-6)
    for frame in range(S):
        np.testing.assert_allclose(found.kept[:, frame], images[:, 3], atol=1e-6)
    assert forecast.errors(found.rolled, images, seen=4).shape == (5, 2)
    assert forecast.errors(found.rolled, images, seen=4).max() < 1e-10


def test_unseen_frames_have_the_energy_of_the_prior():
    images = rolling(3)
    trained = run("shifting", window=3, spread=0)
    found = forecast.forecast(trained, images[:, :3], frames=S)
    # Frame 1 is the last whose window of frames 0 to 2 is all seen.
    assert found.frame == 1
    u2 = np.ones((3, S, C, D))
    u2[:, :3] = images[:, :3, ..., 0].astype(np.float64) ** 2
    v = sum(np.roll(u2, (-d, -d), axis=(1, 3)) for d in (-1, 0, 1))
    t = (images[:, 1, ..., 0] + 0.1) / np.sqrt(v[:, 1] + 1e-6)
    for frame in range(S):
        expected = np.clip(np.roll(t, frame - 1, axis=-1), 0, 1)
        np.testing.assert_allclose(found.rolled[:, frame, ..., 0], expected, atol=1e-5)
    # One frame only: its window has unseen ones on both sides, of energy 1.
    found = forecast.forecast(trained, images[:, :1], frames=S)
    u2[:, 1:] = 1
    v = sum(np.roll(u2, (-d, -d), axis=(1, 3)) for d in (-1, 0, 1))
    expected = np.clip((images[:, 0, ..., 0] + 0.1) / np.sqrt(v[:, 0] + 1e-6), 0, 1)
    np.testing.assert_allclose(found.rolled[:, 0, ..., 0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "seen", "frame"),
    [
        ({"kernel": "none"}, 4, 3),
        ({"kernel": "stationary", "window": 1, "width": 3}, 4, 3),
        ({"kernel": "shifting", "window": 13, "spread": 1}, 13, 6),  # the release's, L = 13/36
        ({"kernel": "shifting", "window": 5, "spread": 1}, 13, 10),
        ({"kernel": "shifting", "window": 18, "spread": 1}, 13, 12),  # all frames, whichever it is
        ({"kernel": "shifting", "window": 18, "spread": 1, "predictive": True}, 13, 12),
    ],
)
def test_which_frame_is_rolled(options, seen, frame):
    # Without parameters, for the energies need none.
    bottleneck = TopographicCapsules(capsules=1, places=18, **options).bind({"params": {"mu": 0.0}})
    assert forecast.rolled_frame(bottleneck, seen, 18) == frame


def test_rows_of_the_table():
    images = rolling()
    images = np.round(255 * images).astype(np.uint8)
    factor = np.array([0, 2, 0, 2, 2])
    rows, forecasts = forecast.compare({"model": run()}, images, factor, seen=4)
    assert forecasts["model"].frame == 3
    unit = images / 255
    copied = np.square(unit[:, 4:] - unit[:, 3:4]).mean(axis=(2, 3, 4))
    row = rows["last seen frame"]
    assert row["all"] == pytest.approx(copied.mean(), rel=1e-5)
    assert row["by_factor"] == pytest.approx([copied[factor == f].mean() for f in (0, 2)], rel=1e-5)
    assert row["by_frame"] == pytest.approx(copied.mean(axis=0).tolist(), rel=1e-5)
    mean = np.square(unit[:, 4:] - unit[:, :4].mean(axis=1, keepdims=True))
    assert rows["mean of seen"]["all"] == pytest.approx(mean.mean(), rel=1e-5)
    for name, value in row.items():
        assert rows["model kept"][name] == pytest.approx(value, rel=1e-5)
    assert rows["model rolled"]["all"] < 1e-6
    assert rows["model seen whole"]["all"] < 1e-6
    text = forecast.table(rows, ["rotation", "hue"])
    assert text.splitlines()[0].split() == ["1000", "x", "MSE", "all", "rotation", "hue"]
    assert f"{1000 * row['all']:.3f}" in text


def test_pictures_mark_what_was_not_seen(tmp_path):
    images = np.full((S, 4, 4, 1), 0.5, np.float32)
    drawn = forecast.marked(images, seen=4)
    assert drawn.shape == (S, 6, 6, 3)
    assert (drawn[:4, 0] == 255).all()
    assert (drawn[4:, :, -1] == forecast.MARK).all()
    assert (drawn[:, 1:-1, 1:-1] == 128).all()
    forecast.animate([[drawn, drawn], [drawn, drawn]], tmp_path / "p" / "a.gif", zoom=3)
    with Image.open(tmp_path / "p" / "a.gif") as picture:
        assert (picture.format, picture.size) == ("GIF", (36, 36))


def test_what_has_no_capsules_of_sequences_is_refused():
    with pytest.raises(UserError, match="test has no capsules of sequences to roll"):
        forecast.forecast(run(frames=0), rolling(), frames=S)
    with pytest.raises(ValueError, match="6 of 5 frames are seen"):
        forecast.forecast(run(), rolling(), frames=5)


def flags(**values):
    """What absl's flags look like to a command."""
    return types.SimpleNamespace(FLAGS=types.SimpleNamespace(**values))


def test_a_run_of_sequences_from_training_to_forecast(tmp_path, monkeypatch, capsys):
    config = topographic_vae_digits.get_config()
    config.model.image_shape = (8, 8, 3)
    config.model.backbone.units = 2 * 18
    config.model.bottleneck.capsules = 2
    config.data.limit = 12
    config.data.test_transformations = ("rotation+hue",)
    config.train.steps = config.log_every = config.checkpoint_every = 2
    config.evaluation.evaluators = ("losses",)
    config.evaluation.final_evaluators = ()
    config.evaluation.every = 0
    workdir = tmp_path / "run"
    train.loop.train_and_evaluate(config, str(workdir))
    values = json.loads((workdir / "evaluation.json").read_text())["values"]
    terms = values["reconstruction"] + values["kl_z"] + values["kl_u"]
    assert values["elbo"] == pytest.approx(-terms, rel=1e-5)
    loss = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[0])
    terms = loss["reconstruction"] + loss["kl_z"] + loss["kl_u"]
    assert loss["loss"] == pytest.approx(terms / 18, rel=1e-5)  # per frame
    assert (workdir / "pictures" / "reconstructions.png").stat().st_size > 0

    given = {"workdir": str(workdir), "against": str(workdir), "seen": 12}
    monkeypatch.setattr(forecast, "flags", flags(**given))
    forecast.main([])
    found = json.loads((workdir / "forecast.json").read_text())
    assert (found["seen"], found["frames"], found["sequences"]) == (12, 18, 12)
    assert found["factors"] == ["rotation+hue"]
    assert found["mse"]["model rolled"] == found["mse"]["other rolled"]
    assert len(found["mse"]["last seen frame"]["by_frame"]) == 6
    assert "the first 12 of 18 frames seen" in capsys.readouterr().out
    with Image.open(workdir / "pictures" / "forecast.gif") as picture:
        assert picture.n_frames > 1
    given["seen"] = 18
    monkeypatch.setattr(forecast, "flags", flags(**given))
    with pytest.raises(UserError, match="--seen is 18; the sequences have 18 frames"):
        forecast.main([])
