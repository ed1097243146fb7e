"""What the fields of a config may hold, looked at before anything is compiled or written.

What is in `model` is checked where it is built, names of optimisers, evaluators and data where they
are used; all of that happens before the first step too.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from train import parallel
from train.errors import UserError

# A rule says what a value must be, or nothing where it is.
Rule = Callable[[Any], str]


def _whole(least: int, most: int = 2**31 - 1) -> Rule:
    def rule(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int):
            return "a whole number"
        if value < least:
            return f"at least {least}"
        return f"at most {most}" if value > most else ""

    return rule


def _number(least: float = -math.inf, *, below: float = math.inf) -> Rule:
    def rule(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "a number"
        if least <= value < below and math.isfinite(value):
            return ""
        if below < math.inf:
            return f"in [{least:g}, {below:g})"
        return f"finite, and at least {least:g}" if least > -math.inf else "finite"

    return rule


def _text(value: Any) -> str:
    return "" if isinstance(value, str) else "a text"


def _truth(value: Any) -> str:
    return "" if isinstance(value, bool) else "True or False"


def _shape(value: Any) -> str:
    sizes = list(value) if isinstance(value, list | tuple) else []
    right = len(sizes) == 3 and not any(_whole(1)(size) for size in sizes)
    return "" if right else "(height, width, channels), such as (32, 32, 3)"


def _names(value: Any) -> str:
    listed = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    return "" if listed else "names, such as ('losses', 'image')"


def _named(value: Any) -> str:
    named = isinstance(value, Mapping) and isinstance(value.get("name"), str)
    return "" if named else "a dict with a name, and the options of what is named"


def _codes(value: Any) -> str:
    sizes = list(value) if isinstance(value, list | tuple) else [0]
    right = len(sizes) != 1 and not any(_whole(1)(size) for size in sizes)
    return "" if right else "the codes' grid and their codebooks, such as (8, 8, 1), or ()"


def _nothing_or_named(value: Any) -> str:
    return "" if isinstance(value, Mapping) and not value else _named(value)


def _weights(value: Any) -> str:
    right = isinstance(value, Mapping) and not any(_number()(weight) for weight in value.values())
    return "" if right else "a dict with a finite number for each loss term"


# Every field there is. What it means and its default stand in configs/base.py.
FIELDS: dict[str, Rule] = {
    "name": _text,
    "seed": _whole(0, 2**32 - 1),  # JAX drops the bits above
    "init_from": _text,
    "model.image_shape": _shape,
    "model.data_variance": _number(0),
    "model.dtype": _text,
    "model.remat": _truth,
    "model.backbone": _nothing_or_named,
    "model.bottleneck": _nothing_or_named,
    "model.likelihood": _named,
    "model.code_shape": _codes,
    "model.prior": _nothing_or_named,
    "model.speech": _nothing_or_named,
    "model.second_stage": _nothing_or_named,
    "model.perceptual.net": _text,
    "model.perceptual.file": _text,
    "model.perceptual.weight": _number(0),
    "loss_weights": _weights,
    "adversary.loss": _text,
    "adversary.layers": _whole(1),
    "adversary.width": _whole(1),
    "adversary.weight": _number(0),
    "adversary.start": _whole(0),
    "adversary.gradient_penalty": _number(0),
    "data.source": _text,
    "data.data_dir": _text,
    "data.train": _text,
    "data.test": _text,
    "data.holdout": _number(0, below=1),
    "data.split_seed": _whole(0),
    "data.image_shape": _shape,
    "data.crop": _text,
    "data.flip": _truth,
    "data.binarise": _text,
    "data.noise": _number(0),
    "data.limit": _whole(0),
    "data.levels": _whole(0, 256),
    "data.samples": _whole(0),
    "data.sample_rate": _whole(0),
    "data.encoder_checksum": _whole(0, 2**32 - 1),
    "data.frames": _whole(0),
    "data.transformations": _names,
    "data.test_transformations": _names,
    "optimizer.name": _text,
    "optimizer.learning_rate": _number(0),
    "optimizer.schedule": _text,
    "optimizer.warmup_steps": _whole(0),
    "optimizer.b1": _number(0, below=1),
    "optimizer.b2": _number(0, below=1),
    "optimizer.momentum": _number(0, below=1),
    "optimizer.weight_decay": _number(0),
    "optimizer.clip_norm": _number(0),
    "train.steps": _whole(1),
    "train.batch_size": _whole(1),
    "train.steps_per_call": _whole(1),
    "train.accumulate": _whole(1),
    "train.average_decay": _number(0, below=1),
    "evaluation.batch_size": _whole(1),
    "evaluation.evaluators": _names,
    "evaluation.final_evaluators": _names,
    "evaluation.importance_samples": _whole(1),
    "evaluation.inception": _text,
    "evaluation.every": _whole(0),
    "pictures_every": _whole(0),
    "log_every": _whole(1),
    "checkpoint_every": _whole(1),
    "keep_checkpoints": _whole(1),
}


def check_fields(config: ConfigDict) -> None:
    """Refuses a config with a field too many or too few, or a value that cannot be.

    Raises:
      UserError: names the field, what was found and what would be right.
    """
    found = _flat(config.to_dict())
    for name in found:
        if name not in FIELDS:
            nearest = difflib.get_close_matches(name, FIELDS, n=1)
            way_out = f"did you mean {nearest[0]}?" if nearest else "see configs/base.py"
            raise UserError(f"the config has a field {name}, which means nothing; {way_out}")
    for name, rule in FIELDS.items():
        if name not in found:
            raise UserError(
                f"the config has no field {name}; start it from configs.base.get_config()"
            )
        if wanted := rule(found[name]):
            raise UserError(f"{name} is {found[name]!r}; it must be {wanted}")
    _check_kind(config)


def _check_kind(config: ConfigDict) -> None:
    """A model is of images, speech or codes, and its data are the like."""
    model, data = config.model, config.data
    kinds = [kind for kind in ("prior", "speech", "second_stage") if model[kind]]
    if len(kinds) > 1:
        raise UserError(f"model.{' and model.'.join(kinds)} are set; a model is one of these")
    if not model.prior:
        for name in ("backbone", "bottleneck"):
            if wanted := _named(model[name].to_dict()):
                raise UserError(
                    f"model.{name} is {model[name].to_dict()!r}; it must be {wanted}, unless "
                    "model.prior is one"
                )
    elif model.backbone or model.bottleneck or model.perceptual.net:
        raise UserError(
            f"model.prior is {model.prior.name!r}, which has no backbone, bottleneck or perceptual "
            "term; leave them empty"
        )
    elif (model.prior.name == "video") != (data.frames > 1):
        raise UserError(
            f"model.prior is {model.prior.name!r} and data.frames is {data.frames}; a prior over "
            "video has 2 frames or more, itself the last, and any other prior has data.frames=0"
        )
    if data.levels == 1:
        raise UserError("data.levels is 1; a pixel has 2 values or more, or 0 for no codes of it")
    if model.second_stage and (data.frames or model.perceptual.net or config.adversary.loss):
        raise UserError(
            "model.second_stage has no data.frames, perceptual term or adversary beside it; leave "
            "them empty"
        )
    codes = data.levels > 0 or data.source.startswith("codes:")
    if codes != bool(model.prior or model.second_stage):
        raise UserError(
            f"data.source is {data.source!r} with data.levels={data.levels}, which gives "
            f"{'codes' if codes else 'images'}, and model.prior is "
            f"{model.prior.get('name', '')!r}; a prior or a second stage is trained on codes, any "
            "other model on images"
        )
    sound = data.source.startswith("audio:")
    if sound != bool(model.speech) or sound != (data.samples > 0 and data.sample_rate > 0):
        raise UserError(
            f"data.source is {data.source!r}, data.samples {data.samples}, data.sample_rate "
            f"{data.sample_rate} and model.speech {model.speech.get('name', '')!r}; recordings "
            "need all four, other data none of the last three"
        )
    if sound and (model.perceptual.net or config.adversary.loss):
        raise UserError(
            "model.speech has no perceptual term or adversary beside it; leave them empty"
        )


def check(config: ConfigDict) -> None:
    """Refuses settings that cannot be, alone or together.

    Raises:
      UserError: names the field, what was found and what would be right.
    """
    check_fields(config)
    unit = config.train.steps_per_call
    for name, value in (
        ("train.steps", config.train.steps),
        ("log_every", config.log_every),
        ("checkpoint_every", config.checkpoint_every),
        ("evaluation.every", config.evaluation.every),
        ("pictures_every", config.pictures_every),
    ):
        if value % unit:
            raise UserError(
                f"{name} is {value}, which is not a multiple of train.steps_per_call ({unit}); "
                f"take {-(-value // unit) * unit}, or set train.steps_per_call=1"
            )
    if config.adversary.loss and config.train.accumulate > 1:
        raise UserError(
            f"train.accumulate is {config.train.accumulate}, but an adversary sees whole batches; "
            "set train.accumulate=1, or use more devices"
        )
    if tuple(config.data.image_shape) != tuple(config.model.image_shape):
        raise UserError(
            f"data.image_shape is {tuple(config.data.image_shape)} and model.image_shape is "
            f"{tuple(config.model.image_shape)}; they must be the same"
        )
    parallel.check_batch_size(
        "train.batch_size", config.train.batch_size, parts=config.train.accumulate
    )
    parallel.check_batch_size("evaluation.batch_size", config.evaluation.batch_size)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The fields by their dotted names; what `FIELDS` takes whole stays whole."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and prefix + name not in FIELDS:
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat
