"""E_eq and CapCorr of a model and of its controls, on capsules whose motion is known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottlenecks.equivariance import equivariance_error
from bottlenecks.topographic import shifting_energy, student_t
from models.autoencoder import Autoencoder
from models.likelihoods import Bernoulli
from models.topographic_vae import TopographicCapsules
from train.errors import UserError
from train.metrics.equivariance import equivariance_evaluator

S = D = 6
C = 4
KEY = jax.random.key(0)


class Given(nn.Module):
    """An encoder whose posteriors' means are its images `[frames, 1, C * D, 1]`."""

    units: tuple[str, ...]
    log_variance: float

    @nn.compact
    def __call__(self, x, *, train):
        mean = x.reshape(len(x), C * D)
        both = jnp.stack([mean, jnp.full_like(mean, self.log_variance)], axis=1)
        return jnp.stack([both] * len(self.units), axis=1)


class Decoder(nn.Module):
    @nn.compact
    def __call__(self, z, *, train):
        return z.reshape(len(z), 1, C * D, 1)


def model(kernel="none", log_variance=-60.0, **options):
    units = ("z",) if kernel == "none" else ("z", "u")
    bottleneck = TopographicCapsules(capsules=C, places=D, kernel=kernel, **options)
    return Autoencoder(Given(units, log_variance), bottleneck, Decoder(), Bernoulli())


def rolling(count, *, factors=1, seed=0):
    """Images of capsules that roll on with the frame, and where they start."""
    rng = np.random.default_rng(seed)
    base = rng.random((count, C, D)).astype(np.float32)
    start = rng.integers(0, D, count)
    position = ((start[:, None] + np.arange(S)) % D).astype(np.int32)
    place = (np.arange(D) - position[:, :, None, None]) % D
    image = np.take_along_axis(base[:, None], place, axis=-1)
    return {
        "image": image.reshape(count, S, 1, C * D, 1),
        "position": position,
        "factor": rng.integers(0, factors, count).astype(np.int32),
    }


def run(model, batch, *, factors=("x",), size=None, variables=None):
    """The summary over batches of `size`, the last one filled up with NaN."""
    evaluator = equivariance_evaluator(factors=factors)
    step = jax.jit(lambda b: evaluator.sums(model, variables or {}, b, KEY))
    count = len(batch["image"])
    size = size or count
    totals = {}
    for first in range(0, count, size):
        rows = {name: x[first : first + size] for name, x in batch.items()}
        pad = size - len(rows["image"])
        mask = np.r_[np.ones(size - pad), np.zeros(pad)].astype(np.float32)
        for name, x in rows.items():
            fill = np.full((pad, *x.shape[1:]), np.nan if x.dtype == np.float32 else 0, x.dtype)
            rows[name] = np.concatenate([x, fill])
        for name, value in step({**rows, "mask": mask}).items():
            totals[name] = totals.get(name, 0) + np.asarray(value, np.float64)
    return evaluator.summary(totals)


@pytest.fixture(scope="module")
def perfect():
    """A VAE whose capsules roll as the images tell them to."""
    return run(model(), rolling(64))


def test_capsules_that_follow_their_images_are_right_and_controls_tell(perfect):
    assert perfect["equivariance_error"] < 0.01
    for name in ("capcorr_x", "capcorr_moved_x", "capcorr_circular_x"):
        assert perfect[name] == pytest.approx(1, abs=1e-5)
    # A shuffled sequence does not roll by one place a frame; positions went along.
    assert perfect["equivariance_error_shuffled"] > 50
    assert perfect["capcorr_x_shuffled"] == pytest.approx(1, abs=1e-5)
    # Nothing rolls in a constant sequence, whatever its positions say.
    assert perfect["equivariance_error_constant"] > 50
    assert abs(perfect["capcorr_x_constant"]) < 0.3
    assert abs(perfect["capcorr_moved_x_prior"]) < 0.35


def test_the_prior_of_a_vae_scores_what_chance_does(perfect):
    t = np.random.default_rng(0).normal(size=(4000, S, C, D)).astype(np.float32)
    chance = float(equivariance_error(t).mean())
    assert perfect["equivariance_error_prior"] == pytest.approx(chance, rel=0.03)


def test_energies_that_count_frames_are_found_out():
    """Posteriors that are the prior: with a window of all frames their capsules roll all the same.

    Nothing of the images is in them.
    """
    batch = rolling(64)
    batch["image"] = np.full_like(batch["image"], 0.5)
    kernel = {"window": S, "spread": 0}
    found = run(
        model("shifting", log_variance=0.0, **kernel),
        batch,
        variables={"params": {"bottleneck": {"mu": jnp.float32(30)}}},
    )
    for control in ("", "_prior", "_constant"):
        assert found[f"capcorr_x{control}"] > 0.95
    assert found["capcorr_x_shuffled"] < 0.7
    # The prior is at the model's own mu.
    z, u = np.random.default_rng(0).normal(size=(2, 1000, S, C, D)).astype(np.float32)
    for mu, same in ((30, True), (0, False)):
        t = student_t(z, shifting_energy(u, **kernel), jnp.float32(mu)).latent
        expected = float(equivariance_error(t).mean())
        assert (found["equivariance_error_prior"] == pytest.approx(expected, rel=0.1)) == same


def test_any_split_into_batches_is_the_same_and_padding_does_not_count():
    batch = rolling(10, factors=2)
    names = ("equivariance_error", "capcorr_x", "capcorr_y_z", "equivariance_error_constant")
    whole = run(model(), batch, factors=("x", "y+z"))
    parts = run(model(), batch, factors=("x", "y+z"), size=4)
    for name in names:
        assert parts[name] == pytest.approx(whole[name], rel=1e-4)
    assert set(whole) == set(parts)
    assert "capcorr_y_z_prior" in whole
    sums = jax.eval_shape(lambda b: equivariance_evaluator().sums(model(), {}, b, KEY), batch)
    assert not any(name.startswith("rolls") for name in sums)


def test_what_has_no_capsules_or_no_frames_is_refused():
    image = rolling(3)["image"]
    with pytest.raises(UserError, match='"equivariance" needs capsules of sequences'):
        equivariance_evaluator().sums(model(), {}, {"image": image[:, 0]}, KEY)
