"""A user's mistake ends in one line that says what is wrong and what would be right; exit code 2.

Through the real commands, in this process: `python -m train` takes seconds to import. Everything
said here of lost or left files is of the local disk.
"""

import json
import logging
import os
import pickle
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

from configs import base, vqvae_digits
from models import perceptual
from train import parallel
from train.loop import train_and_evaluate

ROOT = Path(__file__).parents[2]
DIGITS = "--config=configs/vqvae_digits.py"


@pytest.fixture(scope="module", autouse=True)
def seen():
    """Loaded before the warnings filter is set: what a command imports is not its own."""
    import tensorflow_datasets

    return tensorflow_datasets


# runpy's own, where a command's module has been imported before.
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")


@pytest.fixture
def command(monkeypatch, capsys):
    """`command(module, *options) -> error line`: what `python -m module` does, without a process.

    The command must fail as a user's mistake does.
    """
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.root.level)
    monkeypatch.setattr(logging.getLogger("train"), "level", logging.NOTSET)
    # Joining a pod is for a process that has not used JAX yet.
    monkeypatch.setattr(parallel, "start", lambda: None)
    known = set(flags.FLAGS)

    def run(module, *options):
        monkeypatch.setattr(sys, "argv", [module, *map(str, options)])
        try:
            with pytest.raises(SystemExit) as ended:
                runpy.run_module(module, run_name="__main__")
        finally:
            for name in set(flags.FLAGS) - known:
                delattr(flags.FLAGS, name)
            flags.FLAGS.unparse_flags()
        return mistake(ended.value.code, capsys.readouterr().err)

    return run


def mistake(code, errors):
    assert code == 2, errors
    assert "Traceback" not in errors
    lines = errors.splitlines()
    assert lines[-1].startswith("error: ")
    assert sum("error" in line for line in lines) == 1, errors
    return lines[-1].removeprefix("error: ")


@pytest.fixture
def fails(command, tmp_path):
    """`fails(expected, *options)`: the training command leaves no folder behind."""

    def run(expected, *options):
        workdir = tmp_path / "new" / "run"
        message = command("train", f"--workdir={workdir}", *options)
        assert re.search(expected, message), message
        assert not (tmp_path / "new").exists()

    return run


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--config.train.stps=3", "train has no field 'stps'; did you mean 'steps'?"),
        ("--config.trian.steps=3", "no field 'trian'; did you mean 'train'?"),
        ("--config.zzz=3", "no field 'zzz'; it has .*evaluation.*train"),
        ("--config.train.steps.more=3", "train.steps is a value"),
        ("--config.train.steps=abc", "train.steps is 'abc'; it must be a whole number"),
        ("--config.train.steps=3.5", "train.steps is '3.5'; it must be a whole number"),
        ("--config.train.steps", "Missing value for flag --config.train.steps"),
        ("--config.train=3", "is not a dict"),
        ("--config.train={'steps': 3}", "no field train.batch_size; start it from configs.base"),
        ("--config.optimizer.learning_rate=fast", "'fast'; it must be a number"),
        ("--config.data.flip=perhaps", "'perhaps'; it must be true or false"),
        ("--config.model.image_shape=(8, 8", "Error while parsing"),
        ("--workdri=x", "'workdri'. Did you mean: workdir"),
        ("stray", "unexpected argument 'stray'; options are written --name=value"),
        ("--workdir=", "--workdir is missing"),
    ],
)
def test_options(fails, option, expected):
    fails(expected, DIGITS, option)


