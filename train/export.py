"""A run's encoder and decoder in a folder that needs jax alone: `python -m train.export`.

    python -m train.export --workdir W --out DIR

DIR then holds `encode.jax` and `decode.jax` (StableHLO by `jax.export`, for any batch size, on CPU,
CUDA and TPU), `parameters.safetensors`, `manifest.json` (config, shapes, versions, checksums) and
`load.py`, which loads them with jax, numpy and flatbuffers (by which `jax.export` reads) alone:

    import load                     # in DIR, or with DIR on the path

    model = load.load()
    code = model.encode(images)
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import export as jax_export

from train import cli, latents, load_exported, runs
from train.errors import UserError
from train.writers import versions

PLATFORMS = ("cpu", "cuda", "tpu")
_INCONCLUSIVE = jax.errors.InconclusiveDimensionOperation


def export(run: latents.Run, out: str, *, platforms: tuple[str, ...] = PLATFORMS) -> list[Path]:
    """Writes a run's encoder, decoder and parameters into the folder `out`; returns the files.

    Images are float32 in [0, 1] and codes as `run.encode` gives them, of any batch size.

    Raises:
      UserError: safetensors or flatbuffers is not installed, `out` cannot be written or holds other
        files, or the model cannot be exported.
    """
    save = _save_function()
    parameters = {name: np.asarray(x) for name, x in _named(run.variables).items()}
    encode, decode = exported_functions(run, parameters, platforms=platforms)
    folder = Path(out).expanduser()
    names = ("encode.jax", "decode.jax", "parameters.safetensors", "load.py")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if other := sorted({path.name for path in folder.iterdir()} - {*names, "manifest.json"}):
            raise UserError(f"--out {out} holds other files, as {other[0]}; choose a new folder")
        for name, function in zip(names, (encode, decode), strict=False):
            (folder / name).write_bytes(function.serialize())
        (folder / "parameters.safetensors").write_bytes(save(parameters))
        (folder / "load.py").write_bytes(Path(load_exported.__file__).read_bytes())
        checksums = {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names
        }
        manifest = {
            "name": run.config.name,
            "step": run.step,
            "platforms": list(platforms),
            "encode": _signature(encode),
            "decode": _signature(decode),
            "parameters": {name: _described(x) for name, x in parameters.items()},
            "sha256": checksums,
            "versions": versions(),
            "config": run.config.to_dict(),
        }
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror or error}") from error
    return [folder / name for name in (*names, "manifest.json")]


def exported_functions(
    run: latents.Run, parameters: dict[str, np.ndarray], *, platforms: tuple[str, ...] = PLATFORMS
) -> tuple[jax_export.Exported, jax_export.Exported]:
    """`encode(parameters, image)` and `decode(parameters, code)` for a symbolic batch size.

    Raises:
      UserError: the model cannot be exported so.
    """
    (batch,) = jax_export.symbolic_shape("batch")
    structure = jax.tree.structure(run.variables)
    code = latents.abstract_code(run)
    described = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in parameters.items()}

    def of_named(function: Any) -> Any:
        """`function(variables, x)` of variables by name."""

        def named(parameters: dict[str, jax.Array], x: jax.Array) -> jax.Array:
            leaves = [parameters[name] for name in described]
            return function(jax.tree.unflatten(structure, leaves), x)

        return named

    def exported(function: Any, shape: tuple[int, ...], dtype: Any) -> jax_export.Exported:
        x = jax.ShapeDtypeStruct((batch, *shape), dtype)
        export_jitted = jax_export.export(jax.jit(function), platforms=platforms)
        return export_jitted(described, x)

    encode = of_named(latents.encoder(run.model))
    decode = of_named(latents.decoder(run.model, lead=latents.lead(run)))
    image = (latents.image_shape(run.config), jnp.float32)
    try:
        try:
            encode = exported(encode, *image)
        except _INCONCLUSIVE:  # the search for codewords takes rows in groups of a known size
            encode = exported(_one_by_one(encode), *image)
        return encode, exported(decode, code.shape[1:], code.dtype)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UserError(f"{run.config.name} cannot be exported: {error}") from error


def _one_by_one(encode: Any) -> Any:
    """The same function, each image by itself, so that no shape inside depends on the batch."""
    return jax.vmap(lambda parameters, x: encode(parameters, x[None])[0], in_axes=(None, 0))


def _named(variables: Any) -> dict[str, jax.Array]:
    """Leaves of the variables by their path, as "params/encoder/last/kernel", in their order."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(variables)
    }


def _signature(function: jax_export.Exported) -> dict[str, Any]:
    """Shapes and dtypes of what comes in and goes out, the parameters apart."""
    return {"in": _described(function.in_avals[-1]), "out": _described(function.out_avals[0])}


def _described(x: Any) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else str(size) for size in x.shape]
    return {"shape": shape, "dtype": str(np.dtype(x.dtype))}


def _save_function() -> Any:
    try:
        import flatbuffers  # noqa: F401  (jax.export writes with it)
        from safetensors.numpy import save
    except ImportError as error:
        raise UserError(
            "exporting needs safetensors and flatbuffers; pip install 'bottlenecks[export]'"
        ) from error
    return save


def main(_: list[str]) -> None:
    """Exports the run in `--workdir`."""
    written = export(runs.load(flags.FLAGS.workdir), flags.FLAGS.out)
    print("exported:", *map(str, written), sep="\n  ")


if __name__ == "__main__":
    cli.define_workdir("folder of the run to export")
    flags.DEFINE_string("out", None, "folder to write to")
    cli.run(main, needs=("workdir", "out"))
