"""Damaged checkpoints and full disks: nothing wrong is read, nothing good is lost."""

import json
import logging
import os
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from train import parallel, runs
from train.checkpoints import Checkpoints
from train.errors import UserError
from train.state import TrainState, empty_window
from train.writers import Writer

# Relative to a checkpoint; "d" is a folder of data files with names of no meaning.
NEEDED = ("meta/metadata", "state/_METADATA", "state/manifest.ocdbt")
DATA = ("state/d", "state/ocdbt.process_0/d")
# Orbax repeats itself, or reads these only elsewhere.
SPARE = (
    "_CHECKPOINT_METADATA",
    "commit_success.txt",
    "meta/commit_success.txt",
    "state/_sharding",
    "state/array_metadatas/process_0",
    "state/commit_success.txt",
    "state/ocdbt.process_0/manifest.ocdbt",
)


def state_after(step):
    draw = np.random.default_rng(step)
    params = {"kernel": draw.normal(size=(64, 32)), "bias": draw.normal(size=32)}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    return parallel.place(
        TrainState(
            step=jnp.int32(step),
            params=params,
            collections={},
            opt_state=jax.tree.map(jnp.square, params),
            average=None,
            window=empty_window(["loss"]),
        )
    )


def assert_state(found, step):
    assert int(found.step) == step
    jax.tree.map(np.testing.assert_array_equal, found, state_after(step))


def abstract():
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state_after(0))


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    with Checkpoints(folder / "checkpoints", keep=3) as checkpoints:
        for step in (10, 20, 30):
            checkpoints.save(state_after(step), {"note": "here"})
    return folder


@pytest.fixture
def copy(three, tmp_path):
    shutil.copytree(three / "checkpoints", tmp_path / "checkpoints")
    return tmp_path