def test_missing_options(command, fails, tmp_path):
    fails("--config is missing: .*--config configs/vqvae_digits.py")
    assert "--workdir is missing" in command("train", DIGITS)
    assert "--workdir is missing" in command("train.evaluate")
    message = command("train.evaluate", f"--workdir={tmp_path}", "--split=validation")
    assert "one of <train|test>" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "no such file"),
        ("def get_config(:", "invalid syntax.*line 1"),
        ("\ndef get_config():\n    return nothing", "line 3: NameError: name 'nothing'"),
        ("import not_there", "line 1: ModuleNotFoundError: .*'not_there'"),
        ("open('/not/there')", "line 1: FileNotFoundError: .*/not/there"),
        ("config = 3", "no function get_config"),
        ("def get_config(): pass", "returned NoneType; it must return a ConfigDict"),
        ("def get_config(): return {}", "returned dict; it must return a ConfigDict"),
        (
            "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict()",
            "the config has no field name; start it from configs.base",
        ),
        (
            "from configs import base\n"
            "def get_config():\n    c = base.get_config()\n    c.train.stepz = 3\n    return c",
            "field train.stepz, which means nothing; did you mean train.steps?",
        ),
        (
            "from configs import base\n"
            "def get_config():\n    c = base.get_config()\n    c.train.steps = '3'\n    return c",
            "line 4: TypeError: .*int",
        ),
    ],
)
def test_config_files(fails, tmp_path, text, expected):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    fails(expected, f"--config={path}")
    fails("is missing|no such file", "--config=")
    fails("no such file", f"--config={tmp_path}")


