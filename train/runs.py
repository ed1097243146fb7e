"""A run's folder: its config, and the trained model that a notebook loads from it."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax import linen as nn
from ml_collections import ConfigDict

import models
from models.perceptual import PerceptualTerm
from train import adversarial_steps, parallel, steps, weights
from train.checkpoints import Checkpoints
from train.checks import check_fields
from train.errors import UserError
from train.latents import Run
from train.state import TrainState, evaluation_variables
from train.writers import write_whole

# Fields that may change from one start of a run to the next: they move no number of the training.
FREE = ("checkpoint_every", "keep_checkpoints", "pictures_every", "data.data_dir")
# Fields that runs of earlier versions lack, with what those runs did.
LATER: dict[str, Any] = {
    "model": {
        "perceptual": {"net": "", "file": "", "weight": 1.0},
        "code_shape": (),
        "prior": {},
        "speech": {},
        "second_stage": {},
    },
    "data": {
        "noise": 0.0,
        "frames": 0,
        "transformations": (),
        "test_transformations": (),
        "levels": 0,
        "encoder_checksum": 0,
        "samples": 0,
        "sample_rate": 0,
    },
    "adversary": {
        "loss": "",
        "layers": 3,
        "width": 64,
        "weight": 0.8,
        "start": 0,
        "gradient_penalty": 0.0,
    },
    "evaluation": {"inception": ""},
    "pictures_every": 0,
}


def build_model(config: ConfigDict, *, axis_name: str | None = None) -> nn.Module:
    """The config's model.

    Raises:
      UserError: the config's `model` section describes none, or weights it names are not there.
    """
    term = _perceptual_term(config)
    try:
        return models.build(config.model.to_dict(), axis_name=axis_name, perceptual=term)
    except (ValueError, TypeError) as error:
        raise UserError(f"the config describes no model: {error}") from error


def _perceptual_term(config: ConfigDict) -> PerceptualTerm | None:
    return weights.perceptual_term(config.model.perceptual.net, config.model.perceptual.file)


def loss_weights(config: ConfigDict) -> dict[str, float]:
    """The weight of each loss term by name, the perceptual one's too.

    Raises:
      UserError: the perceptual term has a second weight in `config.loss_weights`.
    """
    term, found = _perceptual_term(config), config.loss_weights.to_dict()
    if term is None:
        return found
    if term.name in found:
        raise UserError(
            f"loss_weights has {term.name}, whose weight is model.perceptual.weight, "
            f"{config.model.perceptual.weight}; leave it out of loss_weights"
        )
    return {**found, term.name: config.model.perceptual.weight}


def example_batch(config: ConfigDict, *, rows: int = 2) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch of the config's data."""
    if config.model.speech:
        return {
            "audio": jax.ShapeDtypeStruct((rows, config.data.samples), jnp.int16),
            "speaker": jax.ShapeDtypeStruct((rows,), jnp.int32),
        }
    frames = config.data.frames
    if config.model.prior or config.model.second_stage:
        shapes = {"code": (rows, *config.model.code_shape), "label": (rows,)}
        if frames:
            past = (rows, frames - 1)
            shapes |= {"past": (*past, *config.model.code_shape), "action": past}
        return {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in shapes.items()}
    if not frames:
        shape = (rows, *config.model.image_shape)
        return {"image": jax.ShapeDtypeStruct(shape, jnp.float32)}
    return {
        "image": jax.ShapeDtypeStruct((rows, frames, *config.model.image_shape), jnp.uint8),
        "factor": jax.ShapeDtypeStruct((rows,), jnp.int32),
        "position": jax.ShapeDtypeStruct((rows, frames), jnp.int32),
    }


