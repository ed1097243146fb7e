"""What a comparison measures of finished runs, in one way for all of them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from models.likelihoods import to_unit
from train import comparison_page, latents, runs
from train.comparison_page import Shown
from train.cost import count_parameters, training_cost
from train.errors import UserError
from train.metrics import probe, rate
from train.metrics.image import peak_signal_to_noise, structural_similarity

RATE_IMAGES = 1024  # whose codes are counted and rounded; other figures are of the whole split
SHOWN = 8
PROBED = 2000  # labelled images of each split, at most, for the linear probe
MOVED, VALUES = 3, 8  # entries of a code that are changed, and to how many values


class Measured(NamedTuple):
    """One run, measured.

    Attributes:
      system: what the run is called in the table, its seed apart.
      seed: of the run.
      values: figure by name; NaN where a system has none.
      curve: PSNR over bits, from rounding the code; one point where the code is indices.
    """

    system: str
    seed: int
    values: dict[str, float]
    curve: list[rate.Rate]


class Compared(NamedTuple):
    """All that is measured and shown of the runs of a comparison.

    Attributes:
      measured: a `Measured` for each run.
      originals: the first test images, or the first sequence's frames, `[n, height, width, c]`.
      shown: pictures by system, of its first run.
      probe: accuracy of "raw pixels" and "chance", and the numbers of images "train" and "test";
        None where the data have no labels.
    """

    measured: list[Measured]
    originals: np.ndarray
    shown: dict[str, Shown]
    probe: dict[str, float] | None


def compare(found: Sequence[tuple[str, str]]) -> Compared:
    """Measures runs, given as (folder, system).

    Raises:
      UserError: no run, or one that has not come to its end.
    """
    first = runs.load(found[0][0])
    images = first.images(limit=SHOWN)
    labelled = _labelled(first)
    measured, shown = [], {}
    for folder, system in found:
        run = runs.load(folder)
        figures = measure(folder, system, run)
        values = {"parameters": float(count_parameters(run.variables["params"]))}
        if labelled is not None:
            features = [_features(run, part["image"]) for part in labelled]
            values["probe_accuracy"] = probe.linear_probe(*_paired(features, labelled))
        if system not in shown:
            shown[system] = pictures_of(run, images)
            values["seconds_per_step"] = training_cost(run.config).seconds
        measured.append(figures._replace(values=figures.values | values))
    beside = None
    if labelled is not None:
        labels = [part["label"] for part in labelled]
        pixels = [to_unit(part["image"]) for part in labelled]
        beside = {
            "raw pixels": probe.linear_probe(*_paired(pixels, labelled)),
            "chance": probe.chance(*labels),
            "train": float(len(labels[0])),
            "test": float(len(labels[1])),
        }
    return Compared(measured, first_images(images), shown, beside)


def _labelled(run: latents.Run) -> list[dict[str, np.ndarray]] | None:
    """Labelled images of the train and the test split; None where there are no labels."""
    limit = PROBED
    splits = [latents.examples(run, split=split, limit=limit) for split in ("train", "test")]
    return splits if all("label" in part for part in splits) else None


def _features(run: latents.Run, images: np.ndarray) -> np.ndarray:
    """The code, of indices the codewords."""
    code = run.encode(images)
    return latents.latent(run, code) if np.issubdtype(code.dtype, np.integer) else code


def _paired(features: list[np.ndarray], parts: list[dict[str, np.ndarray]]) -> tuple:
    return features[0], parts[0]["label"], features[1], parts[1]["label"]


def pictures_of(run: latents.Run, images: np.ndarray) -> Shown:
    """What a run makes of test images: its reconstructions, and changes of its codes."""
    between = None
    if images.ndim == 4:
        between = run.interpolate(images[0], images[1], steps=SHOWN)
    return Shown(
        first_images(run.reconstruct(images)),
        between,
        _moved(run, images[0]) if images.ndim == 4 else {},
    )


def _moved(run: latents.Run, image: np.ndarray) -> dict[str, np.ndarray]:
    """The image with some entries of its code set to several values, by the entry's place."""
    codes = run.encode(run.images(limit=RATE_IMAGES))
    flat = codes.reshape(len(codes), -1)
    if np.issubdtype(codes.dtype, np.integer):
        units = np.linspace(0, flat.shape[1] - 1, MOVED + 2).astype(int)[1:-1]
        values = np.argsort(-np.bincount(flat.reshape(-1)), kind="stable")[:VALUES]
        choices = [values] * MOVED
    else:
        units = np.argsort(-flat.var(axis=0), kind="stable")[:MOVED]
        choices = [
            np.linspace(-2, 2, VALUES) * flat[:, unit].std() + flat[:, unit].mean()
            for unit in units
        ]
    places = [tuple(int(i) for i in np.unravel_index(u, codes.shape[1:])) for u in units]
    return {
        f"entry {', '.join(map(str, place))}": run.traverse(image, place, values)
        for place, values in zip(places, choices, strict=True)
    }


