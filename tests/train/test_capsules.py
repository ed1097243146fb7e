"""What units of capsules share: W by loops, correlations and classes by hand, the pictures."""

import json
import types

import jax
import numpy as np
import pytest
from PIL import Image

from configs import topographic_vae_digits, topographic_vae_torus, vae_digits
from models.topographic_vae import TopographicCapsules
from train import capsules, latents, runs
from train.errors import UserError
from train.metrics import topography

S = D = 6


def looped(rows, places, taps, *, round_rows=True):
    """W by loops over its units and taps."""
    w = np.zeros((rows, places, rows, places))
    for row, place in np.ndindex(rows, places):
        for a, e in taps:
            if round_rows or 0 <= row + a < rows:
                w[row, place, (row + a) % rows, (place + e) % places] += 1
    return w


SHIFTING = [(2 - a, 2 - e) for a in range(5) for e in range(5) if abs(a - e) <= 1]
# Only frames up to this one, and places no further on than what has rolled from there.
CAUSAL = [(-a, -e) for a in range(3) for e in range(3) if 0 <= e - a <= 1]
BOX = [(a, e) for a in (-1, 0, 1) for e in (-1, 0, 1)]


@pytest.mark.parametrize(
    ("options", "taps"),
    [
        ({"kernel": "shifting", "window": 5, "spread": 1}, SHIFTING),
        ({"kernel": "shifting", "window": 5, "spread": 1, "predictive": True}, CAUSAL),
        ({"kernel": "stationary", "window": 3, "width": 3}, BOX),
        ({"kernel": "torus", "width": 3}, BOX),
    ],
)
def test_w_is_that_of_a_loop(options, taps):
    torus, causal = options["kernel"] == "torus", options.get("predictive", False)
    bottleneck = TopographicCapsules(capsules=4, places=D, **options)
    w = topography.weights(bottleneck, 0 if torus else S)
    expected = looped(4 if torus else S, D, taps, round_rows=not causal)
    np.testing.assert_array_equal(w, expected)
    assert sorted(map(tuple, topography.taps(w))) == sorted(taps)


def test_even_windows_reach_further_ahead():
    bottleneck = TopographicCapsules(capsules=1, places=18, kernel="shifting", window=18, spread=1)
    taps = topography.taps(topography.weights(bottleneck, 18))
    assert len(taps) == 52
    assert (taps.min(), taps.max()) == (-8, 9)


def test_correlation_of_columns():
    x = np.random.default_rng(0).normal(size=(50, 3))
    columns = np.c_[x, 2 * x[:, 0] + 1e6, -x[:, 1], np.full(50, 0.1)]
    found = topography.correlation(columns.astype(np.float64))
    expected = np.corrcoef(columns[:, :5], rowvar=False)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(found[:5, :5], expected, atol=1e-9)
    assert found[0, 3] == pytest.approx(1)
    assert found[1, 4] == pytest.approx(-1)
    assert (found[5] == 0).all()
    assert (found[:, 5] == 0).all()


def test_means_by_distance():
    values = np.random.default_rng(0).normal(size=(3, 4))
    matrix = np.zeros((3, 4, 3, 4))
    for row, i, a, e in np.ndindex(3, 4, 3, 4):
        matrix[row, i, (row + a) % 3, (i + e) % 4] = values[a, e] + (-1) ** i  # which averages out
    np.testing.assert_allclose(topography.by_offset(matrix.reshape(12, 12), 3, 4), values)


def test_capsules_that_roll_are_seen_in_the_covariance():
    base = np.random.default_rng(0).normal(size=(2000, 1, 2, D))
    t = np.concatenate([np.roll(base, frame, axis=-1) for frame in range(S)], axis=1)
    matrices, values = capsules.shared(t)
    assert [len(matrix) for matrix in matrices] == [2 * D, S * D, S]
    diagonal = np.eye(S, dtype=bool)
    diagonal[0, 0] = False  # of the unit itself, drawn as 0
    np.testing.assert_allclose(matrices[2][diagonal], 1)
    assert np.abs(matrices[2][~diagonal]).max() < 0.02
    assert values["next_frame_and_place"] == pytest.approx(1)
    assert abs(values["next_frame"]) < 0.02
    # One capsule that is another's copy: of 12 x 6 pairs in two capsules 12 are 1.
    t[:, :, 1] = -t[:, :, 0]
    assert capsules.shared(t)[1]["other_capsules"] == pytest.approx(1 / 6, abs=0.02)
    # Neighbours in space alone.
    t = np.abs(base[:, 0]) + np.roll(np.abs(base[:, 0]), 1, axis=-1)
    values = capsules.shared(np.sqrt(t))[1]
    assert values["next_unit"] == pytest.approx(0.25, abs=0.03)  # 1/2 along places, 0 across


def test_d_prime_by_hand():
    t = np.array([[1.0, 5, 2], [3, 5, 2], [0, 5, 4], [0, 5, 6]])
    d = topography.selectivity(t, np.array([7, 7, 3, 3]))
    # Means 2 and 0, variances 1 and 0; nothing; means 2 and 5, variances 0 and 1.
    np.testing.assert_allclose(d[1], [2 / np.sqrt(0.5), 0, -3 / np.sqrt(0.5)])
    np.testing.assert_allclose(d[0], -d[1])
    np.testing.assert_array_equal(topography.told_classes(d), [1, -1, 0])
    d = np.array([[0.9, 0.84, 0.85], [1.0, -2.0, 0.0]])
    np.testing.assert_array_equal(topography.told_classes(d), [1, -1, 0])


