"""What is measured of a trained model beyond its loss, by name."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from train.errors import UserError
from train.metrics.atoms import atoms_evaluator
from train.metrics.codes import codes_evaluator
from train.metrics.equivariance import equivariance_evaluator
from train.metrics.evaluator import Evaluator
from train.metrics.frechet import frechet_evaluator
from train.metrics.image import image_evaluator
from train.metrics.likelihood import importance_evaluator, losses_evaluator, units_evaluator
from train.metrics.sequence_likelihood import sequence_likelihood_evaluator
from train.metrics.subresolution import subresolution_evaluator

# One line each: the name a config uses, and the function that makes it from keyword options.
EVALUATORS: dict[str, Callable[..., Evaluator]] = {
    "losses": losses_evaluator,
    "image": image_evaluator,
    "codes": codes_evaluator,
    "atoms": atoms_evaluator,
    "frechet": frechet_evaluator,
    "units": units_evaluator,
    "importance": importance_evaluator,
    "subresolution": subresolution_evaluator,
    "equivariance": equivariance_evaluator,
    "sequence_likelihood": sequence_likelihood_evaluator,
}

# Those of a model whose batch has codes in place of images.
OF_PRIORS = ("losses",)
# Those of a model of sound.
OF_SPEECH = ("losses", "codes")
# Those of a model whose batch has codes, and which makes codes of them.
OF_SECOND_STAGES = ("losses", "codes")


def build_evaluators(names: Iterable[str], **options: Any) -> dict[str, Evaluator]:
    """Makes the named evaluators, each from those of the options that it takes.

    Args:
        names: keys of `EVALUATORS`.
        **options: keyword options of any registered evaluator, such as `data_variance` ("image")
            or `samples` and `chunk` ("importance"). One that no named evaluator takes has no
            effect.

    Returns:
        The evaluators by name, in the order given.

    Raises:
        UserError: a name or an option that no evaluator has.
    """
    takes = {name: set(inspect.signature(make).parameters) for name, make in EVALUATORS.items()}
    known = sorted(set().union(*takes.values()))
    for option in options:
        if option not in known:
            raise UserError(
                f"no evaluator takes the option {option!r}; known are: {', '.join(known)}"
            )
    evaluators = {}
    for name in names:
        if name not in EVALUATORS:
            raise UserError(f"no evaluator is named {name!r}; known are: {', '.join(EVALUATORS)}")
        mine = {option: value for option, value in options.items() if option in takes[name]}
        evaluators[name] = EVALUATORS[name](**mine)
    return evaluators


__all__ = [
    "EVALUATORS",
    "OF_PRIORS",
    "OF_SECOND_STAGES",
    "OF_SPEECH",
    "Evaluator",
    "build_evaluators",
]
