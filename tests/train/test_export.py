"""An exported run gives the run's arrays where there is nothing but jax and numpy."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from train import load_exported
from train.errors import UserError
from train.export import export

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype(np.uint8)


# Loads every folder named, encodes and decodes, and says what was imported for it.
ELSEWHERE = """
import sys

class Blocked:
    def find_spec(self, name, *_):
        if name.split(".")[0] in {"flax", "train", "models", "bottlenecks", "orbax", "safetensors",
                                  "ml_collections", "etils", "optax", "clu", "chex"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
import importlib.util
import numpy as np
for folder in sys.argv[2:]:
    spec = importlib.util.spec_from_file_location("load", folder + "/load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.load()
    images = np.load(sys.argv[1])
    code = model.encode(images)
    np.savez(folder + ".npz", code=code, again=model.decode(code), one=model.encode(images[:1]))
"""


@pytest.fixture(scope="module")
def folders(untrained, tmp_path_factory):
    """Exports, by system, and what another process found in them."""
    folder = tmp_path_factory.mktemp("exported")
    made = {system: folder / system for system in ("vq", "sparse", "capsules")}
    for system, path in made.items():
        export(untrained(system), str(path))
    np.save(folder / "images.npy", IMAGES)
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(folder / "images.npy"), *map(str, made.values())],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return made


@pytest.mark.parametrize("system", ["vq", "sparse", "capsules"])
def test_it_gives_the_same_arrays(untrained, folders, system):
    run, found = untrained(system), np.load(f"{folders[system]}.npz")
    code = run.encode(IMAGES)
    assert found["code"].dtype == code.dtype
    np.testing.assert_allclose(found["code"], code, atol=1e-5)
    np.testing.assert_allclose(found["one"], code[:1], atol=1e-5)  # another batch size
    np.testing.assert_allclose(found["again"], run.decode(code), atol=1e-5)


def test_the_manifest_says_what_is_in_it(folders):
    manifest = json.loads((folders["vq"] / "manifest.json").read_text())
    assert manifest["platforms"] == ["cpu", "cuda", "tpu"]
    assert manifest["encode"] == {
        "in": {"shape": ["batch", 8, 8, 1], "dtype": "float32"},
        "out": {"shape": ["batch", 4, 4, 1], "dtype": "int32"},
    }
    assert manifest["config"]["model"]["bottleneck"]["codes"] == 64
    assert manifest["parameters"]["params/encoder/down_0/conv/kernel"]["shape"] == [4, 4, 1, 4]
    assert set(manifest["sha256"]) | {"manifest.json"} == {
        path.name for path in folders["vq"].iterdir() if path.is_file()
    }


def test_what_is_missing_damaged_or_does_not_fit_is_named(untrained, folders, tmp_path):
    model = load_exported.load(folders["vq"])
    with pytest.raises(ValueError, match=r"encode takes \['batch', 8, 8, 1\], got \[8, 8, 1\]"):
        model.encode(IMAGES[0])
    for file in folders["vq"].iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "decode.jax").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"decode\.jax is damaged"):
        load_exported.load(tmp_path)
    (tmp_path / "decode.jax").unlink()
    with pytest.raises(ValueError, match=r"has no decode\.jax"):
        load_exported.load(tmp_path)
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(UserError, match=r"other files, as mine\.txt"):
        export(untrained("vq"), str(tmp_path))


def test_the_file_is_read_as_its_authors_read_it(folders):
    safetensors = pytest.importorskip("safetensors.numpy")
    path = folders["sparse"] / "parameters.safetensors"
    wanted = safetensors.load(path.read_bytes())
    found = load_exported.read_safetensors(path.read_bytes())
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
    assert Path(load_exported.__file__).read_bytes() == (folders["vq"] / "load.py").read_bytes()
