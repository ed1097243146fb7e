"""The VQ-VAE of speech: mu-law, jitter, what its terms are, and voices drawn from codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from configs import base
from models import mu_law
from models.speech import synthesize, time_jitter, to_amplitude


def settings(**changes):
    config = base.get_config()
    base.set_speech(config, samples=64, sample_rate=8000, speakers=3, codes=8, widths=(6, 8))
    config.model.backbone.residual_layers = 1
    config.model.bottleneck.start = "data"
    config.model.speech.update({"layers": 2, "cycles": 1, "features": 4, "skip_features": 8})
    config.model.speech.update({"local_features": 5, **changes})
    return config.model.to_dict()


KEYS = {name: jax.random.key(i) for i, name in enumerate(("params", "sample", "shared"))}


@pytest.fixture(scope="module")
def made():
    model = models.build(settings())
    rng = np.random.default_rng(0)
    audio = (rng.normal(size=(2, 64)) * 3000).astype(np.int16)
    batch = {"audio": audio, "speaker": np.array([0, 2])}
    variables = dict(jax.jit(lambda b: model.init(KEYS, b, train=True))(batch))
    return model, variables, batch


def test_mu_law_against_a_loop():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-1.1, 1.1, 200), [0, 1, -1, 1e-4]])
    expected = []
    for one in x:
        one = min(max(one, -1), 1)
        f = np.sign(one) * np.log(1 + 255 * abs(one)) / np.log(256)
        expected.append(int(np.rint((f + 1) / 2 * 255)))
    level = mu_law.encode(jnp.asarray(x, jnp.float32))
    np.testing.assert_array_equal(level, expected)
    assert level.dtype == jnp.int32


def test_mu_law_there_and_back():
    level = jnp.arange(256)
    np.testing.assert_array_equal(mu_law.encode(mu_law.decode(level)), level)
    x = jnp.linspace(-1, 1, 1001)
    np.testing.assert_allclose(mu_law.expand(mu_law.compand(x)), x, atol=1e-6)
    # Half a step, 1/255 when companded, times the slope of `expand`; a little more for its bend.
    error = np.abs(mu_law.decode(mu_law.encode(x)) - x)
    assert np.all(error <= 1.03 * np.log(256) / 255 * (np.abs(x) + 1 / 255))


def test_amplitudes():
    np.testing.assert_allclose(to_amplitude(np.array([-32768, 16384], np.int16)), [-1, 0.5])
    with pytest.raises(ValueError, match="audio must be int16 or floating"):
        to_amplitude(np.zeros(3, np.int32))


def test_time_jitter():
    latent = jnp.arange(5.0)[None, :, None]
    u = jnp.array([[0.01, 0.05, 0.07, 0.5, 0.119]])
    found = time_jitter(latent, u, probability=0.12)[0, :, 0]
    np.testing.assert_array_equal(found, [0, 0, 3, 3, 4])  # the ends have one neighbour
    u = jax.random.uniform(jax.random.key(0), (1, 20000))
    latent = jnp.arange(20000.0)[None, :, None]
    moved = (time_jitter(latent, u, probability=0.12) - latent)[0, 1:-1, 0]
    for by, share in ((-1, 0.06), (0, 0.88), (1, 0.06)):
        assert abs(np.mean(moved == by) - share) < 4 * 0.5 / np.sqrt(20000)


def test_terms_are_per_example_and_in_nats(made):
    model, variables, batch = made
    losses, output = jax.jit(lambda v, b: model.apply(v, b, train=False, method="losses"))(
        variables, batch
    )
    assert {name: x.shape for name, x in losses.items()} == {
        "reconstruction": (2,),
        "commitment": (2,),
    }
    assert output.code.shape == (2, 16, 1)
    assert output.latent.shape == (2, 16, 64)
    # By parts: 64 samples, each given the codes and the speaker.
    local = model.apply(variables, output.code, method="conditioned_on")
    level = mu_law.encode(to_amplitude(batch["audio"]))
    wavenet = {"params": variables["params"]["wavenet"]}
    logits = model.wavenet.apply(wavenet, level, batch["speaker"], local)
    nats = -np.take_along_axis(jax.nn.log_softmax(logits), level[..., None], -1).sum((1, 2))
    np.testing.assert_allclose(losses["reconstruction"], nats, rtol=1e-4)
    bits = output.metrics["bits_per_sample"]
    np.testing.assert_allclose(bits, nats / 64 / np.log(2), rtol=1e-4)


def test_gradients_reach_the_encoder_through_the_codes_and_jitter(made):
    model, variables, batch = made

    def total(params):
        (losses, _), _ = model.apply(
            {**variables, "params": params},
            batch,
            train=True,
            method="losses",
            rngs=KEYS,
            mutable=["codebook", "batch_stats"],
        )
        return losses["reconstruction"].sum()

    assert model.jitter == 0.12
    gradient = jax.jit(jax.grad(total))(variables["params"])
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.all(np.isfinite(leaf)), path
        if path[0].key in ("encoder", "context"):
            assert np.any(leaf != 0), path


def test_voices_depend_on_codes_speaker_and_key_alone(made):
    model, variables, _ = made
    # At their start two speakers differ too little for any of a few draws to.
    variables = jax.tree.map(lambda x: x, variables)
    variables["params"]["wavenet"]["class_bias"] *= 40
    code = jnp.asarray(np.random.default_rng(1).integers(8, size=(2, 6, 1)), jnp.int32)
    said = [
        np.asarray(synthesize(model, variables, jax.random.key(k), code, jnp.array(s)))
        for k, s in ((0, [0, 1]), (0, [0, 2]), (1, [0, 1]))
    ]
    assert said[0].shape == (2, 24)
    assert np.abs(said[0]).max() <= 1
    np.testing.assert_array_equal(said[0][0], said[1][0])
    assert np.any(said[0][1] != said[1][1])
    assert np.any(said[0] != said[2])


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("speech", {"jitter": 2.0}, r"model.speech.jitter is 2.0; it must be in \[0, 1\]"),
        ("speech", {"name": "rnn"}, r"model.speech.name is 'rnn'; known: wavenet"),
        ("speech", {"classes": 0}, r"model.speech needs classes, the number of speakers"),
        ("speech", {"depth": 3}, r"model.speech has no option 'depth'"),
        ("backbone", {"widths": ()}, r"model.backbone.widths are \(\)"),
        ("backbone", {"name": "mlp"}, r"model.backbone.name is 'mlp'; speech has 'waveform'"),
        ("bottleneck", {"name": "gaussian"}, r"'gaussian'; speech has 'vq'"),
    ],
)
def test_settings_that_cannot_be(section, changes, message):
    wrong = settings()
    wrong[section] |= changes
    with pytest.raises(ValueError, match=message):
        models.build(wrong)


def test_samples_that_do_not_fit():
    model = models.build(settings())
    with pytest.raises(ValueError, match=r"\(2, 66, 1\); expected .* multiple of 4"):
        jax.eval_shape(
            lambda: model.init(
                KEYS, {"audio": jnp.zeros((2, 66)), "speaker": jnp.zeros(2, int)}, train=True
            )
        )