def make_train_step(config: ConfigDict, model: nn.Module, optimizer: Any) -> Any:
    """One device's part of some training steps: `(state, batch [steps, rows, ...])`.

    Raises:
      UserError: the config's loss, schedule or adversary cannot be.
    """
    options = {
        "key": jax.random.fold_in(jax.random.key(config.seed), 1),
        "weights": loss_weights(config),
        "schedule": steps.learning_rate(config.optimizer, config.train.steps),
        "average_decay": config.train.average_decay,
        "log_every": config.log_every,
    }
    adversary = adversarial_steps.build_adversary(config.adversary, axis_name=parallel.AXIS)
    if adversary is not None:
        return adversarial_steps.make_train_step(adversary, model, optimizer, **options)
    return steps.make_train_step(model, optimizer, accumulate=config.train.accumulate, **options)


def make_state(config: ConfigDict, model: nn.Module, optimizer: Any, names: list[str]) -> Any:
    """`(key, batch) -> TrainState` for the config; use with `jit` or `eval_shape`."""
    adversary = adversarial_steps.build_adversary(config.adversary)

    def create(key: jax.Array, batch: dict[str, jax.Array]) -> TrainState:
        state = steps.create_state(
            model, optimizer, key, batch, average=config.train.average_decay > 0, names=names
        )
        if adversary is None:
            return state
        return adversarial_steps.add_adversary(state, adversary, optimizer, key, batch)

    return create


def abstract_state(config: ConfigDict) -> TrainState:
    """Shapes and dtypes of the config's training state, without data and without computing.

    Raises:
      UserError: the config's model or optimiser cannot be.
    """
    model = build_model(config)
    optimizer = steps.make_optimizer(config.optimizer, config.train.steps)
    batch = example_batch(config)
    try:
        names = steps.measured_names(model, batch, loss_weights(config))
        if config.adversary.loss:
            names = sorted({*names, *adversarial_steps.FIGURES})
        return jax.eval_shape(make_state(config, model, optimizer, names), jax.random.key(0), batch)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise UserError(f"the config describes no model: {error}") from error


def load(workdir: str) -> Run:
    """A trained run, ready for use in a notebook, from the newest checkpoint in its folder.

    Raises:
      UserError: there is no run in `workdir`, or no checkpoint that can be read.
    """
    config, state = _read_state(workdir)
    variables, step = evaluation_variables(state), int(state.step)
    return Run(build_model(config), variables, config, step, read_evaluation(workdir))


def load_discriminator(workdir: str) -> Callable[[Any], jax.Array]:
    """The discriminator of a trained run: images to logits, as `adversarial_steps.patch_logits`.

    Raises:
      UserError: as `load`, or the run has no adversary.
    """
    config, state = _read_state(workdir)
    adversary = adversarial_steps.build_adversary(config.adversary)
    if adversary is None:
        raise UserError(f"{workdir} has no adversary: its config.adversary.loss is ''")
    return jax.jit(
        functools.partial(adversarial_steps.patch_logits, adversary.discriminator, state.adversary)
    )


def _read_state(workdir: str) -> tuple[ConfigDict, TrainState]:
    """Config and newest checkpoint of a run."""
    config = read_config(workdir)
    with Checkpoints(folder(workdir) / "checkpoints", keep=1, read_only=True) as checkpoints:
        state = checkpoints.restore(abstract_state(config))
    if state is None:
        raise UserError(f"{workdir} has no checkpoint yet; train it first")
    return config, state


def start_from(state: TrainState, workdir: str) -> TrainState:
    """The state with parameters and codebooks of the run in `workdir`, and a fresh optimiser.

    Raises:
      UserError: that run's variables have other names or shapes; the first difference is named.
    """
    variables = load(workdir).variables
    mine = {"params": state.params, **state.collections}
    found, wanted = (
        {jax.tree_util.keystr(path): x.shape for path, x in jax.tree.leaves_with_path(tree)}
        for tree in (variables, mine)
    )
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise UserError(
                f"init_from={workdir} does not fit this model: {name} is "
                f"{found.get(name, 'absent')} there and {wanted.get(name, 'absent')} here"
            )
    params = variables.pop("params")
    average = None if state.average is None else jax.tree.map(jnp.copy, params)
    return state._replace(params=params, collections=variables, average=average)


