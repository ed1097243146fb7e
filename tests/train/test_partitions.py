"""What partitions do to images: the latents that are decoded, the measures, the pictures."""

import jax
import numpy as np
import pytest
from PIL import Image

from configs import partition_vae_digits, vae_digits
from train import partition_pictures, partitions, runs
from train.errors import UserError

SIZES = (2, 1)


def linear_latents(images=30, seed=0):
    """Partition 0 moves pixel 0 by its units' sum, partition 1 moves pixels 1 and 2."""
    rng = np.random.default_rng(seed)
    to_pixels = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 3, -3, 0]], np.float32)

    def decode(z):
        return (z @ to_pixels).reshape(-1, 2, 2, 1)

    mean = rng.normal(size=(images, 3)).astype(np.float32)
    return partitions.Latents(mean, np.full_like(mean, -60), decode, None, SIZES)


# ---------------------------------------------------------------- latents


def test_one_partition_is_scaled_or_swapped_and_the_others_are_held():
    z, other = np.array([1, 2, 3], np.float32), np.array([-1, -2, -3], np.float32)
    found = partitions.scaled(z, SIZES)
    assert found.shape == (2, len(partitions.FACTORS), 3)
    for j, factor in enumerate(partitions.FACTORS):
        np.testing.assert_allclose(found[0, j], [factor, 2 * factor, 3])
        np.testing.assert_allclose(found[1, j], [1, 2, 3 * factor])
    np.testing.assert_array_equal(partitions.swapped(z, other, SIZES), [[-1, -2, 3], [1, 2, -3]])


def test_traversals_follow_the_principal_axis():
    rng = np.random.default_rng(0)
    along = rng.normal(size=1000)
    means = np.stack([3 * along + 1, 4 * along - 1, rng.normal(size=1000)], 1)
    at = np.array([10, 20, 30], np.float32)
    found = partitions.traversed(at, means, SIZES)
    np.testing.assert_array_equal(found[0, :, 2], 30)
    np.testing.assert_array_equal(found[1, :, :2], np.tile([10, 20], (7, 1)))
    centre, deviation = means.mean(0), means.std(0)
    middle = partitions.DEVIATIONS.index(0)
    np.testing.assert_allclose(found[0, middle, :2], centre[:2], rtol=1e-5)
    step = np.abs(found[0, -1] - found[0, middle])[:2] / 3
    np.testing.assert_allclose(step, deviation[:2], rtol=1e-4)  # of one sign, as they vary
    assert np.sign(np.diff(found[0, :, 0])).tolist() == np.sign(np.diff(found[0, :, 1])).tolist()
    np.testing.assert_allclose(np.abs(found[1, 0, 2] - centre[2]), 3 * deviation[2], rtol=1e-4)


def test_drawn_anew_is_a_draw_for_another_image():
    latents = linear_latents()._replace(log_variance=np.full((30, 3), 2 * np.log(0.1)))
    units = np.array([True, True, False])
    found = partitions.drawn_anew(latents, units, 0)
    np.testing.assert_array_equal(found[:, 2], latents.mean[:, 2])
    away = (found - np.roll(latents.mean, 1, axis=0))[:, :2] / 0.1
    assert 0.7 < away.std() < 1.3
    assert np.abs(away).max() < 5


# ---------------------------------------------------------------- measures


def test_effects_are_where_a_partition_acts():
    latents = linear_latents()
    mean, other = latents.mean, np.roll(latents.mean, 1, axis=0)
    moved = np.abs((other - mean)[:, :2].sum(1)).mean()
    maps = partitions.effect_maps(latents)
    np.testing.assert_allclose(maps[0].ravel(), [moved, 0, 0, 0], rtol=1e-5)
    moved = 3 * np.abs((other - mean)[:, 2]).mean()
    np.testing.assert_allclose(maps[1].ravel(), [0, moved, moved, 0], rtol=1e-5)
    # Of three units, a random group of one is each of them a third of the time.
    null = partitions.null_effects(latents)
    assert null.shape == (partitions.GROUPS, 2)
    one = [np.abs((other - mean)[:, u]).mean() / 4 * (1, 1, 6)[u] for u in range(3)]
    chosen = np.argmin(np.abs(null[:, 1:] - one), axis=1)
    np.testing.assert_allclose(null[:, 1], np.asarray(one)[chosen], rtol=1e-5)
    assert np.bincount(chosen, minlength=3).min() > 15


