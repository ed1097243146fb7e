"""An exported encoder and decoder, with nothing but jax, numpy and flatbuffers.

    import load

    model = load.load()            # of the folder this file is in
    code = model.encode(images)    # [n, height, width, channels], uint8 or floating in [0, 1]
    again = model.decode(code)     # in [0, 1]

`manifest.json` says which shapes, platforms and versions, and what config it was trained by.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import numpy as np


class Exported(NamedTuple):
    """An encoder and a decoder with their parameters.

    Attributes:
      encode: images `[n, height, width, channels]` (of sequences `[n, frames, ...]`) to codes.
      decode: codes to mean images in [0, 1].
      parameters: by name; `functions["encode"].call(parameters, images)` takes others as well.
      functions: "encode" and "decode" as `jax.export.Exported`.
      manifest: what `manifest.json` holds.
    """

    encode: Callable[[Any], jax.Array]
    decode: Callable[[Any], jax.Array]
    parameters: dict[str, np.ndarray]
    functions: dict[str, jax.export.Exported]
    manifest: dict[str, Any]


def load(folder: str | Path = Path(__file__).parent) -> Exported:
    """What `python -m train.export` has written into a folder.

    Raises:
      ValueError: a file is missing, or not the one that the manifest speaks of.
    """
    folder = Path(folder)
    manifest = json.loads(_read(folder, "manifest.json"))
    content = {}
    for name, wanted in manifest["sha256"].items():
        content[name] = _read(folder, name)
        if hashlib.sha256(content[name]).hexdigest() != wanted:
            raise ValueError(f"{folder / name} is damaged: its SHA-256 is not the manifest's")
    functions = {
        name: jax.export.deserialize(bytearray(content[f"{name}.jax"]))
        for name in ("encode", "decode")
    }
    parameters = read_safetensors(content["parameters.safetensors"])
    order = list(manifest["parameters"])
    parameters = {name: parameters[name] for name in order}

    def caller(name: str) -> Callable[[Any], jax.Array]:
        """The function of this name with the parameters, compiled once for each batch size."""
        takes = manifest[name]["in"]
        call = jax.jit(functions[name].call)

        def checked(x: Any) -> jax.Array:
            x = np.asarray(x)
            if name == "encode" and x.dtype == np.uint8:
                x = x.astype(np.float32) / 255
            if list(x.shape[1:]) != takes["shape"][1:]:
                raise ValueError(f"{name} takes {takes['shape']}, got {list(x.shape)}")
            return call(parameters, x.astype(takes["dtype"]))

        return checked

    return Exported(caller("encode"), caller("decode"), parameters, functions, manifest)


def read_safetensors(content: bytes) -> dict[str, np.ndarray]:
    """Arrays by name: the length of a JSON header, the header, then the bytes of all arrays."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    kinds = {"F32": np.float32, "F64": np.float64, "I32": np.int32, "U32": np.uint32, "BOOL": bool}
    arrays = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        raw = content[start + first : start + last]
        arrays[name] = np.frombuffer(raw, kinds[entry["dtype"]]).reshape(entry["shape"])
    return arrays


def _read(folder: Path, name: str) -> bytes:
    if not (folder / name).exists():
        raise ValueError(f"{folder} has no {name}; it is no whole export")
    return (folder / name).read_bytes()
