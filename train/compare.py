"""Bottlenecks side by side: `python -m train.compare --config configs/compare_X.py --workdir W`.

Trains every run of the comparison with every seed, and goes on where it stopped if called again;
then measures all of them in one way. `python -m train.compare --workdir W RUN RUN ...` does so with
runs that exist; runs whose configs differ in the seed alone are one system.

Where a comparison names `figures`, as (head, name, digits), or `--figures=NAME,NAME` does, its
table has those of the runs' own evaluations instead, "-" where a system has none. Where it names
`curves`, or `--curves=NAME,NAME` does, those figures are also given at every evaluated step.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from etils import epath
from ml_collections import ConfigDict

from models.likelihoods import to_unit
from train import cli, comparison_curves, comparison_tables, latents, parallel, pictures, runs
from train.data.sequences import movements_of
from train.errors import UserError
from train.loop import train_and_evaluate
from train.metrics import rate
from train.metrics.image import peak_signal_to_noise, structural_similarity

RATE_IMAGES = 1024  # whose codes are counted and rounded; other figures are of the whole split
SHOWN = 8
# Fields of `data` that say what a run is tested on, beside what moves in its test sequences.
_TESTED = ("source", "test", "image_shape", "holdout", "split_seed", "frames")


class Measured(NamedTuple):
    """One run, measured.

    Attributes:
      system: what the run is called in the table, its seed apart.
      seed: of the run.
      values: figure by name; NaN where a system has none.
      curve: PSNR over bits, from rounding the code; one point where the code is indices.
      shown: reconstructions of the first test images, or of the first sequence's frames,
        `[n, height, width, channels]`.
    """

    system: str
    seed: int
    values: dict[str, float]
    curve: list[rate.Rate]
    shown: np.ndarray


def measure(workdir: str, system: str) -> Measured:
    """Measures a finished run on its test split: code to image, the VAE's code being its mean.

    Raises:
      UserError: no run, or one that has not come to its end.
    """
    evaluation = _evaluation(workdir)
    run = runs.load(workdir)
    images = latents.images(run)
    code = latents.encode(run, images)
    shown = latents.decode(run, code)

    original = to_unit(images)
    kl = [evaluation[term] for term in run.config.loss_weights if term.split("_")[0] == "kl"]
    mse = np.mean(np.square(shown - original), axis=(1, 2, 3))
    values = {
        "psnr": _psnr(shown, original),
        "ssim": float(np.mean(_batched(structural_similarity, shown, original))),
        "nmse": float(np.mean(mse)) / run.config.model.data_variance,
        "entries": float(math.prod(code.shape[1:])),
        "non_zeros": float(np.count_nonzero(code)) / len(code),
        "nominal_bits": sum(kl) / math.log(2) if kl else math.nan,
    }
    some, exact = code[:RATE_IMAGES], _psnr(shown[:RATE_IMAGES], original[:RATE_IMAGES])
    if np.issubdtype(code.dtype, np.integer):
        values["non_zeros"] = values["entries"]
        values["nominal_bits"] = values["entries"] * math.log2(run.config.model.bottleneck.codes)
        curve = [rate.Rate(0.0, rate.code_bits(some), exact)]
    else:
        curve = rate.rate_distortion(
            some,
            lambda code: _psnr(latents.decode(run, code), original[: len(code)]),
            steps=rate.usual_steps(some),
        )
    chosen = rate.unseen(curve, exact)
    values |= {"bits": chosen.bits, "psnr_at_bits": chosen.psnr, "step": chosen.step}
    return Measured(system, run.config.seed, values, curve, _first(shown))


def _first(images: np.ndarray) -> np.ndarray:
    """The first images, or the first sequence's frames."""
    return images[0] if images.ndim == 5 else images[:SHOWN]


def evaluated(workdir: str, system: str) -> Measured:
    """A finished run's figures by its own evaluation.

    Raises:
      UserError: no run, or one that has not come to its end.
    """
    return Measured(system, runs.read_config(workdir).seed, _evaluation(workdir), [], np.zeros(0))


def _evaluation(workdir: str) -> dict[str, float]:
    evaluation = runs.read_evaluation(workdir)
    if evaluation is None:
        raise UserError(f"{workdir} has no evaluation.json: let its training come to its end first")
    return evaluation["values"]


def _psnr(images: np.ndarray, original: np.ndarray) -> float:
    return float(np.mean(_batched(peak_signal_to_noise, images, original)))