def final_evaluators(config: ConfigDict) -> tuple[str, ...]:
    """Names of the evaluators done at the end of a run."""
    both = (*config.evaluation.evaluators, *config.evaluation.final_evaluators)
    return tuple(dict.fromkeys(both))


def read_config(workdir: str) -> ConfigDict:
    """The config of the run in `workdir`; raises UserError if there is none."""
    path = folder(workdir) / "config.json"
    if not path.exists():
        raise UserError(f"{workdir} is not the folder of a run: it has no config.json")
    try:
        fields = dict(json.loads(path.read_text()))
        config = ConfigDict(_with_later(fields, LATER))
        check_fields(config)
    except (OSError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it, or use a new folder") from error
    return config


def _with_later(fields: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config, and those of `later` that it lacks, section by section."""
    found = dict(fields)
    for name, old in later.items():
        section = isinstance(old, Mapping)
        found[name] = _with_later(found.get(name, {}), old) if section else found.get(name, old)
    return found


def read_evaluation(workdir: str) -> dict[str, Any] | None:
    """What the evaluation at the end of a run found: "step", "values" and "arrays" by name.

    None before there is one.
    """
    path = folder(workdir) / "evaluation.json"
    return json.loads(path.read_text()) if path.exists() else None


def folder(workdir: str) -> epath.Path:
    """The run's folder; "~", which a shell leaves alone in `--workdir=~/run`, is the user's own."""
    return epath.Path(workdir).expanduser()


def short_names(workdirs: Sequence[str]) -> list[str]:
    """What to call runs: their folders' names, with those of the folders above where two are alike.

    Raises:
      UserError: a folder is given twice.
    """
    parts = [folder(workdir).parts for workdir in workdirs]
    if len(set(parts)) < len(parts):
        raise UserError(f"a run is given twice: {', '.join(workdirs)}")
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def check_workdir(workdir: str, config: ConfigDict, state: TrainState) -> None:
    """Looks whether a run of this config can start or go on in `workdir`; changes nothing.

    Raises:
      UserError: the folder holds a run of another config, or what `config.init_from` names does
        not fit `state`, the shapes of the run's start.
    """
    path = folder(workdir)
    if (path / "config.json").exists():
        _check_same(read_config(workdir), config, workdir)
    elif (path / "checkpoints").exists() and any((path / "checkpoints").iterdir()):
        raise UserError(f"{workdir} has checkpoints but no config.json; choose another --workdir")
    elif config.init_from:
        start_from(state, config.init_from)


def open_workdir(workdir: str) -> epath.Path:
    """Makes the run's folder.

    Raises:
      UserError: it cannot be written.
    """
    path = folder(workdir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write-test-{jax.process_index()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"--workdir {workdir} cannot be written: {error.strerror or error}; "
            "choose a folder that you may write to"
        ) from error
    return path


def save_config(workdir: epath.Path, config: ConfigDict) -> None:
    """Writes `config.json`, from the first process."""
    if parallel.is_first_process():
        write_whole(workdir / "config.json", json.dumps(config.to_dict(), indent=2) + "\n")


def _check_same(old: ConfigDict, new: ConfigDict, workdir: str) -> None:
    old, new = _flat(old.to_dict()), _flat(new.to_dict())
    for name in sorted(old.keys() | new.keys()):
        measured = name == "model.data_variance" and not new.get(name)
        if name in FREE or measured or old.get(name) == new.get(name):
            continue
        if name == "data.encoder_checksum":
            raise UserError(
                f"{workdir} holds a prior over the codes of another checkpoint than the newest of "
                f"{new['data.source']}; choose another --workdir"
            )
        raise UserError(
            f"{workdir} holds a run of another config: {name} is {old.get(name)!r} there and "
            f"{new.get(name)!r} here; choose another --workdir, or set it to the same value"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = json.loads(json.dumps(value))
    return flat
