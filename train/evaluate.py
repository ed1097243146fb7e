"""Exact evaluation of a model on a split: `python -m train.evaluate --workdir W`."""

import functools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from etils import epath
from flax import linen as nn
from ml_collections import ConfigDict

from train import cli, parallel, report, runs, steps
from train.data.audio import check_speakers
from train.data.pipeline import evaluation_batches
from train.data.sequences import movements_of
from train.data.sources import Source, load_source
from train.data.statistics import code_statistics, data_statistics
from train.data.transforms import Transform, make_transform
from train.errors import UserError
from train.metrics import (
    OF_PRIORS,
    OF_SECOND_STAGES,
    OF_SPEECH,
    Evaluator,
    build_evaluators,
    codes,
    likelihood,
)
from train.metrics.codes import independent_codes
from train.metrics.image import mean_image_baseline
from train.progress import watched
from train.state import TrainState, evaluation_variables
from train.writers import write_whole


class Evaluated(NamedTuple):
    """What an evaluation found.

    Attributes:
      values: name to figure.
      totals: evaluator to name to the sum over the split, float64, for pictures.
    """

    values: dict[str, float]
    totals: dict[str, dict[str, np.ndarray]]


class Stopped(Exception):
    """The evaluation was told to stop before its end."""


def check_evaluators(config: ConfigDict, state: TrainState) -> None:
    """Refuses evaluators that the model does not fit, without data and without computing.

    Raises:
      UserError: names the evaluator; `state` is what `runs.abstract_state` gives.
    """
    model = runs.build_model(config)
    evaluators = build_evaluators(
        runs.final_evaluators(config),
        data_variance=config.model.data_variance or 1.0,
        samples=config.evaluation.importance_samples,
        factors=movements_of(config.data, "test"),
        inception=config.evaluation.inception,
    )
    batch = runs.example_batch(config, rows=2)
    batch["mask"] = jax.ShapeDtypeStruct((2,), np.float32)
    kinds = {
        "a prior": (config.model.prior, OF_PRIORS),
        "speech": (config.model.speech, OF_SPEECH),
        "a second stage": (config.model.second_stage, OF_SECOND_STAGES),
    }
    for name, evaluator in evaluators.items():
        for what, (section, known) in kinds.items():
            if section and name not in known:
                raise UserError(
                    f"the evaluator {name!r} measures images, and {what} has none; it has "
                    f"{', '.join(known)}"
                )
        sums = functools.partial(evaluator.sums, model)
        jax.eval_shape(sums, evaluation_variables(state), batch, jax.random.key(0))


def measure_baselines(
    config: ConfigDict, source: Source, transform: Transform | None
) -> dict[str, Evaluator]:
    """The trivial models that the config's own is compared with, measured on the training split.

    The mean image, for images; fills in `config.model.data_variance` where that is 0. For codes,
    independent ones: "uniform", and "unigram" with their frequencies.

    Raises:
      UserError: the prior or second stage does not fit the codes, or the speech the speakers.
    """
    if config.model.speech:
        check_speakers(source, config.model.speech.classes)
        return {}
    if config.model.prior or config.model.second_stage:
        counts = code_statistics(
            source,
            transform,
            shape=tuple(config.model.code_shape),
            codes=(config.model.prior or config.model.second_stage).codes,
            section="model.prior" if config.model.prior else "model.second_stage",
            classes=config.model.prior.get("classes", 0),
            actions=config.model.prior.get("actions", 0),
        )
        return independent_codes(counts)
    statistics = data_statistics(source, transform)
    if not config.model.data_variance:
        config.model.data_variance = float(statistics.variance)
    variance = config.model.data_variance
    return {"mean_image": mean_image_baseline(statistics.mean_image, data_variance=variance)}