def damage(place, how):
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    assert files
    for file in files:
        content = file.read_bytes()
        if how == "delete":
            file.unlink()
        elif how == "truncate":
            file.write_bytes(content[: len(content) // 2])
        else:
            middle = len(content) // 2
            file.write_bytes(content[:middle] + b"\x00\xff\x00" + content[middle + 3 :])


def save_one(folder, step):
    with Checkpoints(folder / "checkpoints", keep=9) as checkpoints:
        checkpoints.save(state_after(step), {})


def restore(folder):
    with Checkpoints(folder / "checkpoints", keep=3) as checkpoints:
        return checkpoints.restore(abstract(), repair=True), checkpoints.steps()


def test_every_kind_of_file_is_tried(three):
    newest = three / "checkpoints/30"
    files = {str(path.relative_to(newest)) for path in newest.rglob("*") if path.is_file()}
    kinds = {os.path.dirname(name) if "/d/" in name else name for name in files}
    assert kinds == {*NEEDED, *DATA, *SPARE}


@pytest.mark.parametrize("how", ["delete", "truncate", "garble"])
@pytest.mark.parametrize("kind", [*NEEDED, *DATA, *SPARE])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(copy, kind, how, caplog, capfd):
    damage(copy / "checkpoints/30" / kind, how)
    with caplog.at_level(logging.WARNING, "train"):
        found, steps = restore(copy)
    told = "".join(record.getMessage() for record in caplog.records if record.name == "train")
    if int(found.step) == 30:
        assert kind in SPARE
        assert_state(found, 30)
        assert steps == [10, 20, 30]
        assert not told
    else:
        assert_state(found, 20)
        assert steps == [10, 20]
        assert f"checkpoint {copy}/checkpoints/30 cannot be read" in told
        assert "going on from the checkpoint before it: step 20" in told
        assert (copy / "damaged-checkpoint-30").is_dir()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("folder", ["meta", "state", "state/d", "state/ocdbt.process_0"])
def test_a_checkpoint_that_lost_a_folder(copy, folder, capfd):
    shutil.rmtree(copy / "checkpoints/30" / folder)
    found, steps = restore(copy)
    assert_state(found, 20)
    assert steps == [10, 20]
    assert "Traceback" not in capfd.readouterr().err


def test_a_damaged_step_is_written_again_and_damaged_again(copy):
    for name in ("damaged-checkpoint-30", "damaged-checkpoint-30-2"):
        damage(copy / "checkpoints/30/state/d", "truncate")
        with Checkpoints(copy / "checkpoints", keep=3) as checkpoints:
            assert_state(checkpoints.restore(abstract(), repair=True), 20)
            checkpoints.save(state_after(30), {})
        assert (copy / name / "meta/metadata").exists()
    found, steps = restore(copy)
    assert_state(found, 30)
    assert steps == [10, 20, 30]


def test_a_reader_moves_nothing(copy):
    damage(copy / "checkpoints/30/state/d", "truncate")
    with Checkpoints(copy / "checkpoints", keep=3, read_only=True) as checkpoints:
        assert_state(checkpoints.restore(abstract()), 20)
    assert (copy / "checkpoints/30").is_dir()
    assert not (copy / "damaged-checkpoint-30").exists()


def test_nothing_is_moved_where_none_can_be_read(copy):
    for step in (10, 20, 30):
        damage(copy / f"checkpoints/{step}/state/manifest.ocdbt", "truncate")
    before = sorted(copy.rglob("*"))
    with pytest.raises(UserError, match=r"no checkpoint below .* can be read; step 30: .*new --w"):
        restore(copy)
    assert sorted(copy.rglob("*")) == before


def test_a_state_that_is_not_finite_is_not_saved(copy):
    state = state_after(40)
    params = {**state.params, "bias": state.params["bias"].at[3].set(jnp.inf)}
    with Checkpoints(copy / "checkpoints", keep=3) as checkpoints:
        with pytest.raises(UserError, match=r"params\['bias'\] is finite after step 40.*step 30"):
            checkpoints.save(state._replace(params=params), {})
        assert checkpoints.steps() == [10, 20, 30]


def test_a_start_that_left_only_an_empty_folder_is_no_run(tiny, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    runs.check_workdir(str(tmp_path), tiny, None)
    (tmp_path / "checkpoints/10").mkdir()
    with pytest.raises(UserError, match=r"has checkpoints but no config\.json"):
        runs.check_workdir(str(tmp_path), tiny, None)


# ----------------------------------------------------------------------------- within a run


def test_a_run_goes_on_from_the_checkpoint_before(
    tiny, here, assert_same_run, tmp_path, caplog, capfd
):
    here(tiny.copy_and_resolve_references(), tmp_path / "straight")
    shutil.copytree(tmp_path / "straight", tmp_path / "run")
    damage(tmp_path / "run/checkpoints/12/state/d", "truncate")
    damage(tmp_path / "run/checkpoints/8/meta/metadata", "delete")
    here(tiny, tmp_path / "run")
    assert "going on from the checkpoint before it: step 4" in caplog.text
    assert {path.name for path in (tmp_path / "run").glob("damaged*")} == {
        "damaged-checkpoint-8",
        "damaged-checkpoint-12",
    }
    assert "Traceback" not in capfd.readouterr().err
    assert_same_run(tmp_path / "run", tmp_path / "straight")


@pytest.fixture
def small_disk(tmp_path):
    """`small_disk(kilobytes)`: a folder on a disk of that size; again: the same, larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def make(kilobytes):
        nonlocal mounted
        options = f"{'remount,' if mounted else ''}size={kilobytes}k"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("mounting a small disk needs Linux and its root")
        mounted = True
        return folder

    yield make
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk):
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass


def test_a_run_on_a_full_disk(tiny, here, assert_same_run, small_disk, tmp_path, capfd):
    tiny.keep_checkpoints = 9
    here(tiny.copy_and_resolve_references(), tmp_path / "straight")
    disk = small_disk(600)
    message = r"could not be written .*it needs up to [\d,]+ bytes.*Complete checkpoints: 4"
    for _ in range(2):
        with pytest.raises(UserError, match=message):
            here(tiny.copy_and_resolve_references(), disk / "run")
    assert "Traceback" not in capfd.readouterr().err
    small_disk(9000)
    here(tiny, disk / "run")
    assert_same_run(disk / "run", tmp_path / "straight")


# Orbax leaves coroutines behind that nobody awaits.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_fills_up_while_a_checkpoint_is_written(small_disk, monkeypatch):
    disk = small_disk(400)
    save_one(disk, 10)
    fill(disk)
    usage = shutil.disk_usage(disk)._replace(free=2**40)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"no space is left.*Complete checkpoints: 10"):
        save_one(disk, 20)
    (disk / "filler").unlink()
    found, steps = restore(disk)
    assert_state(found, 10)
    assert steps == [10]


def test_metrics_on_a_full_disk(small_disk):
    disk = small_disk(64)
    writer = Writer(disk, resume_step=0)
    writer.write(1, "train", {"loss": 1.0})
    fill(disk)
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written: No space left"):
        writer.write(2, "train", {f"a long name {i}": 1.0 for i in range(200)})
    writer.close()
    (disk / "filler").unlink()
    again = Writer(disk, resume_step=1)
    again.close()
    assert (disk / "metrics.jsonl").read_text() == '{"step": 1, "split": "train", "loss": 1.0}\n'


def test_a_run_from_before_a_field_existed_is_read(tiny, tmp_path):
    runs.save_config(epath.Path(tmp_path), tiny)
    written = json.loads((tmp_path / "config.json").read_text())
    for name, later in runs.LATER.items():
        if isinstance(later, dict):
            for field in later:
                del written[name][field]
        else:
            del written[name]
    written["model"]["perceptual"] = {"net": "", "file": ""}  # as before it had a weight
    del written["adversary"]
    (tmp_path / "config.json").write_text(json.dumps(written))
    found = runs.read_config(str(tmp_path))
    old = found.data
    assert (old.noise, old.frames, tuple(old.transformations)) == (0.0, 0, ())
    assert tuple(old.test_transformations) == ()
    assert found.adversary.to_dict() == tiny.adversary.to_dict()
    assert not found.adversary.loss
    assert found.pictures_every == 0
    assert found.model.perceptual.to_dict() == tiny.model.perceptual.to_dict()
    del written["data"]["source"]
    (tmp_path / "config.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match=r"no field data\.source"):
        runs.read_config(str(tmp_path))