def measure(workdir: str, system: str, run: latents.Run) -> Measured:
    """Measures a finished run on its test split: code to image, the VAE's code being its mean.

    Raises:
      UserError: no run, or one that has not come to its end.
    """
    evaluation = _evaluation(workdir)
    images = latents.images(run)
    code = latents.encode(run, images)
    shown = latents.decode(run, code)

    original = to_unit(images)
    kl = [evaluation[term] for term in run.config.loss_weights if term.split("_")[0] == "kl"]
    mse = np.mean(np.square(shown - original), axis=(1, 2, 3))
    used = {name: evaluation[name] for _, name, _ in comparison_page.USE if name in evaluation}
    values = used | {
        "psnr": _psnr(shown, original),
        "ssim": float(np.mean(_batched(structural_similarity, shown, original))),
        "nmse": float(np.mean(mse)) / run.config.model.data_variance,
        "entries": float(math.prod(code.shape[1:])),
        "non_zeros": float(np.count_nonzero(code)) / len(code),
        "nominal_bits": sum(kl) / math.log(2) if kl else math.nan,
        "varying": float(varying(code)),
    }
    some, exact = code[:RATE_IMAGES], _psnr(shown[:RATE_IMAGES], original[:RATE_IMAGES])
    if np.issubdtype(code.dtype, np.integer):
        values["non_zeros"] = values["entries"]
        values["nominal_bits"] = values["entries"] * math.log2(run.model.bottleneck.codes)
        curve = [rate.Rate(0.0, rate.code_bits(some), exact)]
    else:
        curve = rate.rate_distortion(
            by_unit(run, some),
            lambda units: _psnr(
                run.decode(units.reshape(len(units), *run.code_shape)), original[: len(units)]
            ),
            steps=rate.usual_steps(some),
        )
    chosen = rate.unseen(curve, exact)
    values |= {"bits": chosen.bits, "psnr_at_bits": chosen.psnr, "step": chosen.step}
    return Measured(system, run.config.seed, values, curve)


def by_unit(run: latents.Run, code: np.ndarray) -> np.ndarray:
    """Codes `[n, positions..., units]`; where several axes are units, as of capsules, in one."""
    axes = getattr(run.model.bottleneck, "unit_axes", 1)
    return code.reshape(*code.shape[: code.ndim - axes], -1)


def varying(code: np.ndarray) -> int:
    """Entries of codes `[n, ...]` that vary over the examples.

    Their variance is above a hundredth of the mean of all entries'; indices are not always alike.
    """
    flat = code.reshape(len(code), -1)
    if np.issubdtype(code.dtype, np.integer):
        return int(np.sum(flat.min(axis=0) != flat.max(axis=0)))
    variance = flat.var(axis=0, dtype=np.float64)
    return int(np.sum(variance > 0.01 * variance.mean()))


def first_images(images: np.ndarray) -> np.ndarray:
    """The first images, or the first sequence's frames."""
    return images[0] if images.ndim == 5 else images[:SHOWN]


def evaluated(workdir: str, system: str) -> Measured:
    """A finished run's figures by its own evaluation.

    Raises:
      UserError: no run, or one that has not come to its end.
    """
    return Measured(system, runs.read_config(workdir).seed, _evaluation(workdir), [])


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
