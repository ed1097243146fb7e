"""What a notebook does with a run's latents, for every bottleneck, untrained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train
from configs import topographic_vae_digits
from train import latents, runs
from train.errors import UserError

SYSTEMS = ("vae", "vq", "fsq", "capsules", "sparse", "topographic", "partition")
DISCRETE = ("vq", "fsq")
PRIORS = ("vae", "topographic", "partition")
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype(np.uint8)


@pytest.mark.parametrize("system", SYSTEMS)
def test_images_become_codes_and_codes_images(untrained, system):
    run = untrained(system)
    code = run.encode(IMAGES)
    assert code.shape == (2, *run.code_shape)
    assert np.issubdtype(code.dtype, np.integer) == (system in DISCRETE)
    decoded = run.decode(code)
    assert decoded.shape == IMAGES.shape
    wanted = run.model.apply(run.variables, IMAGES, method="reconstruct")
    np.testing.assert_allclose(decoded, np.clip(wanted, 0, 1), atol=1e-5)
    np.testing.assert_array_equal(run.reconstruct(IMAGES), decoded)


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_lies_between_two_images_and_around_one(untrained, system):
    run = untrained(system)
    made = run.reconstruct(IMAGES)
    between = run.interpolate(IMAGES[0], IMAGES[1], steps=2)
    np.testing.assert_allclose(between, made, atol=1e-5)
    code = run.encode(IMAGES)
    own = code[0].reshape(-1)[5]
    other = (own + 1) % 64 if system in DISCRETE else own + 3
    images = run.traverse(IMAGES[0], 5, [own, other])
    np.testing.assert_allclose(images[0], made[0], atol=1e-5)
    changed = code.copy()
    changed[1] = changed[0]
    place = np.unravel_index(5, run.code_shape)
    changed[(1, *place)] = other
    np.testing.assert_allclose(images, run.decode(changed), atol=1e-6)
    np.testing.assert_array_equal(images, run.traverse(IMAGES[0], place, [own, other]))


@pytest.mark.parametrize("system", PRIORS)
def test_samples_of_a_prior(untrained, system):
    run = untrained(system)
    made = run.sample(2, key=jax.random.key(0))
    assert made.shape == IMAGES.shape
    np.testing.assert_array_equal(made, run.sample(2, key=jax.random.key(0)))
    assert np.any(made != run.sample(2, key=jax.random.key(1)))


@pytest.mark.parametrize("system", DISCRETE)
def test_codes_are_drawn_as_often_as_they_occur(untrained, system):
    run = untrained(system)
    assert run.sample(2, key=jax.random.key(0)).shape == IMAGES.shape
    drawn = latents.draw_by_counts(jax.random.key(0), np.asarray([[0, 3, 1.0]]), (500, 4, 4, 1))
    # 8,000 draws: the share has a standard error of 0.005.
    assert np.mean(drawn == 1) == pytest.approx(0.75, abs=0.02)
    assert not np.any(drawn == 0)
    with pytest.raises(UserError, match=r"no counts of its codes.*'codes' in evaluation\."):
        run._replace(evaluation=None).sample(2, key=jax.random.key(0))


@pytest.mark.parametrize("system", ["capsules", "sparse"])
def test_a_code_without_a_prior_is_not_drawn(untrained, system):
    with pytest.raises(UserError, match=r"without a prior.*fit a distribution to run\.encode"):
        untrained(system).sample(2, key=jax.random.key(0))


def test_the_prior_of_capsules_is_that_of_their_gaussians(untrained):
    # With the kernel "none" t is z, standard normal.
    bottleneck = untrained("topographic").model.bottleneck.clone(kernel="none", parent=None)
    t = bottleneck.apply({}, jax.random.key(0), (200, 4, 4, 4, 4), method="draw_prior")
    assert float(jnp.std(t)) == pytest.approx(1, abs=0.02)


def test_sequences_are_handled_whole():
    config = topographic_vae_digits.get_config()
    config.model.bottleneck.update({"capsules": 1, "places": 18})
    config.model.backbone.units = 18
    config.model.data_variance = 0.1
    batch = dict(runs.example_batch(config))
    model = runs.build_model(config)
    keys = {"params": jax.random.key(0), "sample": jax.random.key(0)}
    shapes = jax.eval_shape(lambda b: model.init(keys, b, train=False), batch)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: 0.1 * rng.normal(size=x.shape).astype(np.float32), shapes)
    run = train.Run(model, variables, config, 0)
    images = rng.integers(0, 256, (2, 18, 16, 16, 3)).astype(np.uint8)
    assert run.encode(images).shape == (2, 18, 1, 18)
    assert run.sample(2, key=jax.random.key(0)).shape == images.shape
    between = run.interpolate(images[0], images[1], steps=2)
    np.testing.assert_allclose(between, run.reconstruct(images), atol=1e-5)


def test_what_does_not_fit_is_refused(untrained):
    run = untrained("vq")
    with pytest.raises(ValueError, match=r"\[8, 8, 1\]; expected \[n, 8, 8, 1\].*image\[None\]"):
        run.encode(IMAGES[0])
    with pytest.raises(ValueError, match=r"expected whole numbers \[n, 4, 4, 1\]"):
        run.decode(np.zeros((2, 4, 4, 1)))
    with pytest.raises(ValueError, match="indices are 0 to 64; there are 64 codes"):
        run.decode(np.arange(16).reshape(1, 4, 4, 1) // 15 * 64)
    with pytest.raises(ValueError, match=r"the last image is \[4, 8, 1\]"):
        run.interpolate(IMAGES[0], IMAGES[1][:4])
    with pytest.raises(ValueError, match=r"unit is 16; the code is \[4, 4, 1\]: 0 to 15"):
        run.traverse(IMAGES[0], 16, [1])
    with pytest.raises(ValueError, match="codes are whole numbers"):
        run.traverse(IMAGES[0], 0, [0.5])
    with pytest.raises(ValueError, match="n is 0"):
        run.sample(0, key=jax.random.key(0))