def _batched(function: object, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    size = latents.BATCH
    jitted = jax.jit(function)
    parts = [jitted(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]
    return np.concatenate([np.asarray(part) for part in parts])


def train_all(config: ConfigDict, workdir: epath.Path) -> list[tuple[str, str]]:
    """Trains what is not trained yet; gives (folder, system) of each run.

    Raises:
      UserError: a run's config does not allow it, or training was told to stop.
    """
    made = []
    for system, run_config in config.runs.items():
        for seed in config.seeds:
            run_config = ConfigDict(run_config.to_dict())
            run_config.seed = seed
            folder = str(workdir / system / f"seed{seed}")
            state = train_and_evaluate(run_config, folder)
            if int(state.step) < run_config.train.steps:
                raise UserError(f"stopped in {folder}; the same command goes on there")
            made.append((folder, system))
    return made


def named(folders: Sequence[str]) -> list[tuple[str, str]]:
    """(folder, system) of runs given by hand: the config's name, with a number where two differ.

    Raises:
      UserError: one of them holds no run, or they are not of the same test images.
    """
    found: list[tuple[dict, str]] = []
    made = []
    data = None
    for folder in folders:
        config = runs.read_config(folder)
        tested = {name: config.data[name] for name in _TESTED}
        tested["transformations"] = movements_of(config.data, "test")
        if data is not None and tested != data:
            raise UserError(f"{folder} is tested on {tested}, {folders[0]} on {data}; both must be")
        data = tested
        rest = {**config.to_dict(), "seed": 0}
        same = [system for other, system in found if other == rest]
        if same:
            made.append((folder, same[0]))
            continue
        alike = sum(other["name"] == config.name for other, _ in found)
        system = f"{config.name}-{alike + 1}" if alike else config.name
        found.append((rest, system))
        made.append((folder, system))
    return made


def main(arguments: list[str]) -> None:
    """Trains, measures, and writes the tables and pictures."""
    workdir = runs.open_workdir(flags.FLAGS.workdir)
    config, folders = flags.FLAGS.config, arguments[1:]
    if bool(folders) == (config is not None):
        raise UserError("give either --config, a comparison, or the folders of runs that exist")
    if config is not None and not {"runs", "seeds"} <= set(config):
        raise UserError("--config is no comparison: it needs the fields `runs` and `seeds`")
    found = named(folders) if folders else train_all(config, workdir)
    if not parallel.is_first_process():
        return
    if curves := _columns(config, "curves"):
        _write_curves(workdir, found, curves)
    if figures := _columns(config, "figures"):
        measured = [evaluated(folder, system) for folder, system in found]
        comparison_tables.write(workdir, measured, figures, comparison_tables.EVALUATED)
        print(comparison_tables.markdown(measured, figures, comparison_tables.EVALUATED))
        return
    measured = [measure(folder, system) for folder, system in found]
    originals = _first(latents.images(runs.load(found[0][0]), limit=SHOWN))
    comparison_tables.write(workdir, measured)
    drawn = [workdir / name for name in ("rate_distortion.png", "reconstructions.png")]
    comparison_tables.draw_rates(measured, drawn[0])
    rows = {m.system: m.shown for m in reversed(measured)}  # of each system, its first run
    pictures.rows({"original": originals} | dict(reversed(rows.items())), drawn[1])
    print(comparison_tables.markdown(measured))
    print("\npictures:", *map(str, drawn), sep="\n  ")


def _write_curves(
    workdir: epath.Path, found: list[tuple[str, str]], columns: comparison_tables.Columns
) -> None:
    """Writes, draws and prints figures at every evaluated step."""
    curves = [
        comparison_curves.read(runs.folder(folder), system, seed=runs.read_config(folder).seed)
        for folder, system in found
    ]
    comparison_curves.write(workdir, curves, columns)
    comparison_curves.draw(curves, columns, workdir / "comparison_curves.png")
    print(comparison_curves.markdown(curves, columns), end="\n\n")


def _columns(config: ConfigDict | None, field: str) -> comparison_tables.Columns:
    """The `figures` or `curves` that the comparison or the command asks for."""
    if config is not None:
        return tuple(config.get(field, ()))
    return tuple((name, name, 4) for name in flags.FLAGS[field].value)


if __name__ == "__main__":
    cli.define_config()
    cli.define_workdir("folder of the comparison: its runs, tables and pictures")
    flags.DEFINE_list(
        "figures", [], "of evaluation.json, to compare runs given by their folders in"
    )
    flags.DEFINE_list("curves", [], "of metrics.jsonl, to compare such runs in at every step")
    cli.run(main, needs=("workdir",), arguments=True)
