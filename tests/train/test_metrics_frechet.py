"""The Frechet distance: analytic cases, SciPy's root, and sums that do not care for batches."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from models import inception
from train import parallel, steps
from train.errors import UserError
from train.metrics import build_evaluators
from train.metrics.frechet import frechet_distance, frechet_evaluator, random_features


def gaussian(rng, d, rows=None):
    root = rng.normal(size=(rows or 2 * d, d))
    return rng.normal(size=d), root.T @ root / d


def test_equal_covariances_leave_the_distance_of_the_means():
    rng = np.random.default_rng(0)
    (m1, C), (m2, _) = gaussian(rng, 7), gaussian(rng, 7)
    assert frechet_distance(m1, C, m2, C) == pytest.approx(((m1 - m2) ** 2).sum(), rel=1e-9)
    assert frechet_distance(m1, C, m1, C) == pytest.approx(0, abs=1e-9)


def test_covariances_that_commute():
    rng = np.random.default_rng(1)
    s1, s2 = rng.uniform(0, 3, size=(2, 7))
    s2[3] = 0
    m1, m2 = rng.normal(size=(2, 7))
    expected = ((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum()
    rotation = np.linalg.qr(rng.normal(size=(7, 7)))[0]
    C1, C2 = ((rotation * s**2) @ rotation.T for s in (s1, s2))
    assert frechet_distance(m1, C1, m2, C2) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rows", [20, 5], ids=["full", "singular"])
def test_agrees_with_the_root_of_a_matrix(rows):
    rng = np.random.default_rng(2)
    (m1, C1), (m2, C2) = gaussian(rng, 8, rows), gaussian(rng, 8)
    root = np.real(scipy.linalg.sqrtm(C1 @ C2))
    expected = ((m1 - m2) ** 2).sum() + np.trace(C1 + C2 - 2 * root)
    assert frechet_distance(m1, C1, m2, C2) == pytest.approx(expected, rel=1e-6)
    back = frechet_distance(m2, C2, m1, C1)
    assert back == pytest.approx(expected, rel=1e-6)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"got \(3,\), \(3, 3\), \(3,\), \(3, 2\)"):
        frechet_distance(np.zeros(3), np.eye(3), np.zeros(3), np.zeros((3, 2)))


def blur(variables, batch, **_):
    """A model that mixes each image with its neighbours, and is sure of what it sees."""
    image = batch["image"]
    return types.SimpleNamespace(reconstruction=0.6 * image + 0.6 * jnp.roll(image, 1, axis=-2))


MODEL = types.SimpleNamespace(apply=blur)


def images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=(*shape, 8, 8, 1)).astype(np.float32)


def by_hand(x):
    """The distance from all features at once, in float64, from the eigenvalues of C_1 C_2."""
    again = np.clip(0.6 * x + 0.6 * np.roll(x, 1, axis=-2), 0, 1)
    f, g = (np.asarray(random_features(a), np.float64) for a in (x, again))
    C1, C2 = np.cov(f.T), np.cov(g.T)  # singular: some features are always 0
    roots = np.sqrt(np.maximum(np.real(np.linalg.eigvals(C1 @ C2)), 0))
    return ((f.mean(0) - g.mean(0)) ** 2).sum() + np.trace(C1 + C2) - 2 * roots.sum()


def added(*parts):
    return jax.tree.map(lambda *a: np.sum(np.float64(a), axis=0), *parts)


def test_exact_over_uneven_batches_and_devices():
    x, evaluators = images(90), build_evaluators(["frechet"])
    step = parallel.mapped(steps.make_sums_step(MODEL, evaluators))
    totals = []
    for first, size in ((0, 48), (48, 42)):
        batch = np.full((48, 8, 8, 1), np.nan, np.float32)  # padding stays out
        batch[:size] = x[first : first + size]
        given = {"image": batch, "mask": (np.arange(48) < size).astype(np.float32)}
        totals.append(jax.device_get(step(({}, jax.random.key(0)), parallel.shard(given))))
    evaluator = evaluators["frechet"]
    found = evaluator.summary(added(*(t["frechet"] for t in totals)))
    assert set(found) == {"frechet_random_features"}
    whole = evaluator.sums(MODEL, {}, {"image": jnp.asarray(x)}, jax.random.key(0))
    at_once = evaluator.summary(added(whole))
    np.testing.assert_allclose(
        found["frechet_random_features"], at_once["frechet_random_features"], rtol=1e-4
    )
    np.testing.assert_allclose(found["frechet_random_features"], by_hand(x), rtol=1e-3)


def test_frames_of_sequences_count_one_by_one():
    x, evaluator = images(6, 5), frechet_evaluator()
    mask = np.ones(6, np.float32)
    mask[4] = 0
    batch = {"image": jnp.asarray(x), "mask": jnp.asarray(mask)}
    totals = evaluator.sums(MODEL, {}, batch, jax.random.key(0))
    assert int(totals["count"]) == 25
    kept = np.delete(x, 4, axis=0).reshape(25, 8, 8, 1)
    found = evaluator.summary(added(totals))["frechet_random_features"]
    np.testing.assert_allclose(found, by_hand(kept), rtol=1e-3)


def test_an_exact_copy_is_at_0_and_one_image_is_too_few():
    copy = types.SimpleNamespace(
        apply=lambda _, batch, **__: types.SimpleNamespace(reconstruction=batch["image"])
    )
    evaluator = frechet_evaluator()
    batch = {"image": jnp.asarray(images(20))}
    totals = added(evaluator.sums(copy, {}, batch, jax.random.key(0)))
    # Rounding: means and traces near 1 cancel.
    assert evaluator.summary(totals)["frechet_random_features"] < 1e-5
    with pytest.raises(UserError, match="needs two images or more, found 1"):
        evaluator.summary({**totals, "count": 1.0})


def test_the_network_is_always_the_same():
    # By hand: the first image's first feature through three layers, in float64.
    x = images(2)
    h, rng = 2 * np.float64(x) - 1, np.random.default_rng(0)
    for width in (32, 64, 64):
        kernel = rng.normal(size=(3, 3, h.shape[-1], width))
        kernel *= np.sqrt(2 / (9 * h.shape[-1]))
        padded = np.pad(h, ((0, 0), (0, 1), (0, 1), (0, 0)))  # as "SAME" pads an even side
        side = (h.shape[1] + 1) // 2
        if h.shape[1] == 1:
            padded = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
        h = np.stack(
            [
                [
                    np.tensordot(padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3], kernel, 3)
                    for j in range(side)
                ]
                for i in range(side)
            ]
        ).transpose(2, 0, 1, 3)
        h = np.maximum(h, 0)
    np.testing.assert_allclose(random_features(x), h.mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_with_inceptions_weights_it_is_an_rfid(tmp_path, monkeypatch):
    monkeypatch.setattr(inception, "SIDE", 5)
    monkeypatch.setattr(inception, "STEM", (inception.Conv("stem", 4, (3, 3)),))
    monkeypatch.setattr(inception, "BLOCKS", {})
    rng = np.random.default_rng(0)
    arrays = {f"stem.bn.{k}": np.ones(4) for k in ("weight", "bias", "running_mean", "running_var")}
    path = tmp_path / "inception.npz"
    np.savez(path, **arrays, **{"stem.conv.weight": rng.normal(size=(4, 3, 3, 3))})
    evaluator = build_evaluators(["frechet"], inception=str(path))["frechet"]
    totals = evaluator.sums(MODEL, {}, {"image": jnp.asarray(images(9))}, jax.random.key(0))
    assert totals["image_products"].shape == (4, 4)
    assert evaluator.summary(added(totals))["rfid"] > 0
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(UserError, match=r"other\.npz does not hold FID's Inception-v3: .* lack"):
        build_evaluators(["frechet"], inception=str(tmp_path / "other.npz"))
