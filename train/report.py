"""The end of a run: a table of its figures beside the trivial baseline's, and its pictures."""

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import linen as nn
from ml_collections import ConfigDict

from models.autoencoder import AutoencoderOutput
from train import latents, pictures, runs, sample
from train.data.pipeline import evaluation_batches
from train.data.sources import load_source
from train.data.transforms import make_transform

BASELINES = ("mean_image", "uniform", "unigram")
SHOWN = 16
SEQUENCES = 6
ROWS = 10  # classes of which a prior's draws are shown


def table(values: dict[str, float]) -> str:
    """Figures by name, those of the trivial baselines beside them where they have them."""
    own = {name: value for name, value in values.items() if name.split("/")[0] not in BASELINES}
    shown = [b for b in BASELINES if any(f"{b}/{name}" in values for name in own)]
    paired = [name for name in own if any(f"{b}/{name}" in values for b in shown)]
    single = [name for name in own if name not in paired]
    width = max(map(len, own), default=0)
    lines = []
    if paired:
        titles = "".join(f"  {b.replace('_', ' '):>10}" for b in shown)
        lines.append(f"{'':{width}}  {'model':>10}{titles}")
    for name in sorted(paired):
        others = (values.get(f"{b}/{name}", float("nan")) for b in shown)
        figures = "".join(f"  {value:>10.5g}" for value in (own[name], *others))
        lines.append(f"{name:{width}}{figures}")
    lines += [f"{name:{width}}  {own[name]:>10.5g}" for name in sorted(single)]
    return "\n".join(lines)


def finish(path: epath.Path, config: ConfigDict, variables: dict[str, Any]) -> None:
    """Draws the pictures of a finished run and prints its table."""
    evaluation = json.loads((path / "evaluation.json").read_text())
    drawn = draw(path, config, variables, evaluation)
    print(f"\n{config.name}: {config.data.test} split after {evaluation['step']} steps")
    print(table(evaluation["values"]))
    print("\npictures:", *map(str, drawn), sep="\n  ")


def step_pictures(path: epath.Path, config: ConfigDict) -> Callable[[int, Any], None]:
    """`draw(step, variables)`, which writes `pictures/step_000500.png`, unless it is there.

    It shows the same test images each time, above their reconstructions. Nothing is loaded or
    compiled before the first call. For one process alone: it computes on that one's first device.
    """

    @functools.cache
    def prepared() -> tuple[Any, dict[str, jax.Array]]:
        model, batch = runs.build_model(config), _test_batch(config)
        key = jax.random.key(config.seed)
        return jax.jit(lambda v: _output(model, v, batch, key).reconstruction), batch

    def draw(step: int, variables: Any) -> None:
        name = f"step_{step:06d}.png"
        if (path / "pictures" / name).exists():
            return
        reconstruct, batch = prepared()
        again = reconstruct(jax.device_get(variables))
        with tempfile.TemporaryDirectory() as local:
            _draw_reconstructions(Path(local) / name, config, batch, again, f", step {step}")
            (path / "pictures").mkdir(parents=True, exist_ok=True)
            (path / "pictures" / name).write_bytes((Path(local) / name).read_bytes())

    return draw


def _test_batch(config: ConfigDict) -> dict[str, jax.Array]:
    """The first examples of the test split."""
    source = load_source(config.data, "test")
    transform = make_transform(config.data, "test")
    return next(evaluation_batches(source, batch_size=SHOWN, transform=transform))


def _output(model: nn.Module, variables: Any, batch: Any, key: jax.Array) -> AutoencoderOutput:
    return model.apply(variables, batch, train=False, rngs={"sample": key})


def _draw_reconstructions(
    file: Path, config: ConfigDict, batch: dict[str, Any], again: Any, when: str = ""
) -> None:
    real = np.asarray(batch["mask"]) > 0
    shown = [np.asarray(x)[real] for x in (batch["image"], again)]
    what, columns = "images", 8
    if config.data.frames:  # a row for each of a few sequences
        shown = [x[:SEQUENCES].reshape(-1, *x.shape[2:]) for x in shown]
        what, columns = "sequences", config.data.frames
    title = f"{config.name}{when}: test {what}, each above its reconstruction"
    pictures.reconstructions(*shown, file, columns=columns, title=title)


