"""Bottlenecks side by side: `python -m train.compare --config configs/compare_X.py --workdir W`.

Trains every run of the comparison with every seed, and goes on where it stopped if called again;
then measures all of them in one way, and writes tables, pictures and `comparison.html`, a page with
all of it. `python -m train.compare --workdir W RUN RUN ...` does so with runs that exist; runs
whose configs differ in the seed alone are one system.

Where a comparison names `figures`, as (head, name, digits), or `--figures=NAME,NAME` does, its
table has those of the runs' own evaluations instead, "-" where a system has none. Where it names
`curves`, or `--curves=NAME,NAME` does, those figures are also given at every evaluated step.
"""

import platform
from collections.abc import Sequence

import jax
from absl import flags
from etils import epath
from ml_collections import ConfigDict

from train import (
    cli,
    comparison_curves,
    comparison_figures,
    comparison_page,
    comparison_tables,
    parallel,
    pictures,
    runs,
)
from train.data.sequences import movements_of
from train.errors import UserError
from train.loop import train_and_evaluate

# Fields of `data` that say what a run is tested on, beside what moves in its test sequences.
_TESTED = ("source", "test", "image_shape", "holdout", "split_seed", "frames")


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
    """Trains, measures, and writes the tables, the pictures and the page."""
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
    title = config.name if config is not None else "comparison"
    if figures := _columns(config, "figures"):
        measured = [comparison_figures.evaluated(folder, system) for folder, system in found]
        notes = comparison_tables.EVALUATED
        comparison_tables.write(workdir, measured, figures, notes)
        print(comparison_tables.markdown(measured, figures, notes))
        page = comparison_page.Page(title, _lead(found), measured, figures, notes)
        _write_page(workdir, page, found, curves)
        return
    compared = comparison_figures.compare(found)
    comparison_tables.write(workdir, compared.measured)
    drawn = [workdir / name for name in ("rate_distortion.png", "reconstructions.png")]
    comparison_tables.draw_rates(compared.measured, drawn[0])
    rows = {system: shown.reconstructions for system, shown in compared.shown.items()}
    pictures.rows({"original": compared.originals} | rows, drawn[1])
    print(comparison_tables.markdown(compared.measured))
    page = comparison_page.Page(
        title,
        _lead(found),
        compared.measured,
        originals=compared.originals,
        shown=compared.shown,
        probe=compared.probe,
        where=f"{jax.device_count()} {jax.devices()[0].device_kind}, {platform.machine()}",
    )
    drawn.append(_write_page(workdir, page, found, curves))
    print("\npictures:", *map(str, drawn), sep="\n  ")


def _lead(found: list[tuple[str, str]]) -> str:
    """What the runs have in common, in a sentence."""
    configs = [runs.read_config(folder) for folder, _ in found]
    systems, seeds = len({s for _, s in found}), len({config.seed for config in configs})
    steps = sorted({f"{config.train.steps:,}" for config in configs})
    sizes = sorted({str(config.train.batch_size) for config in configs})
    return (
        f"{systems} systems on {configs[0].data.source}, tested on {configs[0].data.test}; "
        f"{' or '.join(steps)} steps of {' or '.join(sizes)} examples, {seeds} seeds."
    )


def _write_page(
    workdir: epath.Path,
    page: comparison_page.Page,
    found: list[tuple[str, str]],
    columns: comparison_tables.Columns,
) -> epath.Path:
    """Writes `comparison.html`, with the runs' figures over their steps."""
    curves = [
        (columns or comparison_curves.TESTED, _read_curves(found, "test")),
        (comparison_curves.TRAINED, _read_curves(found, "train")),
    ]
    path = workdir / "comparison.html"
    comparison_page.write(path, page._replace(curves=curves))
    return path


def _read_curves(found: list[tuple[str, str]], split: str) -> list[comparison_curves.Curve]:
    return [
        comparison_curves.read(
            runs.folder(folder), system, seed=runs.read_config(folder).seed, split=split
        )
        for folder, system in found
    ]


def _write_curves(
    workdir: epath.Path, found: list[tuple[str, str]], columns: comparison_tables.Columns
) -> None:
    """Writes, draws and prints figures at every evaluated step."""
    curves = _read_curves(found, "test")
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
