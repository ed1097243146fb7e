"""The contract all systems share: frames, sequences, masks, per-example terms; and learning."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import models
from models.autoencoder import Autoencoder, BottleneckOutput
from models.backbones import build_backbone
from models.likelihoods import Gaussian

VQ = {"name": "vq", "codes": 16, "depth": 4, "start": "uniform"}
GAUSSIAN = {"name": "gaussian", "depth": 6}


def settings(bottleneck, **changes):
    return {
        "image_shape": (8, 8, 1),
        "backbone": {
            "name": "convnet",
            "widths": (8,),
            "last_width": 8,
            "residual_layers": 1,
            "residual_width": 8,
        },
        "bottleneck": bottleneck,
        "likelihood": {"name": "gaussian"},
        "data_variance": 0.25,
        "dtype": "float32",
        "remat": False,
    } | changes


def images(*lead, seed=0, shape=(8, 8, 1)):
    return np.random.default_rng(seed).random((*lead, *shape), np.float32)


def keys(seed=0):
    return {n: jax.random.key(seed + i) for i, n in enumerate(("params", "sample", "shared"))}


def start(model, batch):
    return dict(jax.jit(lambda b: model.init(keys(), b, train=True))(batch))


def evaluate(model, variables, batch):
    return jax.jit(lambda v, b: model.apply(v, b, train=False))(variables, batch)


class Centred(nn.Module):
    """Couples time: what the decoder reads is a frame's features less their mean over time."""

    @nn.compact
    def __call__(self, features, *, train, mask=None):
        latent = features - features.mean(axis=1, keepdims=True)
        length = jnp.full(features.shape[:1], features.shape[1])
        seen = jnp.ones(length.shape) if mask is None else mask
        losses = {"energy": jnp.square(latent).sum((1, 2))}
        return BottleneckOutput(latent, latent, losses, {"length": length, "seen": seen})


