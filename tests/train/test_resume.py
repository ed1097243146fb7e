"""A run that is killed or told to stop, then started again, ends with a straight run's bits."""

import json
import os
import random
import signal
import time
from collections import Counter

import jax
import numpy as np
import pytest

import train.evaluate
import train.loop
from train import runs, steps
from train.checkpoints import Checkpoints
from train.errors import UserError
from train.state import evaluation_variables
from train.writers import Writer

# Long enough that a kill falls into training, with a checkpoint or an evaluation often under way.
LONGER = (
    "--config.train.steps=600",
    "--config.checkpoint_every=40",
    "--config.evaluation.every=60",
    "--config.evaluation.batch_size=32",
    "--config.log_every=20",
)


@pytest.fixture(scope="module")
def straight(start_command, tmp_path_factory):
    """A run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    finish(start_command(workdir, *LONGER))
    return workdir


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Traceback" not in err, err
    return out, err


def lines(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_bytes().splitlines() if path.exists() else []


def saving(workdir):
    """A checkpoint is being written."""
    return any((workdir / "checkpoints").glob("*-tmp*"))


def evaluating(workdir):
    """The last line is of a step that is due for evaluation."""
    line = json.loads(lines(workdir)[-1])
    return line["split"] == "train" and line["step"] % 60 == 0


def trained_on(workdir, before):
    return len(lines(workdir)) > before


def wait_until(condition, process):
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        if process.poll() is not None:
            return False
        time.sleep(0.001)
    return True


def stop(process, workdir, when, how):
    """Sends the signal `how` at the moment `when`, of this start."""
    before = len(lines(workdir))
    wait_until(lambda: trained_on(workdir, before), process)
    if callable(when):
        wait_until(lambda: when(workdir), process)
    else:
        time.sleep(when)
    process.send_signal(how)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_killed_at_any_moment(start_command, straight, assert_same_run, tmp_path):
    chance = random.Random(0)
    workdir = tmp_path / "run"
    moments = [chance.uniform(0, 0.3), saving, chance.uniform(0, 0.3), evaluating, 0.0]
    for when in moments:
        code, _, err = stop(start_command(workdir, *LONGER), workdir, when, signal.SIGKILL)
        assert code == -signal.SIGKILL, err
    _, err = finish(start_command(workdir, *LONGER))
    assert "going on from step" in err
    assert_same_run(workdir, straight)


def test_told_to_stop(start_command, straight, assert_same_run, tmp_path):
    workdir = tmp_path / "run"
    for when, how in ((evaluating, signal.SIGTERM), (0.1, signal.SIGINT)):
        code, out, err = stop(start_command(workdir, *LONGER), workdir, when, how)
        assert code == 0, err
        assert "told to stop: saved step" in err
        assert "Traceback" not in err
        assert "pictures" not in out
    finish(start_command(workdir, *LONGER))
    assert_same_run(workdir, straight)


def test_a_finished_run_shows_its_table_again_and_changes_nothing(start_command, straight):
    def contents():
        files = (path for path in straight.rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in files}

    before = contents()
    out, _ = finish(start_command(straight, *LONGER))
    assert "tiny: test split after 600 steps" in out
    assert "mean image" in out
    assert contents() == before


# ------------------------------------------------------------------ in this process, on 4 devices


@pytest.fixture
def signal_at(monkeypatch):
    """`signal_at(place, number)`: SIGTERM when that line is written, or in that evaluation."""
    pending, count = [], 0
    write, batches = Writer.write, train.evaluate.evaluation_batches

    def reach(place):
        if pending and pending[0] == place:
            pending.clear()
            os.kill(os.getpid(), signal.SIGTERM)

    def writing(self, step, split, values):
        reach((split, step))
        write(self, step, split, values)

    def evaluating(*args, **options):
        nonlocal count
        count += 1
        reach(("evaluation", count))
        return batches(*args, **options)

    monkeypatch.setattr(Writer, "write", writing)
    monkeypatch.setattr(train.evaluate, "evaluation_batches", evaluating)

    def order(place, number):
        nonlocal count
        count = 0
        pending[:] = [(place, number)]

    return order


def test_told_to_stop_at_every_kind_of_moment(tiny, here, signal_at, assert_same_run, tmp_path):
    tiny.pictures_every = 3
    here(tiny.copy_and_resolve_references(), tmp_path / "straight")
    stopped = []
    # While step 3 is logged; in the evaluation of step 6, which has no checkpoint of its own; in
    # the last evaluation.
    for place in (("train", 3), ("evaluation", 1), ("evaluation", 2)):
        signal_at(*place)
        state = here(tiny.copy_and_resolve_references(), tmp_path / "run")
        stopped.append(int(state.step))
        assert (
            Checkpoints(tmp_path / "run/checkpoints", keep=1, read_only=True).steps()[-1]
            == (stopped[-1])
        )
        assert not (tmp_path / "run/evaluation.json").exists()
    assert stopped == [4, 6, 12]
    assert int(here(tiny, tmp_path / "run").step) == 12
    assert_same_run(tmp_path / "run", tmp_path / "straight")
    drawn, straight = (
        {file.name: file.read_bytes() for file in (tmp_path / name / "pictures").iterdir()}
        for name in ("run", "straight")
    )
    assert set(drawn) == {f"step_{step:06d}.png" for step in (3, 6, 9, 12)}
    assert drawn == straight
    assert len(set(drawn.values())) == 4  # the model moved


def counting_traces(make, traced):
    def made(*args, **options):
        step = make(*args, **options)

        def counted(*inputs):
            traced[step.__name__] += 1
            return step(*inputs)

        return counted

    return made


def test_all_options_together(
    tiny, here, signal_at, assert_same_run, tmp_path, monkeypatch, caplog
):
    tiny.train.steps_per_call = 2
    tiny.train.accumulate = 2
    tiny.train.average_decay = 0.9
    tiny.log_every = 2
    traced = Counter()
    for name in ("make_train_step", "make_sums_step"):
        monkeypatch.setattr(steps, name, counting_traces(getattr(steps, name), traced))
    with jax.log_compiles(), caplog.at_level("WARNING"):
        state = here(tiny.copy_and_resolve_references(), tmp_path / "straight")
    # There are two evaluations: the one within the run, and the one at its end.
    assert traced == {"train_step": 1, "sums_step": 2}
    compiled = [r.getMessage() for r in caplog.records if "Finished XLA" in r.getMessage()]
    assert sum("jit(_fun)" in message for message in compiled) == 3  # as pmap names them
    differs = jax.tree.map(lambda p, a: bool((p != a).any()), state.params, state.average)
    assert any(jax.tree.leaves(differs))
    signal_at("train", 6)
    assert int(here(tiny.copy_and_resolve_references(), tmp_path / "run").step) == 6
    here(tiny, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "straight")


def test_a_loss_that_is_not_finite_stops_the_run(tiny, here, final_state, tmp_path):
    tiny.optimizer.learning_rate = 1e30
    tiny.checkpoint_every = 1
    tiny.log_every = 100
    with pytest.raises(UserError, match=r"not finite since step 2 .*checkpoint is that of step 1"):
        here(tiny, tmp_path)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(final_state(tmp_path)))


def test_a_run_starts_from_another_and_is_loaded(tiny, here, tmp_path):
    config = tiny.copy_and_resolve_references()
    trained = here(config, tmp_path / "first")
    run = runs.load(tmp_path / "first")
    assert run.step == 12
    assert run.config.to_dict() == json.loads(json.dumps(config.to_dict()))
    variables = evaluation_variables(trained)
    jax.tree.map(np.testing.assert_array_equal, run.variables, variables)
    image = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    loaded = run.model.apply(run.variables, {"image": image}, train=False)
    own = runs.build_model(config).apply(variables, {"image": image}, train=False)
    np.testing.assert_array_equal(loaded.reconstruction, own.reconstruction)
    np.testing.assert_array_equal(
        run.model.apply(run.variables, image, method="encode").shape, (3, 16)
    )

    tiny.init_from = str(tmp_path / "first")
    tiny.optimizer.learning_rate = 1e-30
    tiny.model.bottleneck.decay = 1 - 1e-7
    tiny.model.bottleneck.revive_below = 0.0
    tiny.train.steps = 1
    second = here(tiny, tmp_path / "second")
    assert int(second.step) == int(second.opt_state[0].count) == 1
    ours, theirs = (
        (tree["params"], tree["codebook"]["bottleneck"]["state"].codebook)
        for tree in (evaluation_variables(second), variables)
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), ours, theirs)

    tiny.model.backbone.widths = (17,)
    named = r"project'\]\['kernel'\] is \(16, 16\) there and \(17, 16\) here"
    with pytest.raises(UserError, match=named):
        here(tiny, tmp_path / "third")
    assert not (tmp_path / "third").exists()
