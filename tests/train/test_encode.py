"""Codes written beside a run, the source that reads them, and priors trained on them."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import train
from configs import base
from train import encode, latents, loop, parallel, runs
from train.data import load_source
from train.data.codes import newest_checkpoint
from train.errors import UserError


def vq_config():
    """A VQ-VAE of digits with two codebooks that trains in a moment."""
    config = base.get_config()
    config.name = "vq"
    config.model.image_shape = (8, 8, 1)
    config.model.backbone = base.convnet(widths=(4,), last_width=4, residual_width=4)
    config.model.bottleneck = base.ema_codebook(codes=6, depth=2)
    config.model.bottleneck.codebooks = 2
    config.model.bottleneck.start = "data"
    config.loss_weights = ConfigDict({"reconstruction": 2 / 64, "commitment": 0.1})
    config.data.source = "digits"
    config.data.holdout = 0.2
    config.train.steps = 4
    config.evaluation.evaluators = ("losses",)
    config.checkpoint_every = 2
    return config


def prior_config(source, **sizes):
    """A PixelCNN over its codes."""
    config = base.get_config()
    config.name = "prior"
    sizes = {"layers": 1, "features": 4, "kernel": 3, "output_features": 4, **sizes}
    base.set_pixelcnn(config, code_shape=(4, 4, 2), codes=6, classes=10, **sizes)
    config.data.source = f"codes:{source}"
    config.optimizer.name = "sgd"  # Adam would divide by its own rounding
    config.optimizer.learning_rate = 0.01
    config.train.steps = 8
    config.train.batch_size = 32
    config.evaluation.every = 4
    config.log_every = 2
    config.checkpoint_every = 4
    return config


@pytest.fixture(scope="module")
def vq(tmp_path_factory):
    """The folder of a trained VQ-VAE."""
    workdir = tmp_path_factory.mktemp("vq") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.report, "finish", lambda *_: None)
        loop.train_and_evaluate(vq_config(), str(workdir))
    return str(workdir)


def test_codes_are_those_of_the_run(vq):
    encode.write_codes(vq)
    run = train.load(vq)
    for split in ("train", "test"):
        examples = latents.examples(run, split=split)
        source = load_source(prior_config(vq).data, split)
        assert len(source) == len(examples["image"])
        found = source[np.arange(len(source))]
        assert found["code"].dtype == np.int32
        np.testing.assert_array_equal(found["code"], latents.encode(run, examples["image"]))
        np.testing.assert_array_equal(found["label"], examples["label"])
    with np.load(f"{vq}/codes/test.npz") as archive:
        assert archive["code"].dtype == np.uint8
        assert tuple(archive["checkpoint"]) == newest_checkpoint(vq)


def test_codes_of_another_checkpoint_are_refused(vq, tmp_path):
    encode.write_codes(vq)
    path = runs.folder(vq) / "codes" / "test.npz"
    whole = path.read_bytes()
    with np.load(path) as archive:
        arrays = dict(archive)
    data = prior_config(vq).data
    try:
        np.savez(path, **{**arrays, "checkpoint": np.array([2, 123])})
        with pytest.raises(UserError, match=r"step 2\) than the newest .* -m train.encode --workd"):
            load_source(data, "test")
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match=r"test.npz is damaged .* -m train.encode --workdir"):
            load_source(data, "train")
    finally:
        path.write_bytes(whole)
    data.encoder_checksum = 123
    with pytest.raises(UserError, match=r"another checkpoint of .* newest, that of step 4; train"):
        load_source(data, "test")
    data.source = f"codes:{tmp_path}"
    with pytest.raises(UserError, match="not the folder of a run"):
        load_source(data, "test")


def test_a_prior_of_codes_resumes_bit_for_bit(vq, here, tmp_path, assert_same_run, monkeypatch):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    here(prior_config(vq), straight)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_evaluation", killed)  # after the last step's checkpoint
        with pytest.raises(KeyboardInterrupt):
            here(prior_config(vq), stopped)
    (stopped / "checkpoints" / "8").rename(stopped / "lost")
    here(prior_config(vq), stopped)
    assert_same_run(stopped, straight)
    assert runs.read_config(str(straight)).data.encoder_checksum == newest_checkpoint(vq).checksum

    moved = prior_config(vq)
    moved.data.encoder_checksum = 123
    with pytest.raises(UserError, match="prior over the codes of another checkpoint"):
        here(moved, straight)


def test_a_prior_trains_alike_on_one_device_and_on_four(vq, compiled_lightly):
    config = prior_config(vq)
    source = load_source(config.data, "train")
    batch = source[np.arange(32)]

    def trained(devices):
        model = runs.build_model(config, axis_name=parallel.AXIS)
        optimizer = loop.steps.make_optimizer(config.optimizer, 8)
        names = loop.steps.measured_names(model, batch, config.loss_weights)
        state = runs.make_state(config, model, optimizer, names)(jax.random.key(0), batch)
        step = jax.pmap(
            runs.make_train_step(config, model, optimizer),
            axis_name=parallel.AXIS,
            in_axes=(None, 0),
            out_axes=None,
            devices=jax.local_devices()[:devices],
        )
        shards = jax.tree.map(lambda x: x.reshape(devices, 1, -1, *x.shape[1:]), batch)
        for _ in range(2):
            state, _ = jax.block_until_ready(step(state, shards))
        return state.params

    one, four = trained(1), trained(4)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
