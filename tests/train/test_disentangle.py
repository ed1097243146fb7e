"""`python -m train.disentangle`: what is measured, beside what, and what is refused."""

import functools
import json
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from ml_collections import ConfigDict

from train import disentangle
from train.data import InMemory
from train.errors import UserError
from train.metrics import disentanglement
from train.metrics.partitions import METRICS


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def few_bins(monkeypatch):
    """Trees for two values are quick to fit."""
    two = functools.partial(disentanglement.bin_factors, bins=2)
    monkeypatch.setattr(disentanglement, "bin_factors", two)


def test_a_run_on_a_game_is_measured(tiny, here, tmp_path, few_bins):
    tiny.model.image_shape = (16, 16, 1)
    tiny.model.bottleneck = ConfigDict({"name": "gaussian", "depth": 3})
    tiny.loss_weights = ConfigDict({"reconstruction": 1.0, "kl": 0.01})
    tiny.data.source = "game:breakout/1600"
    tiny.data.data_dir = str(tmp_path / "games")
    tiny.data.holdout = 0.0
    tiny.train.steps = tiny.checkpoint_every = tiny.log_every = 2
    tiny.evaluation.every = 0
    tiny.evaluation.evaluators = ("losses",)
    here(tiny, tmp_path / "run")

    found = disentangle.measure_run(str(tmp_path / "run"), samples=250, draws=3)
    assert json.loads((tmp_path / "run" / "disentanglement.json").read_text()) == found
    assert found["factors"] == ["ball_x", "ball_y", "paddle_x"]
    assert found["left_out"] == {}
    assert found["step"] == 2
    assert found["split"] == 320
    assert 250 == found["examples"] <= found["shown"] < 320
    assert (found["train"], found["test"]) == (166, 83)
    assert "partitions" not in found
    units = found["units"]
    assert set(units) == set(disentangle.COLUMNS)
    assert units["factors"]["dci_disentanglement"] > 0.9
    assert units["factors"]["dci_informativeness"] > 0.97
    assert units["factors"]["factor_vae"] > 0.9
    assert units["permuted"]["mig"] < 0.1
    assert units["permuted"]["dci_informativeness"] < 0.7
    assert units["untrained"]["dci_informativeness"] > units["permuted"]["dci_informativeness"]
    assert units["untrained"]["active_units"] == 3
    assert np.shape(found["tables"]["information"]) == (3, 3)
    text = disentangle.table(found)
    assert "250 of" in text
    assert "dci_completeness" in text


def test_partitions_are_measured_beside_random_groupings():
    factors = rng(1).integers(0, 2, (400, 2))
    codes = np.repeat(factors, 2, axis=1) + 0.4 * rng(2).normal(size=(400, 4))
    given = {"model": codes, "untrained": 1e-3 * rng(3).normal(size=(400, 4))}
    found = disentangle.compare(given, factors, sizes=(2, 2), samples=390, draws=5, seed=0)
    assert found["examples"] == 390
    grouped = found["partitions"]
    assert grouped["sizes"] == (2, 2)
    for name in METRICS:
        null = grouped["null"][name]
        assert null["value"] == grouped["model"][name]
        assert null["low"] <= null["mean"] <= null["high"]
        if name != "factor_vae":
            assert grouped["model"][name] > 2 * grouped["permuted"][name], name
            assert grouped["model"][name] > 2 * grouped["untrained"][name], name
    assert found["units"]["untrained"]["active_units"] == 4  # scaled, though it is small
    named = {"name": "x", "step": 1, "factors": ["a", "b"], "left_out": {}, "split": 1, "shown": 1}
    text = disentangle.table(found | named)
    assert "partitions 2 2" in text
    assert "random groupings" in text
    again = disentangle.compare(given, factors, sizes=(2, 2), samples=390, draws=5, seed=0)
    assert again == found


class Given(nn.Module):
    """A model whose codes are what it is shown."""

    kind: Any = jnp.float32

    def encode(self, image):
        return image

    def bottleneck(self, features, *, train):
        return SimpleNamespace(code=features.astype(self.kind))


def test_all_examples_are_encoded_in_order():
    image = rng().random((10, 2, 2, 1)).astype(np.float32)
    arrays = {"image": image, "factors": np.arange(20).reshape(10, 2)}
    encoded = disentangle.encode(Given(), {}, InMemory(arrays), None, batch_size=4)
    np.testing.assert_array_equal(encoded.codes, image.reshape(10, 4))
    np.testing.assert_array_equal(encoded.factors, arrays["factors"])
    assert encoded.shown.all()
    with pytest.raises(UserError, match="codes are int32; the metrics need units with values"):
        disentangle.encode(Given(jnp.int32), {}, InMemory(arrays), None, batch_size=4)
    del arrays["factors"]
    with pytest.raises(UserError, match="examples have image, but no known 'factors'"):
        disentangle.encode(Given(), {}, InMemory(arrays), None, batch_size=4)


def test_factors_that_tell_nothing_are_left_out():
    factors = rng().integers(0, 50, (200, 4))
    factors[:, 2] = 7
    shown = np.ones((200, 4), bool)
    shown[:50, 0] = shown[:, 3] = False
    known = disentangle.known_factors(factors, shown, ("x", "y", "same", "score"))
    assert known.names == ["x", "y"]
    assert known.left_out == {"score": "no image shows it", "same": "it does not vary"}
    np.testing.assert_array_equal(known.rows, np.arange(50, 200))
    assert known.factors.shape == (150, 2)
    assert known.factors.max() == 9
    with pytest.raises(UserError, match="of the factors x, y fewer than two vary"):
        disentangle.known_factors(factors[:, 1:3], shown[:, 1:3], ("x", "y"))
    shown[:150, 0] = True
    shown[:, 1] = ~shown[:, 0]
    shown[0, 0] = shown[0, 1] = False
    with pytest.raises(UserError, match="shown together"):
        disentangle.known_factors(factors, shown, ("x", "y", "same", "score"))
