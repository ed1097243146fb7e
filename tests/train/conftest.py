"""A run that takes seconds: its config, the command that trains it, and what it must leave."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict
from PIL import Image
from scipy.io import savemat

import train.loop
from configs import base, compare_digits, priors
from train import runs, steps
from train.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]

# Evaluations fall on steps with and without a checkpoint, and every one after a logged line.
TINY = """
from ml_collections import ConfigDict

from configs import base


def get_config():
    config = base.get_config()
    config.name = "tiny"
    config.model.image_shape = (8, 8, 1)
    config.model.backbone = ConfigDict({"name": "mlp", "widths": (16,), "activation": "tanh"})
    config.model.bottleneck = base.ema_codebook(codes=8, depth=4)
    config.model.bottleneck.codebooks = 4
    config.model.bottleneck.start = "data"  # k-means takes longer to compile
    config.model.bottleneck.decay = 0.9
    config.model.bottleneck.revive_below = 0.5
    config.loss_weights = ConfigDict({"reconstruction": 2 / 64, "commitment": 0.25 / 16})
    config.data.source = "digits"
    config.data.holdout = 0.2
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.train.steps = 12
    config.train.batch_size = 32
    config.evaluation.batch_size = 128
    config.evaluation.evaluators = ("losses", "codes")
    config.evaluation.every = 6
    config.log_every = 3
    config.checkpoint_every = 4
    return config
"""


@pytest.fixture
def tiny():
    """A fresh tiny config, to change and to train in this process."""
    names = {}
    exec(TINY, names)
    return names["get_config"]()


@pytest.fixture
def compiled_once(tmp_path):
    """Starts of one program after the first find it compiled."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    for name, value in zip(names, (str(tmp_path / "compiled"), 0.0), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def here(monkeypatch, compiled_once):
    """`here(config, workdir)` trains without the pictures."""
    monkeypatch.setattr(train.loop.report, "finish", lambda *_: None)
    return lambda config, workdir: train.loop.train_and_evaluate(config, str(workdir))


@pytest.fixture(scope="session")
def untrained():
    """`untrained(system)`: a small run of `compare_digits` as it starts, of 8x8 images."""

    @functools.cache
    def make(system):
        config = compare_digits.get_config().runs[system]
        config.model.backbone.update({"widths": (4,), "last_width": 4, "residual_layers": 0})
        config.model.data_variance = 0.1
        batch = {"image": np.random.default_rng(1).random((4, 8, 8, 1)).astype(np.float32)}
        names = list(runs.abstract_state(config).window.sums)
        model, optimizer = runs.build_model(config), steps.make_optimizer(config.optimizer, 1)
        create = runs.make_state(config, model, optimizer, names)
        state = jax.jit(create)(jax.random.key(0), batch)
        variables = {"params": state.params, **state.collections}
        counts = np.zeros((1, 64))
        counts[0, [3, 60]] = 5, 3  # two codes occur
        return train.Run(model, variables, config, 0, {"arrays": {"code_counts": counts.tolist()}})

    return make


@pytest.fixture(scope="session")
def write_annotated():
    """`write_annotated(folder, name, image, maps)`: one photograph in the layout of BSDS500."""

    def write(folder, name, image, maps, truth="ground_truth"):
        picture, annotations = folder / "images" / f"{name}.jpg", folder / truth / f"{name}.mat"
        for file in (picture, annotations):
            file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(picture, quality=95)
        people = np.empty((1, len(maps)), object)
        for i, map_ in enumerate(maps):
            people[0, i] = {"Segmentation": map_, "Boundaries": np.zeros_like(map_)}
        savemat(annotations, {"groundTruth": people})

    return write


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "tiny.py"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def start_command(tiny_file, tmp_path_factory):
    """`start_command(workdir, *options, devices=1, **environment) -> Popen`."""
    cache = tmp_path_factory.mktemp("compiled")
    started = []

    def start(workdir, *options, devices=1, **environment):
        command = [sys.executable, "-m", "train", f"--config={tiny_file}", f"--workdir={workdir}"]
        process = subprocess.Popen(
            [*command, *options],
            cwd=ROOT,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": str(devices),
                # The same few programs, over and over.
                "JAX_COMPILATION_CACHE_DIR": str(cache),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:  # of a test that failed
        if not process.stderr.closed:
            process.kill()
            process.communicate()


@pytest.fixture(scope="session")
def final_state():
    """`final_state(workdir)`: the newest checkpoint's state, as NumPy arrays."""

    def read(workdir):
        abstract = runs.abstract_state(runs.read_config(str(workdir)))
        with Checkpoints(workdir / "checkpoints", keep=1, read_only=True) as checkpoints:
            return jax.tree.map(np.asarray, checkpoints.restore(abstract))

    return read


@pytest.fixture(scope="session")
def assert_same_run(final_state):
    """Two finished runs have the same bits in all that does not depend on the clock."""

    def check(workdir, straight):
        ours, theirs = final_state(workdir), final_state(straight)
        for (path, x), y in zip(
            jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
        ):
            assert x.dtype == y.dtype
            assert x.tobytes() == y.tobytes(), jax.tree_util.keystr(path)
        for name in ("metrics.jsonl", "evaluation.json", "config.json"):
            assert (workdir / name).read_bytes() == (straight / name).read_bytes(), name

    return check


@pytest.fixture(scope="session")
def vq_run(tmp_path_factory):
    """The folder of a VQ-VAE of digits with 4x4 codes of two codebooks, trained for a moment."""
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
    return trained(config, tmp_path_factory.mktemp("vq") / "run")


@pytest.fixture(scope="session")
def prior_config_of():
    """`prior_config_of(folder)`: a small PixelCNN over the codes of `vq_run`, given the class."""

    def make(source):
        config = base.get_config()
        config.name = "prior"
        priors.set_pixelcnn(
            config, code_shape=(4, 4, 2), codes=6, classes=10, layers=1, features=4, kernel=3
        )
        config.model.prior.output_features = 4
        config.data.source = f"codes:{source}"
        config.optimizer.name = "sgd"  # Adam would divide by its own rounding
        config.optimizer.learning_rate = 0.01
        config.train.steps = 8
        config.train.batch_size = 32
        config.evaluation.every = 4
        config.log_every = 2
        config.checkpoint_every = 4
        return config

    return make


@pytest.fixture(scope="session")
def prior_run(vq_run, prior_config_of, tmp_path_factory):
    """The folder of such a prior, trained for a moment."""
    return trained(prior_config_of(vq_run), tmp_path_factory.mktemp("prior") / "run")


def trained(config, workdir):
    """Trains without the pictures; gives the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.loop.report, "finish", lambda *_: None)
        train.loop.train_and_evaluate(config, str(workdir))
    return str(workdir)
