"""How far a run's codes hold the known factors apart: `python -m train.disentangle --workdir W`."""

import json
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import linen as nn

from train import cli, latents, parallel, runs, steps
from train.data import games
from train.data.pipeline import evaluation_batches
from train.data.random_access import Source
from train.data.sources import load_source
from train.data.transforms import Transform, make_transform
from train.errors import UserError
from train.metrics import disentanglement, partitions
from train.metrics.factor_vae import factor_vae_score
from train.writers import write_whole

log = logging.getLogger("train")

# What stands beside the codes: what a metric is worth where nothing was learned, where there is
# nothing to know, and where everything is known, one factor a unit.
COLUMNS = ("model", "untrained", "permuted", "factors")


class Encoded(NamedTuple):
    """A split, encoded.

    Attributes:
      codes: float32 `[n, units]`.
      factors: `[n, F]`.
      shown: bool `[n, F]`, whether the image shows the factor.
    """

    codes: np.ndarray
    factors: np.ndarray
    shown: np.ndarray


class Known(NamedTuple):
    """The factors that codes are measured by.

    Attributes:
      rows: int `[n]`, the examples whose image shows all of them.
      factors: int32 `[n, F]`, of those examples, in bins.
      names: of the F factors.
      left_out: why others are not among them, by name.
    """

    rows: np.ndarray
    factors: np.ndarray
    names: list[str]
    left_out: dict[str, str]


def encode(
    model: nn.Module,
    variables: Any,
    source: Source,
    transform: Transform | None,
    *,
    batch_size: int,
) -> Encoded:
    """The codes of all examples (of a posterior, its mean), each flattened to one row of units.

    Raises:
      UserError: the source has no factors, or the codes are indices.
    """
    if "factors" not in source[0]:
        raise UserError(
            f"examples have {', '.join(sorted(source[0]))}, but no known 'factors' to compare "
            "codes with; data.source='game:pong' has them"
        )
    code = latents.encoder(model)
    parts = []
    for batch in evaluation_batches(source, batch_size=batch_size, transform=transform):
        real = batch["mask"] > 0
        found = np.asarray(code(variables, batch["image"]))[real]
        if not jnp.issubdtype(found.dtype, jnp.floating):
            raise UserError(
                f"the model's codes are {found.dtype}; the metrics need units with values, such "
                "as the posterior means of a Gaussian bottleneck"
            )
        factors = batch["factors"][real]
        shown = batch.get("factors_shown", np.ones_like(batch["factors"], bool))[real]
        parts.append((found.reshape(len(found), -1).astype(np.float32), factors, shown))
    return Encoded(*map(np.concatenate, zip(*parts, strict=True)))


def known_factors(factors: np.ndarray, shown: np.ndarray, names: tuple[str, ...]) -> Known:
    """The factors that vary and that some image shows, where the image shows all of them.

    Args:
      factors: `[n, F]`; cut into bins of equal width where they have many values.
      shown: bool `[n, F]`.
      names: of the F factors.

    Raises:
      UserError: fewer than two factors are left.
    """
    left_out = {
        name: "no image shows it"
        for name, any_ in zip(names, shown.any(axis=0), strict=True)
        if not any_
    }
    kept = [j for j, name in enumerate(names) if name not in left_out]
    rows = np.flatnonzero(shown[:, kept].all(axis=1))
    for j in kept:
        if len(rows) == 0 or np.ptp(factors[rows, j]) == 0:
            left_out[names[j]] = "it does not vary"
    kept = [j for j in kept if names[j] not in left_out]
    if len(kept) < 2:
        raise UserError(
            f"of the factors {', '.join(names)} fewer than two vary and are shown together; "
            "expected two or more"
        )
    binned = disentanglement.bin_factors(factors[rows][:, kept])
    return Known(rows, binned, [names[j] for j in kept], left_out)


def measure(
    codes: np.ndarray, factors: np.ndarray, *, train: int, test: int, seed: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The metrics of units, by name, and the tables that they are made of."""
    random = np.random.default_rng(seed)
    gap = disentanglement.mutual_information_gap(codes, factors, random=random)
    dci = disentanglement.dci(codes, factors, random=random, train=train, test=test)
    sap = disentanglement.sap(codes, factors, random=random, train=train, test=test)
    votes = factor_vae_score(codes, factors, random=random)
    values = {
        "mig": gap.score,
        "dci_disentanglement": dci.disentanglement,
        "dci_completeness": dci.completeness,
        "dci_informativeness": dci.informativeness,
        "sap": sap.score,
        "factor_vae": votes.score,
        "active_units": votes.active,
    }
    tables = {
        "information": gap.information,
        "importance": dci.importance,
        "accuracy": sap.accuracy,
        "votes": votes.votes,
    }
    return values, tables


def compare(
    codes: Mapping[str, np.ndarray],
    factors: np.ndarray,
    *,
    sizes: tuple[int, ...],
    samples: int,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Measures codes beside what is to be expected of codes that are worth nothing, or everything.

    Args:
      codes: "model" and "untrained", each `[n, units]`. Untrained units are scaled to variance 1,
        that of the prior: left as small as they start, they would count as collapsed.
      factors: whole numbers `[n, F]`.
      sizes: of the partitions; () where there are none.
      samples: examples to use; trees and machines are fitted to two thirds of them.
      draws: random groupings, for the partitions' null.
      seed: of all that is drawn.

    Returns:
      "examples", "train", "test": numbers of examples; "units": the metrics for each of `COLUMNS`;
      "tables": those of the model; with partitions, "partitions": their metrics for the first three
      of `COLUMNS`, and "null": `partitions.permutation_null` of the model.
    """
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(factors))[:samples]
    factors = factors[chosen]
    train, test = disentanglement.split_sizes(len(chosen), train=2 * samples, test=samples)
    parts = {
        "model": (codes["model"][chosen], factors),
        "untrained": (_scaled(codes["untrained"][chosen]), factors),
        "permuted": (codes["model"][chosen], random.permutation(factors)),
        "factors": (factors.astype(np.float32), factors),
    }
    found = {"examples": len(chosen), "train": train, "test": test, "units": {}}
    tables = {}
    for column in COLUMNS:
        log.info("measuring %s on %d examples", column, len(chosen))
        values, tables[column] = measure(*parts[column], train=train, test=test, seed=seed)
        found["units"][column] = values
    found["tables"] = {name: table.tolist() for name, table in tables["model"].items()}
    if not sizes:
        return found
    log.info("measuring partitions %s and %d random groupings", sizes, draws)
    grouped = {"sizes": sizes}
    for column in COLUMNS[:3]:
        options = {
            "importance": tables[column]["importance"],
            "random": np.random.default_rng(seed),
            "train": train,
            "test": test,
        }
        grouped[column] = partitions.partition_scores(*parts[column], sizes, **options)
        if column == "model":
            options["random"] = np.random.default_rng(seed)
            null = partitions.permutation_null(*parts[column], sizes, draws=draws, **options)
            grouped["null"] = {name: each._asdict() for name, each in null.items()}
    return found | {"partitions": grouped}


