"""Codes written beside a run, the source that reads them, and priors trained on them."""

import jax
import numpy as np
import pytest

import train
from train import encode, latents, loop, parallel, runs
from train.data import load_source
from train.data.codes import newest_checkpoint
from train.errors import UserError


def test_codes_are_those_of_the_run(vq_run, prior_config_of):
    encode.write_codes(vq_run)
    run = train.load(vq_run)
    for split in ("train", "test"):
        examples = latents.examples(run, split=split)
        source = load_source(prior_config_of(vq_run).data, split)
        assert len(source) == len(examples["image"])
        found = source[np.arange(len(source))]
        assert found["code"].dtype == np.int32
        np.testing.assert_array_equal(found["code"], latents.encode(run, examples["image"]))
        np.testing.assert_array_equal(found["label"], examples["label"])
    with np.load(f"{vq_run}/codes/test.npz") as archive:
        assert archive["code"].dtype == np.uint8
        assert tuple(archive["checkpoint"]) == newest_checkpoint(vq_run)


def test_codes_of_another_checkpoint_are_refused(vq_run, prior_config_of, tmp_path):
    encode.write_codes(vq_run)
    path = runs.folder(vq_run) / "codes" / "test.npz"
    whole = path.read_bytes()
    with np.load(path) as archive:
        arrays = dict(archive)
    data = prior_config_of(vq_run).data
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


def test_a_prior_of_codes_resumes_bit_for_bit(
    vq_run, prior_config_of, here, tmp_path, assert_same_run, monkeypatch
):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    here(prior_config_of(vq_run), straight)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_evaluation", killed)  # after the last step's checkpoint
        with pytest.raises(KeyboardInterrupt):
            here(prior_config_of(vq_run), stopped)
    (stopped / "checkpoints" / "8").rename(stopped / "lost")
    here(prior_config_of(vq_run), stopped)
    assert_same_run(stopped, straight)
    assert (
        runs.read_config(str(straight)).data.encoder_checksum == newest_checkpoint(vq_run).checksum
    )

    moved = prior_config_of(vq_run)
    moved.data.encoder_checksum = 123
    with pytest.raises(UserError, match="prior over the codes of another checkpoint"):
        here(moved, straight)


def test_a_prior_trains_alike_on_one_device_and_on_four(vq_run, prior_config_of):
    config = prior_config_of(vq_run)
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