def make_evaluation(
    config: ConfigDict,
    model: nn.Module,
    *,
    names: tuple[str, ...],
    baselines: Mapping[str, Evaluator] | None = None,
    split: str = "test",
) -> Callable[..., Evaluated]:
    """`evaluate(variables, stop=None) -> Evaluated` on a split of the config's data.

    Sums are gathered per batch on the devices, under a mask for the last, uneven batch, and added
    up in float64: exact for any size of the split and any number of devices. The figures of
    `baselines` are there too, named `mean_image/...`, say.
    """
    source = load_source(config.data, split)
    transform = make_transform(config.data, split)
    evaluators = build_evaluators(
        names,
        data_variance=config.model.data_variance,
        samples=config.evaluation.importance_samples,
        factors=movements_of(config.data, split),
        inception=config.evaluation.inception,
    )
    baselines = baselines or {}
    evaluators.update(baselines)
    sums_step = parallel.mapped(steps.make_sums_step(model, evaluators))

    def evaluate(variables: Any, *, stop: Callable[[], bool] | None = None) -> Evaluated:
        key = jax.random.key(config.seed)
        variables = parallel.place(variables)
        totals: dict[str, dict[str, np.ndarray]] = {name: {} for name in evaluators}
        batches = evaluation_batches(
            source,
            batch_size=config.evaluation.batch_size,
            transform=transform,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        count = math.ceil(len(source) / config.evaluation.batch_size)
        for number, batch in enumerate(watched(batches, total=count)):
            if stop is not None and stop():
                raise Stopped
            batch_key = jax.random.fold_in(key, number)
            sums = jax.device_get(sums_step((variables, batch_key), parallel.shard(batch)))
            for name, parts in sums.items():
                for part, value in parts.items():
                    totals[name][part] = totals[name].get(part, 0.0) + np.asarray(value, np.float64)
        values = {}
        for name, evaluator in evaluators.items():
            prefix = f"{name}/" if name in baselines else ""
            for figure, value in evaluator.summary(totals[name]).items():
                values[prefix + figure] = float(value)
        return Evaluated(values, totals)

    return evaluate


def save_evaluation(workdir: epath.Path, step: int, evaluated: Evaluated) -> None:
    """Writes `evaluation.json` from the first process."""
    if parallel.is_first_process():
        arrays = {}
        if "codes" in evaluated.totals:
            arrays["code_counts"] = codes.counts(evaluated.totals["codes"]).tolist()
        if "units" in evaluated.totals:
            arrays["kl_per_unit"] = likelihood.kl_per_unit(evaluated.totals["units"]).tolist()
        content = {"step": step, "values": evaluated.values, "arrays": arrays}
        write_whole(workdir / "evaluation.json", json.dumps(content, indent=2) + "\n")


def main(_: list[str]) -> None:
    """Evaluates the run in `--workdir` again, alone."""
    workdir = runs.folder(flags.FLAGS.workdir)
    config = runs.read_config(workdir)
    if flags.FLAGS.importance_samples is not None:
        config.evaluation.importance_samples = flags.FLAGS.importance_samples
    parallel.check_batch_size("evaluation.batch_size", config.evaluation.batch_size)
    run = runs.load(workdir)
    train_source = load_source(config.data, "train")
    baselines = measure_baselines(config, train_source, make_transform(config.data, "train"))
    names = runs.final_evaluators(config)
    model = runs.build_model(config, axis_name=parallel.AXIS)
    evaluate = make_evaluation(
        config, model, names=names, baselines=baselines, split=flags.FLAGS.split
    )
    evaluated = evaluate(run.variables)
    if flags.FLAGS.split == "test" and flags.FLAGS.importance_samples is None:
        save_evaluation(workdir, run.step, evaluated)
    if parallel.is_first_process():
        print(f"{config.name}, step {run.step}, {flags.FLAGS.split}")
        print(report.table(evaluated.values))


if __name__ == "__main__":
    cli.define_workdir("folder of the run to evaluate")
    flags.DEFINE_enum("split", "test", ["train", "test"], "split to evaluate on")
    flags.DEFINE_integer("importance_samples", None, "draws of the importance-weighted likelihood")
    cli.run(main)