def _scaled(codes: np.ndarray) -> np.ndarray:
    """Units with variance 1; constant ones stay constant."""
    deviation = codes.std(axis=0)
    return (codes - codes.mean(axis=0)) / np.where(deviation > 0, deviation, 1)


def table(found: dict[str, Any]) -> str:
    """The figures of `measure_run` as text."""
    units = found["units"]
    lines = [f"{found['name']}, step {found['step']}, factors: {', '.join(found['factors'])}"]
    lines += [f"left out: {name}, {reason}" for name, reason in found["left_out"].items()]
    lines += [
        f"{found['examples']} of {found['shown']} test examples that show all factors (of "
        f"{found['split']}); fitted to {found['train']}, tested on {found['test']}",
        "",
        f"{'units':19}" + "".join(f"{column:>11}" for column in COLUMNS),
    ]
    for name in units["model"]:
        lines.append(f"{name:19}" + "".join(f"{units[c][name]:>11.4g}" for c in COLUMNS))
    if grouped := found.get("partitions"):
        title = f"partitions {' '.join(map(str, grouped['sizes']))}"
        columns = COLUMNS[:3]
        lines += ["", f"{title:19}" + "".join(f"{c:>11}" for c in columns) + "   random groupings"]
        for name, null in grouped["null"].items():
            values = "".join(f"{grouped[c][name]:>11.4g}" for c in columns)
            by_chance = f"{null['mean']:.4g} ({null['low']:.4g} to {null['high']:.4g})"
            lines.append(f"{name:19}{values}   {by_chance}")
    return "\n".join(lines)


def measure_run(workdir: str, *, samples: int, draws: int) -> dict[str, Any]:
    """Measures a run's codes on its test split, and writes `disentanglement.json`.

    Neighbouring frames of a game are alike, and some are fitted to and others tested on, so that
    what is predicted of test examples flatters all columns: compare them with each other.

    Returns:
      What `compare` does, and "name", "step", "factors" (their names), "left_out", "split" (how
      many examples it has) and "shown" (how many show all factors).

    Raises:
      UserError: no run, a source without factors, codes that are indices, too few examples.
    """
    for name, value, least in (("samples", samples, 100), ("draws", draws, 1)):
        if value < least:
            raise UserError(f"{name} is {value}; it must be at least {least}")
    run = runs.load(workdir)
    config = run.config
    source = load_source(config.data, "test")
    transform = make_transform(config.data, "test")
    options = {"batch_size": config.evaluation.batch_size}
    trained = encode(run.model, parallel.place(run.variables), source, transform, **options)
    # As a run starts, from a key that no run starts from.
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 2), 3)
    batch = next(evaluation_batches(source, transform=transform, **options))
    start = jax.jit(lambda keys, image: run.model.init(keys, {"image": image}, train=True))
    fresh = start(dict(zip(("params", *steps.RNGS), keys, strict=True)), batch["image"])
    untrained = encode(run.model, fresh, source, transform, **options)

    kind, _, place = config.data.source.partition(":")
    count = trained.factors.shape[1]
    names = games.factor_names(place) if kind == "game" else tuple(map(str, range(count)))
    known = known_factors(trained.factors, trained.shown, names)
    found = {
        "name": config.name,
        "step": run.step,
        "factors": known.names,
        "left_out": known.left_out,
        "split": len(source),
        "shown": len(known.rows),
    } | compare(
        {"model": trained.codes[known.rows], "untrained": untrained.codes[known.rows]},
        known.factors,
        sizes=tuple(config.model.bottleneck.get("partitions", ())),
        samples=samples,
        draws=draws,
        seed=config.seed,
    )
    if parallel.is_first_process():
        text = json.dumps(found, indent=2) + "\n"
        write_whole(runs.folder(workdir) / "disentanglement.json", text)
    return found


def main(_: list[str]) -> None:
    """Measures the run in `--workdir` and prints the figures."""
    values = flags.FLAGS
    found = measure_run(values.workdir, samples=values.samples, draws=values.draws)
    if parallel.is_first_process():
        print(table(found))


if __name__ == "__main__":
    cli.define_workdir("folder of the run to measure")
    flags.DEFINE_integer("samples", 3000, "examples to use (15000: the published protocol)")
    flags.DEFINE_integer("draws", 100, "random groupings, for the partitions' null")
    cli.run(main)