def test_neighbours_on_a_torus():
    told = np.array([[0, 0, -1], [1, 0, -1], [-1, 0, 2]])
    # Across: (0,0)-(0,1) same; (1,0)-(1,1) differ; (2,1)-(2,2) differ. Down: (0,0)-(1,0) differ;
    # column 1 is 0, 0, 0 and closes: 3 the same; (2,0) tells none, (0,2) and (1,2) neither.
    assert topography.agreement(told) == pytest.approx(4 / 7)
    assert topography.agreement(np.zeros((3, 3), int)) == 1
    assert np.isnan(topography.agreement(np.where(np.eye(3), 1, -1)))


def test_a_torus_of_two_halves():
    random = np.random.default_rng(0)
    label = random.integers(2, size=300)
    t = random.normal(size=(300, 4, 6))
    t[:, :, :3] += 3 * label[:, None, None]
    t[:, :, 3:] -= 3 * label[:, None, None]
    t[17, 2, 1] = -15
    found = capsules.on_torus(t, label)
    assert (found.told == np.repeat([1, 0], 3)).all()
    assert found.best[2, 1] == 17
    # Of 24 pairs across, 16 are within a half, and all 24 down.
    assert found.agreement == pytest.approx(40 / 48)
    assert np.mean(found.in_random_order) == pytest.approx(11 / 23, abs=0.01)


# ---------------------------------------------------------------- a run


def untrained(config):
    """A run with random parameters."""
    config.model.data_variance = 0.1
    params = runs.abstract_state(config).params
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda x: random.normal(0, 0.05, x.shape).astype(x.dtype), params)
    if "bottleneck" in params:
        params["bottleneck"]["mu"] = np.float32(config.model.bottleneck.mu)
    return runs.Run(runs.build_model(config), {"params": params}, config, 0)


def digits(*row):
    config = topographic_vae_digits.get_config(*row)
    config.model.image_shape = (8, 8, 3)
    config.data.frames = S
    config.model.backbone.units = 2 * D
    config.model.bottleneck.update({"capsules": 2, "places": D, "window": 3, "spread": 0})
    config.data.limit = 100
    return config


def torus():
    config = topographic_vae_torus.get_config()
    config.model.image_shape = (8, 8, 1)
    config.data.source = "digits"
    config.data.holdout = 0.2
    config.data.train = "train"
    config.data.limit = 350
    config.model.backbone.units = 36
    config.model.bottleneck.update({"capsules": 6, "places": 6, "width": 3})
    return config


def command(run, folder, monkeypatch):
    """What `python -m train.capsules` writes of a run."""
    given = types.SimpleNamespace(FLAGS=types.SimpleNamespace(workdir=str(folder)))
    monkeypatch.setattr(capsules, "flags", given)
    monkeypatch.setattr(runs, "load", lambda _: run)
    monkeypatch.setattr(latents, "BATCH", 50)
    capsules.main([])
    drawn = {}
    for file in (folder / "pictures").iterdir():
        with Image.open(file) as picture:
            drawn[file.name] = np.asarray(picture.convert("RGB"))
            assert (drawn[file.name] != 255).any()
    return json.loads((folder / "capsules.json").read_text()), drawn


def test_sequences(tmp_path, monkeypatch, capsys):
    run = untrained(digits())
    found, drawn = command(run, tmp_path, monkeypatch)
    assert set(drawn) == {"capsule_weights.png", "capsule_covariance.png"}
    assert (found["examples"], found["taps"]) == (100, [[-1, -1], [0, 0], [1, 1]])
    assert found["mu"] == 30
    # Untrained: what W shares is there, and nothing else.
    for values in found["correlation"].values():
        assert values["next_frame_and_place"] > 0.2
        for name in ("next_frame", "next_place", "other_capsules"):
            assert abs(values[name]) < 0.06
    assert "kernel shifting: 3 taps; mu 30.00" in capsys.readouterr().out

    draws = capsules.draw(run, np.zeros((100, S, 8, 8, 3), np.uint8))
    assert draws.prior.shape == draws.posterior.shape == (100, S, 2, D)
    # Every row has noise of its own, those of the second batch too.
    for t in draws:
        assert len(np.unique(t.reshape(100, -1), axis=0)) == 100
    assert (draws.prior != draws.posterior).any(axis=(1, 2, 3)).all()


def test_a_vae_has_no_w(tmp_path, monkeypatch, capsys):
    found, drawn = command(untrained(digits("vae")), tmp_path, monkeypatch)
    assert set(drawn) == {"capsule_covariance.png"}
    assert "taps" not in found
    assert abs(found["correlation"]["prior"]["next_frame_and_place"]) < 0.06
    assert "there is no W" in capsys.readouterr().out


def test_a_torus(tmp_path, monkeypatch):
    found, drawn = command(untrained(torus()), tmp_path, monkeypatch)
    assert {name for name in drawn if name.startswith("torus")} == {
        "torus_images.png",
        "torus_classes.png",
    }
    assert len(found["taps"]) == 9
    assert found["classes"] == list("0123456789")
    assert np.shape(found["told"]) == (6, 6)
    values = found["correlation"]["prior"]
    assert values["next_unit"] > 0.3
    assert abs(values["opposite_unit"]) < 0.15
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_only_runs_with_capsules(tmp_path):
    config = vae_digits.get_config()
    run = runs.Run(runs.build_model(config), {}, config, 0)
    with pytest.raises(UserError, match="vae_digits has no capsules to look at; give it"):
        capsules.draw(run, np.zeros((2, 8, 8, 1), np.float32))