# ---------------------------------------------------------------- a run


def untrained():
    """A run of the digits' config with an additive decoder and its first parameters."""
    config = partition_vae_digits.get_config()
    config.model.data_variance = 0.14
    config.model.backbone.update({"partitions": (4, 3, 3), "decoder_convs": ()})
    model = runs.build_model(config)
    batch = {"image": np.zeros((2, 8, 8, 1), np.float32)}
    keys = {"params": jax.random.key(0), "sample": jax.random.key(1)}
    variables = jax.jit(lambda b: model.init(keys, b, train=True))(batch)
    return runs.Run(model, variables, config, 0)


def test_pictures_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(partitions, "GROUPS", 3)
    run = untrained()
    latents = partitions.encode(run)
    assert latents.mean.shape == latents.log_variance.shape == (partitions.IMAGES, 10)
    z = latents.mean[:3]
    # What the partitions add to the mean image makes up the images.
    images = latents.decode(z)
    added = latents.decode_parts(z) - images.mean(0)
    np.testing.assert_allclose(added.sum(1), images - images.mean(0), atol=1e-5)
    kl, effect, null, drawn = partitions.draw(tmp_path / "pictures", latents, title="digits")
    assert kl.shape == effect.shape == (3,)
    assert null.shape == (3, 3)
    assert (effect > 0).all()
    log_variance = np.float64(latents.log_variance)
    per_unit = 0.5 * (np.float64(latents.mean) ** 2 + np.exp(log_variance) - 1 - log_variance)
    parts = np.split(per_unit.mean(0), (4, 7))
    np.testing.assert_allclose(kl, [part.sum() for part in parts], rtol=1e-4)
    names = ("effects", "kl", "parts", "scaling", "swaps", "traversals")
    assert [file.name for file in drawn] == [f"partition_{name}.png" for name in names]
    for file in drawn:
        with Image.open(file) as picture:
            assert (np.asarray(picture.convert("RGB")) != 255).any()


def test_only_runs_with_partitions():
    config = vae_digits.get_config()
    run = runs.Run(runs.build_model(config), {}, config, 0)
    with pytest.raises(UserError, match="GaussianBottleneck, which has no partitions; take a run"):
        partitions.encode(run)


# ---------------------------------------------------------------- pictures


def test_strips_are_labelled_images_in_rows(tmp_path):
    image = np.broadcast_to(np.arange(6).reshape(2, 3, 1, 1, 1) / 6, (2, 3, 8, 8, 1))
    path = tmp_path / "a.png"
    partition_pictures.strips(image, path, rows=("p", "q"), columns=("a", "b", "c"))
    with Image.open(path) as picture:
        shown = np.asarray(picture.convert("RGB"))[..., 0]
    top, left = 10 + 18 + 36, 96 + 36
    found = [[shown[top + 76 * row, left + 76 * column] for column in range(3)] for row in range(2)]
    np.testing.assert_array_equal(found, np.round(255 * np.arange(6).reshape(2, 3) / 6))
    with pytest.raises(ValueError, match="a label for each row and column"):
        partition_pictures.strips(image, path, rows=("p",), columns=("a", "b", "c"))


def test_effect_maps_share_their_scale(tmp_path):
    maps = np.stack([np.full((8, 8, 3), 0.001), np.full((8, 8, 3), 0.002)])
    path = tmp_path / "a.png"
    partition_pictures.effect_maps(maps, path, columns=("0", "1"))
    with Image.open(path) as picture:
        shown = np.asarray(picture.convert("RGB"))[..., 0]
    assert [shown[64, 132], shown[64, 208]] == [128, 255]
    partition_pictures.effect_maps(0 * maps, path, columns=("0", "1"))


def test_effects_beside_random_groups(tmp_path):
    path = tmp_path / "a.png"
    partition_pictures.effects(np.ones(2), np.ones(2), np.ones((5, 2)), path, sizes=(3, 2))
    with Image.open(path) as picture:
        assert (np.asarray(picture.convert("RGB")) != 255).any()
    with pytest.raises(ValueError, match=r"null \[2, 5\] for 2 partitions"):
        partition_pictures.effects(np.ones(2), np.ones(2), np.ones((2, 5)), path, sizes=(3, 2))