def test_variants(fails):
    fails(
        "has no variant 'nonsense'; known: kmeans, released",
        "--config=configs/vqvae_cifar10.py:nonsense",
    )
    fails("has no variants; leave :nonsense out", f"{DIGITS}:nonsense")


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("seed", -1, "seed is -1; it must be at least 0"),
        ("seed", 10**30, "at most 4294967295"),
        ("init_from", "/not/there", "/not/there is not the folder of a run"),
        ("log_every", 0, "at least 1"),
        ("checkpoint_every", -2, "at least 1"),
        ("keep_checkpoints", 0, "at least 1"),
        ("train.steps", 0, "train.steps is 0; it must be at least 1"),
        ("train.batch_size", 0, "at least 1"),
        ("train.batch_size", 6, "6, which cannot be shared out over 4 devices; .* such as 4"),
        ("train.steps_per_call", 7, "multiple of train.steps_per_call .7.; take 3003, or set"),
        ("train.accumulate", 3, "4 devices x 3 parts; it must be a multiple of 12, such as 60"),
        ("train.average_decay", 1, r"in \[0, 1\)"),
        ("evaluation.batch_size", 6, "evaluation.batch_size is 6, which cannot be shared"),
        ("evaluation.every", -1, "at least 0"),
        ("pictures_every", -1, "pictures_every is -1; it must be at least 0"),
        ("evaluation.importance_samples", 0, "at least 1"),
        ("evaluation.evaluators", ("fid",), "'fid'; known are: losses, image, codes"),
        ("evaluation.evaluators", (3,), "names, such as"),
        ("evaluation.evaluators", ("units",), "Gaussian posterior, which VectorQuantizer has not"),
        ("evaluation.final_evaluators", ("importance",), "need a Gaussian posterior"),
        ("optimizer.name", "adamm", "known: adam, sgd"),
        ("optimizer.schedule", "step", "known: constant, cosine"),
        ("optimizer.learning_rate", "nan", "nan; it must be finite, and at least 0"),
        ("optimizer.learning_rate", -1, "at least 0"),
        ("optimizer.warmup_steps", -1, "at least 0"),
        ("optimizer.warmup_steps", 3000, "only 3000 steps; make it shorter"),
        ("optimizer.b2", 1, r"in \[0, 1\)"),
        ("optimizer.clip_norm", "nan", "at least 0"),
        ("optimizer.weight_decay", -0.1, "at least 0"),
        ("loss_weights", {"reconstruction": 1.0}, "terms are commitment, reconstruction"),
        ("loss_weights", {"commitment": 1, "reconstruction": "x"}, "number for each loss term"),
        ("loss_weights.commitment", "nan", "number for each loss term"),
        ("model.dtype", "float16", "'float16'; known: float32, bfloat16"),
        ("model.data_variance", -1, "at least 0"),
        ("model.image_shape", (8, 8), r"\(8, 8\); it must be \(height, width, channels\)"),
        ("model.image_shape", (0, 8, 1), "height, width, channels"),
        ("model.image_shape", (8.0, 8.0, 1.0), "height, width, channels"),
        ("model.image_shape", (7, 7, 1), "height and width must be multiples of 2"),
        ("model.bottleneck.name", "fq", "'fq'; known: capsules, .*vq"),
        ("model.bottleneck.name", "gaussian", "'gaussian' knows: depth$"),
        ("model.bottleneck", {"name": "vq", "kodes": 3}, "'kodes'; did you mean 'codes'?"),
        ("model.bottleneck", {"name": "vq", "codes": 3}, "needs the option 'depth', a whole"),
        ("model.bottleneck", {"codes": 3}, "a dict with a name"),
        ("model.bottleneck", {"name": "vq", "codes": 3.5, "depth": 4}, "codes is 3.5.*whole"),
        ("model.bottleneck", {"name": "vq", "codes": 9, "depth": 4, "dtype": "x"}, "no option"),
        (
            "model.bottleneck",
            {"name": "vq", "codes": 9, "depth": 4, "debias": "no"},
            "debias is 'no'; it must be True or False",
        ),
        ("model.bottleneck.codes", 0, "bottleneck.codes is 0; it must be at least 1"),
        ("model.bottleneck.codes", 10**11, "describes no model"),
        ("model.bottleneck.codebooks", -1, "at least 1"),
        ("model.bottleneck.codebook_update", "sgd", "known: ema, loss"),
        ("model.bottleneck.codebook_update", "loss", "set codebook_update='ema', or 0"),
        ("model.bottleneck.start", "zeros", "known: uniform, data, kmeans"),
        ("model.bottleneck.decay", 1.5, r"in \[0, 1\)"),
        ("model.bottleneck.epsilon", "nan", "finite number"),
        ("model.bottleneck.epsilon", -1, "0 .no smoothing. or more"),
        ("model.bottleneck.revive_below", 3, r"in \[0, 1\]"),
        ("model.backbone.name", "resnet", "'resnet'; there are convnet, mlp"),
        ("model.backbone", {"name": "convnet", "width": 3}, "no option 'width'; it takes widths"),
        ("model.backbone.widths", (), "1 or more positive whole numbers"),
        ("model.backbone.last_width", -1, "at least 0"),
        ("model.backbone.residual_layers", -1, "at least 0"),
        ("model.backbone.residual_width", 0, "at least 1"),
        ("model.backbone", {"name": "mlp", "activation": "selu"}, "there are tanh, relu"),
        ("model.likelihood.name", "cauchy", "there are gaussian, laplace, bernoulli, categorical"),
        ("model.likelihood", {"name": "gaussian", "levels": 3}, "no option 'levels'"),
        ("model.likelihood", {"name": "gaussian", "variance": "big"}, "a finite number"),
        ("model.likelihood", {"name": "categorical", "levels": 1}, "from 2 up, found 1"),
        ("data.source", "cifar10", "'cifar10'; expected 'digits', .*'tfds:NAME'"),
        ("data.source", "folder:/not/there", "no such folder"),
        ("data.source", "array:/not/there.npy", "no such file"),
        ("data.source", "tfds:not_a_set", "knows no data set of this name; see https"),
        ("data.source", "tfds:fashion_mnist", "tfds.., then tfds build fashion_mnist --file_form"),
        ("data.source", "photos", "set data.crop='random'"),
        ("data.train", "train[:9999]", "'train' has 1438 examples"),
        ("data.test", "validation", r"found only \['test', 'train'\]"),
        ("data.holdout", 0, "found only .*; data.holdout=0.1 would set"),
        ("data.holdout", 1, r"in \[0, 1\)"),
        ("data.split_seed", -1, "at least 0"),
        ("data.crop", "centre", "expected 'none', 'random' or 'resize'"),
        ("data.binarise", "static", "expected '' or 'stochastic'"),
        ("data.limit", -1, "at least 0"),
        ("data.image_shape", (16, 16, 1), "set data.image_shape=.8, 8, 1."),
        ("data.image_shape", (8, 8, 4), "found an image of shape .8, 8, 1."),
    ],
)
def test_values(fails, field, value, expected, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
    fails(expected, DIGITS, f"--config.{field}={value}")


def test_a_codes_evaluator_needs_codes(fails):
    fails(
        'the evaluator "codes" needs integer codes',
        "--config=configs/vae_digits.py",
        "--config.evaluation.final_evaluators=('codes',)",
    )


def test_the_two_image_shapes_are_one(fails, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "from configs import vqvae_digits\n"
        "def get_config():\n"
        "    c = vqvae_digits.get_config()\n"
        "    c.data = ConfigDict({**c.data.to_dict(), 'image_shape': (16, 16, 1)})\n"
        "    return c\n"
    )
    fails(r"model.image_shape is \(8, 8, 1\); they must be the same", f"--config={path}")


# ---------------------------------------------------------------- data


def test_folders(fails, tmp_path):
    folder = tmp_path / "images"
    options = (DIGITS, f"--config.data.source=folder:{folder}")
    folder.mkdir()
    fails("no image file in it", *options)
    for i in range(20):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(folder / f"{i:02}.png")
    whole = (folder / "07.png").read_bytes()
    (folder / "07.png").write_bytes(whole[: len(whole) // 2])
    fails("07.png: not a readable image.*repair or remove it", *options)
    Image.fromarray(np.zeros((4, 8), np.uint8)).save(folder / "07.png")
    fails("07.png: found an image of shape .4, 8, 1.*data.crop='resize'", *options)
    fails(
        "07.png: found an image of 4 x 8, smaller than the crop of 8 x 8",
        *options,
        "--config.data.crop=random",
    )


def test_arrays(fails, tmp_path):
    path = tmp_path / "images.npy"
    options = (DIGITS, f"--config.data.source=array:{path}")
    images = np.random.default_rng(0).random((20, 8, 8, 1), np.float32)
    images[5, 2, 3] = np.nan
    np.save(path, images)
    fails("image 5 holds nan at .2, 3, 0.", *options)
    np.save(path, (np.nan_to_num(images) * 255).astype(np.int64))
    fails("int64; expected uint8, or floating", *options)
    path.write_bytes(path.read_bytes()[:500])
    fails("cannot be read as .npy or .npz", *options)


def test_preparing_data_that_needs_tensorflow_names_the_extra(fails, monkeypatch, tmp_path):
    import tensorflow_datasets

    def builder(*_, **__):
        raise ImportError("No module named 'tensorflow'")

    monkeypatch.setattr(tensorflow_datasets, "builder", builder)
    fails(
        r"No module named 'tensorflow'; pip install 'bottlenecks\[tfds\]'",
        DIGITS,
        "--config.data.source=tfds:some_set",
    )


# ---------------------------------------------------------------- the run's folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of two steps; copy it before touching it."""
    config = vqvae_digits.get_config()
    config.model.backbone = ConfigDict({"name": "mlp", "widths": (8,)})
    config.model.bottleneck = ConfigDict({"name": "vq", "codes": 4, "depth": 2, "start": "uniform"})
    config.loss_weights = base.mean_squared_weights(image_shape=(8, 8, 1), depth=2)
    config.train.steps = config.checkpoint_every = config.log_every = 2
    config.evaluation.every = 0
    config.evaluation.evaluators = ("losses",)
    workdir = tmp_path_factory.mktemp("trained") / "run"
    train_and_evaluate(config, str(workdir))
    return workdir


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else "" for path in folder.rglob("*")}


def test_a_folder_of_another_run_is_left_as_it_is(command, trained):
    before = contents(trained)
    workdir = f"--workdir={trained}"
    message = command("train", DIGITS, workdir)
    assert "holds a run of another config" in message
    assert "choose another --workdir" in message
    for option in ("--config.model.bottleneck.codes=0", "--config.data.source=folder:/not/there"):
        command("train", DIGITS, workdir, option)
    assert contents(trained) == before


def test_parameters_to_start_from_must_fit(fails, trained):
    before = contents(trained)
    fails("init_from=.* does not fit this model", DIGITS, f"--config.init_from={trained}")
    assert contents(trained) == before


@pytest.mark.parametrize("place", ["a file", "below a file", "a file system that takes none"])
def test_folders_that_cannot_be_written(command, tmp_path, place):
    # Root writes wherever the permissions forbid it: these places take no folder from anyone.
    file = tmp_path / "file"
    file.write_text("mine")
    workdir = {
        "a file": file,
        "below a file": file / "run",
        "a file system that takes none": Path("/proc/run"),
    }[place]
    message = command("train", DIGITS, f"--workdir={workdir}")
    assert f"--workdir {workdir} cannot be written" in message
    assert file.read_text() == "mine"


def test_evaluating_what_is_no_run(command, trained, tmp_path):
    workdir = tmp_path / "run"
    evaluate = ("train.evaluate", f"--workdir={workdir}")
    assert "is not the folder of a run" in command(*evaluate)
    assert "is not the folder of a run" in command("train.disentangle", f"--workdir={workdir}")
    assert "samples is 5; it must be at least 100" in command(
        "train.disentangle", f"--workdir={workdir}", "--samples=5"
    )
    assert not workdir.exists()
    shutil.copytree(trained, workdir)
    config = workdir / "config.json"
    good = json.loads(config.read_text())
    for damaged in (
        config.read_text()[:100],
        "[]",
        json.dumps({"name": "x"}),
        json.dumps({**good, "train": {**good["train"], "steps": "many"}}),
    ):
        config.write_text(damaged)
        before = contents(workdir)
        assert "config.json is damaged" in command(*evaluate)
        assert "config.json is damaged" in command("train", DIGITS, f"--workdir={workdir}")
        assert contents(workdir) == before
    config.unlink()
    assert "checkpoints but no config.json" in command("train", DIGITS, f"--workdir={workdir}")
    assert (workdir / "checkpoints" / "2").is_dir()
    config.write_text(json.dumps(good))
    shutil.rmtree(workdir / "checkpoints")
    before = contents(workdir)
    assert "has no checkpoint yet; train it first" in command(*evaluate)
    assert contents(workdir) == before


# ---------------------------------------------------------------- weights of other networks


LPIPS = ("--config=configs/vqgan_photos.py", "--config.model.perceptual.net=alexnet")
RANDOM_FEATURES = ("--config=configs/vqgan_digits.py",)


@pytest.fixture
def small_alexnet(monkeypatch):
    """Arrays of LPIPS with an AlexNet of few channels."""
    net = perceptual.NETS["alexnet"]._replace(widths=(2, 3, 2, 3, 2))
    monkeypatch.setitem(perceptual.NETS, "alexnet", net)
    arrays, before = {}, 3
    for k, ((conv,), width) in enumerate(zip(net.stages, net.widths, strict=True)):
        name = f"net.slice{k + 1}.{conv.index}"
        arrays[f"{name}.weight"] = np.ones((width, before, conv.size, conv.size), np.float32)
        arrays[f"{name}.bias"] = np.ones(width, np.float32)
        arrays[f"lin{k}.model.1.weight"] = np.ones((1, width, 1, 1), np.float32)
        before = width
    return arrays


def test_a_perceptual_loss_by_flags(fails):
    fails(
        "perceptual.weight is -1.0; it must be finite, and at least 0",
        *LPIPS,
        "--config.model.perceptual.weight=-1",
    )
    fails("net is 'resnet'; known: vgg16, alexnet", *LPIPS, "--config.model.perceptual.net=resnet")
    fails(
        "file is 'x.npz', but model.perceptual.net names no network; known: vgg16, alexnet",
        LPIPS[0],
        "--config.model.perceptual.file=x.npz",
    )


def test_files_of_lpips(fails, tmp_path, small_alexnet):
    path = tmp_path / "lpips.npz"
    options = (*LPIPS, f"--config.model.perceptual.file={path}")
    fails(r"no weights can be read from .*lpips.npz .No such file.*nothing is downloaded", *options)
    np.savez(path, **small_alexnet)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    fails(r"lpips.npz is no .npz of plain arrays", *options)
    path.write_bytes(pickle.dumps(small_alexnet))
    fails(r"lpips.npz is no .npz of plain arrays", *options)
    np.savez(path, **{**small_alexnet, "lin0.model.1.weight": np.array([None])})
    fails(r"lpips.npz is no .npz of plain arrays .*allow_pickle=False", *options)
    np.savez(path, **{k: v for k, v in small_alexnet.items() if k != "net.slice3.6.bias"})
    fails("does not hold LPIPS: .*net.slice3.6.bias", *options)
    np.savez(path, **{**small_alexnet, "net.slice2.3.weight": np.ones((3, 2, 4, 5), np.float32)})
    fails("does not hold LPIPS: .*net.slice2.3.weight.*3, 2, 5, 5", *options)
    np.savez(path, **{**small_alexnet, "net.slice1.0.bias": np.array([1, np.nan], np.float32)})
    fails("does not hold LPIPS: .*net.slice1.0.bias", *options)
    other = path.rename(tmp_path / "lpips.pth")
    fails("lpips.pth is neither", *LPIPS, f"--config.model.perceptual.file={other}")
    fails("cannot be read from|is neither", *LPIPS, f"--config.model.perceptual.file={tmp_path}")


def test_files_of_inception(fails, tmp_path):
    path = tmp_path / "inception.npz"
    options = (*RANDOM_FEATURES, f"--config.evaluation.inception={path}")
    fails(r"no weights can be read from .*inception.npz", *options)
    first = "Conv2d_1a_3x3.conv.weight"
    np.savez(path, other=np.ones(3, np.float32))
    fails(f"does not hold FID's Inception-v3: .*{first}", *options)
    np.savez(path, **{first: np.ones((3, 3, 3, 32), np.float32)})
    fails(f"does not hold FID's Inception-v3: .*{first}.*32, 3, 3, 3", *options)
    path.write_bytes(path.read_bytes()[:-30])
    fails(r"inception.npz is no .npz of plain arrays", *options)
    path.write_bytes(pickle.dumps({first: np.ones(3)}))
    fails(r"inception.npz is no .npz of plain arrays", *options)


def test_runs_to_start_from(fails, tmp_path, trained):
    fails("not the folder of a run", DIGITS, f"--config.init_from={tmp_path}")
    (tmp_path / "weights.npz").write_bytes(b"")
    fails("not the folder of a run", DIGITS, f"--config.init_from={tmp_path / 'weights.npz'}")
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    options = (DIGITS, f"--config.init_from={copy}")
    for file in (copy / "checkpoints" / "2" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    fails("no checkpoint below .*run/checkpoints can be read", *options)
    shutil.rmtree(copy / "checkpoints")
    fails("run has no checkpoint yet; train it first", *options)
    (copy / "config.json").write_text("{")
    fails("config.json is damaged", *options)


# ---------------------------------------------------------------- the machine


def test_too_little_memory_is_no_defect_but_other_failures_are(command, monkeypatch, tmp_path):
    def fail(*_):
        raise jax.errors.JaxRuntimeError(reason)

    monkeypatch.setattr("train.loop.train_and_evaluate", fail)
    options = (DIGITS, f"--workdir={tmp_path}")
    reason = "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nDetails"
    message = command("train", *options)
    assert "allocating 9 bytes." in message
    assert "a smaller train.batch_size" in message
    reason = "INTERNAL: a defect"
    with pytest.raises(jax.errors.JaxRuntimeError):
        command("train", *options)


# ---------------------------------------------------------------- in a process of its own


@pytest.mark.parametrize(
    ("module", "options", "environment", "expected"),
    [
        ("train", [DIGITS, "--config.model.bottleneck.codes=0"], {}, "codes is 0"),
        ("train", [DIGITS], {"JAX_PLATFORMS": "gpuu"}, "JAX_PLATFORMS is 'gpuu'; unset it"),
        ("train.evaluate", [], {}, "is not the folder of a run"),
    ],
)
def test_processes(tmp_path, module, options, environment, expected):
    workdir = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-m", module, f"--workdir={workdir}", *options],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
    )
    assert expected in mistake(done.returncode, done.stderr)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert not workdir.exists()