def draw(
    path: epath.Path, config: ConfigDict, variables: dict[str, Any], evaluation: dict[str, Any]
) -> list[epath.Path]:
    """Draws what there is to see of a run into `pictures/`; returns the files."""
    folder = path / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    # Drawn beside, then copied: a workdir in a bucket has no file names that matplotlib knows.
    with tempfile.TemporaryDirectory() as local:
        # Of speech, of the next frame and of two stages, commands of their own make draws.
        names = []
        prior = config.model.prior
        if prior and prior.name != "video" and not sample.of_speech(config):
            names = _draw_samples(Path(local), config, variables, evaluation["step"])
        elif not prior and not config.model.speech and not config.model.second_stage:
            names = _draw_images(Path(local), config, variables, evaluation)
        lines = Path(local) / "metrics.jsonl"
        lines.write_text((path / "metrics.jsonl").read_text())
        names.append("curves.png")
        pictures.training_curves(lines, Path(local) / names[-1])
        for name in names:
            (folder / name).write_bytes((Path(local) / name).read_bytes())
    return [folder / name for name in names]


def _draw_images(
    folder: Path,
    config: ConfigDict,
    variables: dict[str, Any],
    evaluation: dict[str, Any],
) -> list[str]:
    model, batch = runs.build_model(config), _test_batch(config)
    key = jax.random.key(config.seed)
    output = jax.jit(lambda v, b: _output(model, v, b, key))(variables, batch)
    drawn = ["reconstructions.png"]
    _draw_reconstructions(folder / drawn[0], config, batch, output.reconstruction)

    decode = jax.jit(lambda v, z: model.likelihood.mean(model.apply(v, z, method="decode")))
    arrays = evaluation["arrays"]
    if "code_counts" in arrays:
        counts = np.asarray(arrays["code_counts"])
        drawn.append("codebook_use.png")
        pictures.codebook_use(counts, folder / drawn[-1])
        # Without a trained prior: each code drawn alone, as often as it is used.
        shape = (SHOWN, *output.code.shape[1:])
        code = latents.draw_by_counts(key, counts, shape)
        latent = model.apply(variables, code, method=lambda m, c: m.bottleneck.look_up(c))
        title = f"{config.name}: codes drawn one by one, no prior over their arrangement"
        drawn.append("samples.png")
        pictures.image_grid(np.asarray(decode(variables, latent)), folder / drawn[-1], title=title)
    if "kl_per_unit" in arrays:
        kl = np.asarray(arrays["kl_per_unit"])
        drawn.append("kl_per_unit.png")
        pictures.kl_per_unit(kl, folder / drawn[-1])
        shape = output.code.shape[1:]
        latent = jax.random.normal(key, (SHOWN, *shape))
        drawn.append("samples.png")
        title = f"{config.name}: decoded draws from the prior"
        pictures.image_grid(np.asarray(decode(variables, latent)), folder / drawn[-1], title=title)
        drawn.append("traversals.png")
        _draw_traversals(decode, variables, np.asarray(output.code[0]), kl, folder / drawn[-1])
    return drawn


def _draw_samples(
    folder: Path, config: ConfigDict, variables: dict[str, Any], step: int
) -> list[str]:
    """Draws from a prior, decoded: a row for each of the first classes."""
    prior = runs.Run(runs.build_model(config), variables, config, step)
    classes = config.model.prior.get("classes", 0)
    labels = list(range(min(classes, ROWS))) or [None]
    count = SHOWN if labels == [None] else 8
    images = sample.draw_samples(prior, labels, count)["image"]
    title = f"{config.name}: decoded draws from the prior"
    name = "samples.png"
    if labels == [None]:
        pictures.image_grid(images, folder / name, title=title)
    else:
        rows = images.reshape(len(labels), count, *images.shape[1:])
        named = {f"class {label}": row for label, row in zip(labels, rows, strict=True)}
        pictures.rows(named, folder / name, title=title)
    return [name]


def _draw_traversals(
    decode: Any, variables: dict[str, Any], mean: np.ndarray, kl: np.ndarray, path: Path
) -> None:
    """One test image's posterior mean with one unit at a time set to -3..3, largest KL first."""
    values = np.linspace(-3, 3, 7, dtype=np.float32)
    units = np.argsort(-kl)[:10]
    latent = np.tile(mean.reshape(-1), (len(units), len(values), 1))
    for row, unit in enumerate(units):
        latent[row, :, unit] = values
    flat = latent.reshape(-1, *mean.shape)
    images = np.asarray(decode(variables, flat))
    pictures.traversals(
        images.reshape(len(units), len(values), *images.shape[1:]),
        path,
        units=units.tolist(),
        kl=kl[units].tolist(),
        values=values.tolist(),
        title="one unit at a time, from one test image's posterior mean",
    )