class Frames(nn.Module):
    """Notes the shapes it is called with, then a dense layer over each frame."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x, *, train):
        self.sow("seen", "shape", x.shape)
        y = nn.Dense(int(np.prod(self.shape)))(x.reshape(x.shape[0], -1))
        return y.reshape(-1, *self.shape)


def light(bottleneck):
    """A model with 4 x 4 positions that compiles in no time."""
    options = {name: value for name, value in bottleneck.items() if name != "name"}
    module = models.BOTTLENECKS[bottleneck["name"]](**options)
    likelihood = Gaussian(variance=0.25)
    return Autoencoder(Frames((4, 4, 5)), module, Frames((8, 8, 1)), likelihood, data_variance=0.25)


def coupled(frame=(8, 8, 1), **options):
    return Autoencoder(Frames((5,)), Centred(), Frames(frame), Gaussian(variance=0.1), **options)


@pytest.mark.parametrize(
    ("bottleneck", "dtype"), [(VQ, np.uint8), (GAUSSIAN, np.float32)], ids=["vq", "gaussian"]
)
def test_shapes_and_per_example_terms(bottleneck, dtype):
    model = models.build(settings(bottleneck))
    image = images(5) if dtype == np.float32 else (images(5) * 255).astype(np.uint8)
    variables = start(model, {"image": image})
    losses, output = jax.jit(
        lambda v, b: model.apply(v, b, train=False, method="losses", rngs=keys())
    )(variables, {"image": image})
    assert output.reconstruction.shape == output.output.shape == image.shape
    assert output.latent.shape[:3] == output.code.shape[:3] == (5, 4, 4)
    terms = {"vq": {"commitment"}, "gaussian": {"kl"}}[bottleneck["name"]]
    assert set(losses) == terms | {"reconstruction"}
    for value in (*losses.values(), *output.metrics.values()):
        assert value.shape == (5,)
        assert value.dtype == jnp.float32
    unit = image / np.float32(255) if dtype == np.uint8 else image
    mse = np.square(np.asarray(output.reconstruction) - unit).mean((1, 2, 3))
    np.testing.assert_allclose(output.metrics["mse"], mse, rtol=1e-5)
    np.testing.assert_allclose(output.metrics["nmse"], mse / 0.25, rtol=1e-5)
    # Nats of 64 pixels under a Gaussian of the data's variance.
    nats = 64 * 0.5 * (mse / 0.25 + np.log(2 * np.pi * 0.25))
    np.testing.assert_allclose(losses["reconstruction"], nats, rtol=1e-5)


@pytest.mark.parametrize("bottleneck", [VQ, GAUSSIAN], ids=["vq", "gaussian"])
def test_the_parts_give_what_the_whole_gives(bottleneck):
    model = light(bottleneck)
    image = images(3)
    variables = start(model, {"image": image})
    whole = evaluate(model, variables, {"image": image})
    features = model.apply(variables, image, method="encode")
    squeezed = model.apply(
        variables, features, method=lambda m, x: m.bottleneck(x, train=False, mask=None)
    )
    np.testing.assert_allclose(whole.latent, squeezed.latent, rtol=1e-6)
    output = model.apply(variables, squeezed.latent, method="decode")
    np.testing.assert_allclose(whole.output, output, rtol=1e-5, atol=1e-6)
    again = model.apply(variables, image, method="reconstruct")
    np.testing.assert_array_equal(again, whole.reconstruction)


@pytest.mark.parametrize("bottleneck", [VQ, GAUSSIAN], ids=["vq", "gaussian"])
def test_an_image_is_evaluated_alike_in_any_company(bottleneck):
    model = light(bottleneck)
    image, others = images(6), images(6, seed=1)
    variables = start(model, {"image": image})

    @jax.jit
    def evaluate(image, mask):
        batch = {"image": image, "mask": mask}
        losses, output = model.apply(
            variables, batch, train=False, method="losses", rngs={"sample": jax.random.key(3)}
        )
        return losses, output.reconstruction, output.code, output.metrics

    mixed = np.where(np.arange(6)[:, None, None, None] < 2, image, others)
    broken = np.where(np.arange(6)[:, None, None, None] < 2, image, np.nan)
    mask = np.ones(6, np.float32)
    alone = evaluate(image, mask)
    for company, weights in ((mixed, mask), (broken, (np.arange(6) < 2).astype(np.float32))):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a[:2], b[:2], rtol=1e-5, atol=1e-6),
            alone,
            evaluate(company, weights),
        )


def test_a_sequence_is_folded_for_frames_and_whole_for_the_bottleneck():
    model = coupled()
    video = images(2, 3)
    mask = np.array([1, 0], np.float32)
    batch = {"image": video, "mask": mask}
    variables = start(model, batch)
    params = {"params": variables["params"]}
    (losses, output), seen = model.apply(
        params, batch, train=False, method="losses", mutable=["seen"]
    )
    assert seen["seen"]["encoder"]["shape"] == ((6, 8, 8, 1),)
    assert seen["seen"]["decoder"]["shape"] == ((6, 5),)
    np.testing.assert_array_equal(output.metrics["length"], [3, 3])
    np.testing.assert_array_equal(output.metrics["seen"], mask)
    assert output.latent.shape == (2, 3, 5)
    assert output.reconstruction.shape == video.shape
    assert losses["reconstruction"].shape == losses["energy"].shape == (2,)
    # The frames of a sequence meet in the bottleneck, those of two sequences do not.
    features = model.apply(params, video, method="encode")
    assert features.shape == (2, 3, 5)
    for n in range(2):
        frames = model.apply(params, video[n], method="encode")
        np.testing.assert_allclose(features[n], frames, rtol=1e-6)
        np.testing.assert_allclose(output.latent[n], frames - frames.mean(0), atol=1e-6)
    decoded = model.apply(params, output.latent.reshape(6, 5), method="decode")
    together = model.apply(params, output.latent, lead=2, method="decode")
    np.testing.assert_allclose(together.reshape(6, 8, 8, 1), decoded, rtol=1e-6)
    np.testing.assert_array_equal(together, output.output)


@pytest.mark.parametrize("bottleneck", [VQ, GAUSSIAN], ids=["vq", "gaussian"])
def test_a_bottleneck_without_time_sees_a_sequence_as_its_frames(bottleneck):
    model = light(bottleneck)
    video = images(2, 3)
    variables = start(model, {"image": video[0]})
    output = evaluate(model, variables, {"image": video})
    frames = evaluate(model, variables, {"image": video.reshape(6, 8, 8, 1)})
    np.testing.assert_allclose(
        output.reconstruction, frames.reconstruction.reshape(video.shape), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(output.code, frames.code.reshape(output.code.shape))
    nats = frames.losses["reconstruction"].reshape(2, 3).sum(1)
    np.testing.assert_allclose(output.losses["reconstruction"], nats, rtol=1e-5)
    reduce = jnp.mean if bottleneck["name"] == "vq" else jnp.sum  # over latents, over units
    (name,) = set(output.losses) - {"reconstruction"}
    expected = reduce(frames.losses[name].reshape(2, 3), axis=1)
    np.testing.assert_allclose(output.losses[name], expected, rtol=1e-5)


def test_frames_of_another_rank_and_another_entry():
    sound = images(2, 3, shape=(10, 1))  # [batch, time, samples, channels]
    model = coupled((10, 1), frame_rank=2, key="sound")
    batch = {"sound": sound, "image": np.zeros(1)}
    variables = start(model, batch)
    output, seen = model.apply(
        {"params": variables["params"]}, batch, train=False, mutable=["seen"]
    )
    assert seen["seen"]["encoder"]["shape"] == ((6, 10, 1),)
    assert output.reconstruction.shape == sound.shape
    again = model.apply({"params": variables["params"]}, sound, method="reconstruct")
    np.testing.assert_array_equal(again, output.reconstruction)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": (8, 8)}, r"\(8, 8\); it must be \(height, width, channels\)"),
        ({"dtype": "float16"}, "known: float32, bfloat16"),
        ({"bottleneck": {"codes": 3}}, "model.bottleneck has no 'name'"),
        ({"bottleneck": {**VQ, "codes": True}}, "codes is True; it must be a whole number"),
        ({"bottleneck": {**VQ, "decay": "0.9"}}, "decay is '0.9'; it must be a finite number"),
        ({"bottleneck": {"name": "vq", "codes": 3}}, "needs the option 'depth'"),
        ({"bottleneck": {**VQ, "axis_name": "x"}}, "no option 'axis_name'"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        models.build(settings(VQ) | changes)


# ---------------------------------------------------------------- learning


@pytest.fixture(scope="module")
def digits():
    """Real digits, 1500 to train on, 297 to test on."""
    order = np.random.default_rng(0).permutation(1797)
    image = (load_digits().images[order, ..., None] / 16).astype(np.float32)
    return image[:1500], image[1500:]


def learn(model, weights, train, *, steps):
    """Plain Adam on one device."""
    variables = start(model, {"image": train[:256]})
    params = variables.pop("params")
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, collections, memory, image, key):
        rngs = dict(zip(("sample", "shared"), jax.random.split(key), strict=True))

        def loss(params):
            (losses, _), new = model.apply(
                {"params": params, **collections},
                {"image": image},
                train=True,
                method="losses",
                rngs=rngs,
                mutable=list(collections),
            )
            return sum(weights[name] * losses[name].mean() for name in losses), new

        gradients, new = jax.grad(loss, has_aux=True)(params)
        updates, memory = optimizer.update(gradients, memory)
        return optax.apply_updates(params, updates), {**collections, **new}, memory

    memory, random = optimizer.init(params), np.random.default_rng(1)
    for i in range(steps):
        rows = random.integers(0, len(train), 64)
        params, variables, memory = step(
            params, variables, memory, train[rows], jax.random.key(10 + i)
        )
    return {"params": params, **variables}


def test_a_small_vqvae_learns_digits(digits):
    train, test = digits
    model = models.build(
        settings(
            {"name": "vq", "codes": 32, "depth": 8, "start": "data", "revive_below": 0.1},
            data_variance=0.1413,
        )
    )
    weights = {"reconstruction": 2 / 64, "commitment": 0.25 / 8}
    variables = learn(model, weights, train, steps=250)
    output = evaluate(model, variables, {"image": test})
    error = float(output.metrics["mse"].mean())
    baseline = float(np.square(test - train.mean(0)).mean())
    assert baseline == pytest.approx(0.073, abs=0.005)  # the mean training image
    assert error < 0.4 * baseline
    assert len(np.unique(output.code)) > 16


def test_a_small_vae_learns_digits(digits):
    train, test = digits
    encoder, decoder = build_backbone("mlp", output_shape=(8, 8, 1), widths=(64,))
    likelihood = Gaussian(variance=0.02)
    model = Autoencoder(encoder, models.GaussianBottleneck(depth=8), decoder, likelihood)
    variables = learn(model, {"reconstruction": 1, "kl": 1}, train, steps=300)
    losses, _ = model.apply(
        variables, {"image": test}, train=False, method="losses", rngs={"sample": jax.random.key(2)}
    )
    elbo = -float((losses["reconstruction"] + losses["kl"]).mean())
    # The mean training image under the same likelihood, in nats.
    mean = train.mean(0, keepdims=True)
    baseline = -float(likelihood.nats(mean - 0.5, test).sum((1, 2, 3)).mean())
    assert baseline == pytest.approx(-50, abs=8)
    assert elbo > baseline + 40
    assert 2 < float(losses["kl"].mean()) < 40
