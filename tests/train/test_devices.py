"""One device, four, or two processes of two: one run, each going on where another stopped."""

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from train import runs
from train.data.sources import load_source

ROOT = Path(__file__).parents[2]
# Processes, devices of each.
TOPOLOGIES = {"one": (1, 1), "four": (1, 4), "pod": (2, 2)}
KINDS = ("vq", "vae")

# Plain SGD: Adam would divide by its own rounding where a gradient is almost 0.
CONFIGS = """
def config_of(kind):
    config = get_config()
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.05
    config.model.bottleneck.start = "kmeans"
    config.model.bottleneck.codes = 16
    config.model.bottleneck.decay = 0.5
    config.model.bottleneck.revive_below = 1.0
    config.train.steps = 8
    config.log_every = 1
    config.evaluation.every = 4
    if kind == "vae":
        config.model.bottleneck = ConfigDict({"name": "gaussian", "depth": 4})
        config.loss_weights = ConfigDict({"reconstruction": 1 / 64, "kl": 1 / 64})
        config.evaluation.evaluators = ("losses",)
    return config
"""

# Trains one run after another in one process, as `python -m train` trains one.
SCRIPT = (
    CONFIGS
    + """
import json, logging, sys
from train import loop, parallel, report, writers

logging.basicConfig(level=logging.WARNING, force=True)
logging.getLogger("train").setLevel(logging.INFO)
parallel.start()
if not parallel.is_first_process():
    def refuse(*_, **__):
        raise AssertionError("a process that is not the first has written something")

    for place in (writers.Writer, "__init__"), (writers, "write_whole"), (report, "finish"):
        setattr(*place, refuse)
elif sys.argv[1] == "no pictures":
    report.finish = lambda *_: None
for kind, workdir in json.loads(sys.argv[2]):
    loop.train_and_evaluate(config_of(kind), workdir)
"""
)


def free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def start(tiny_file, tmp_path_factory):
    """`start(topology, jobs) -> processes`; a job is a kind and a folder."""
    cache = tmp_path_factory.mktemp("compiled")
    everything = []

    def begin(topology, jobs, *, pictures=False):
        count, devices = TOPOLOGIES[topology]
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        script = tiny_file.read_text() + SCRIPT
        jobs = json.dumps([(kind, str(workdir)) for kind, workdir in jobs])
        command = [sys.executable, "-c", script, "pictures" if pictures else "no pictures", jobs]
        port = free_port()
        processes = []
        for index in range(count):
            if count > 1:
                environment |= {
                    "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                    "JAX_NUM_PROCESSES": str(count),
                    "JAX_PROCESS_ID": str(index),
                }
            processes.append(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        everything.extend(processes)
        return processes

    yield begin
    for process in everything:
        if not process.stderr.closed:
            process.kill()
            process.communicate()


def finish(processes):
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), errors
    return errors


@pytest.fixture(scope="module")
def straight(start, tmp_path_factory):
    """A run of each kind on each topology; kind and topology to its folder."""
    root = tmp_path_factory.mktemp("straight")
    folders = {(kind, name): root / f"{kind}-{name}" for kind in KINDS for name in TOPOLOGIES}
    started = [
        start(name, [(kind, folders[kind, name]) for kind in KINDS], pictures=name == "pod")
        for name in TOPOLOGIES
    ]
    for processes in started:
        finish(processes)
    return folders


@pytest.fixture(scope="module")
def resumed(start, straight, tmp_path_factory):
    """Each straight run, cut off after step 4 and gone on with on the other topologies."""
    root = tmp_path_factory.mktemp("resumed")
    folders, jobs = {}, {name: [] for name in TOPOLOGIES}
    for (kind, origin), workdir in straight.items():
        for name in TOPOLOGIES.keys() - {origin}:
            folder = folders[kind, origin, name] = root / f"{kind}-{origin}-{name}"
            shutil.copytree(workdir, folder)
            shutil.rmtree(folder / "checkpoints/8")
            (folder / "evaluation.json").unlink()
            jobs[name].append((kind, folder))
    started = {name: start(name, listed) for name, listed in jobs.items()}
    for processes in started.values():
        for error in finish(processes):
            assert error.count("going on from step 4") == 4
    return folders


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same_metrics(workdir, other, tolerance):
    ours, theirs = metrics(workdir), metrics(other)
    assert [(x["step"], x["split"]) for x in ours] == [(x["step"], x["split"]) for x in theirs]
    for line, expected in zip(ours, theirs, strict=True):
        assert line.keys() == expected.keys()
        for name in line.keys() - {"split"}:
            assert line[name] == pytest.approx(expected[name], rel=tolerance, abs=tolerance), name


# Sums of 32 x 64 float32 values in another order, carried through 8 steps of SGD and of averages.
TOLERANCE = 2e-5


@pytest.mark.parametrize("name", ["four", "pod"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_topology_trains_the_same_run(straight, final_state, kind, name):
    one, other = straight[kind, "one"], straight[kind, name]
    # Every step's loss, gradient norm, perplexity and revived codes; evaluations at 4 and 8.
    assert_same_metrics(other, one, TOLERANCE)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=TOLERANCE, atol=TOLERANCE),
        final_state(other),
        final_state(one),
    )
    if kind == "vq":
        assert sum(line.get("revived", 0) for line in metrics(one)) > 3


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_evaluation_counts_every_example_once(straight, final_state, name):
    workdir = straight["vq", name]
    config = runs.read_config(str(workdir))
    source = load_source(config.data, "test")
    assert len(source) == 359  # batches of 128, 128 and 103
    state = final_state(workdir)
    losses, output = runs.build_model(config).apply(
        {"params": state.params, **state.collections},
        {"image": source[np.arange(359)]["image"]},
        train=False,
        method="losses",
    )
    found = metrics(workdir)[-1]
    for name in ("reconstruction", "commitment"):
        expected = np.mean(np.asarray(losses[name], np.float64))
        assert found[name] == pytest.approx(expected, rel=1e-6), name
    counts = np.asarray(
        json.loads((workdir / "evaluation.json").read_text())["arrays"]["code_counts"]
    )
    expected = [np.bincount(np.ravel(output.code[..., i]), minlength=16) for i in range(4)]
    np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize(("origin", "name"), [*itertools.permutations(TOPOLOGIES, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_goes_on_anywhere(straight, resumed, final_state, kind, origin, name):
    before, after = straight[kind, origin], resumed[kind, origin, name]
    assert_same_metrics(after, before, TOLERANCE)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=TOLERANCE, atol=TOLERANCE),
        final_state(after),
        final_state(before),
    )


def test_the_first_process_draws_the_pictures(straight):
    drawn = {path.name for path in (straight["vq", "pod"] / "pictures").iterdir()}
    assert {"reconstructions.png", "curves.png", "codebook_use.png", "samples.png"} <= drawn


def test_told_to_stop_all_processes_save_the_same_step(start_command, final_state, tmp_path):
    port = free_port()
    processes = [
        start_command(
            tmp_path / "run",
            "--config.train.steps=100000",
            "--config.log_every=20",
            "--config.evaluation.every=100",
            "--config.checkpoint_every=1000",
            devices=2,
            JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(index),
        )
        for index in range(2)
    ]
    until = time.monotonic() + 120
    while not (tmp_path / "run/metrics.jsonl").exists() or len(metrics(tmp_path / "run")) < 3:
        assert time.monotonic() < until
        assert all(process.poll() is None for process in processes)
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    saved = [re.findall(r"saved step (\d+)", error) for error in finish(processes)]
    step = int(final_state(tmp_path / "run").step)
    assert saved == [[str(step)], [str(step)]]
