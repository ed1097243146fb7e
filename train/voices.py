"""A trained run's speech in a notebook: recordings to codes, and codes to any speaker's voice.

run = train.load("runs/vqvae_spoken_digit")
code = voices.encode(run, [recording])
(said,) = voices.speak(run, code, [voices.speaker_number(run, "theo")], key=jax.random.key(0))
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from models.speech import Speech, synthesize
from train import runs
from train.data import audio
from train.errors import UserError

BATCH = 100


def check_speech(run: runs.Run) -> None:
    """Raises UserError unless the run is of speech."""
    if not isinstance(run.model, Speech):
        raise UserError(
            f"{run.config.name} is no model of speech; give it the folder of one, such as "
            "vqvae_spoken_digit"
        )


def stride(run: runs.Run) -> int:
    """Samples for each code."""
    return 2 ** len(run.model.encoder.widths)


def speakers(run: runs.Run) -> list[str]:
    """Names of the speakers, in the order of their numbers; raises UserError without the data."""
    place, rate = run.config.data.source.partition(":")[2], run.config.data.sample_rate
    parts = audio.load(place, rate, data_dir=run.config.data.data_dir)
    return parts["train"].found.speakers


def speaker_number(run: runs.Run, name: str) -> int:
    """The number of a speaker, given the name or the number itself.

    Raises:
      UserError: there is no such speaker.
    """
    number = run.model.wavenet.classes
    if name.isdigit() and int(name) < number:
        return int(name)
    known = speakers(run)
    if name not in known:
        raise UserError(
            f"speaker {name!r}: the run knows {', '.join(known[:20])}"
            f"{', ...' if len(known) > 20 else ''}, or their numbers 0 to {number - 1}"
        )
    return known.index(name)


def encode(run: runs.Run, recordings: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Codes of recordings, int32 `[samples / stride, codebooks]` each, the last stretch filled up.

    Args:
      run: a trained run of speech.
      recordings: `[samples]` each, int16 or amplitudes in [-1, 1], of the run's sample rate.
    """
    every = stride(run)
    lengths = [-(-len(x) // every) for x in recordings]
    # A few lengths, so that few programs are compiled.
    longest = max(lengths)
    code = _encoder(run.model)
    found = []
    for start in range(0, len(recordings), BATCH):
        part = recordings[start : start + BATCH]
        padded = [np.pad(_amplitude(x), (0, longest * every - len(x))) for x in part]
        rows = np.stack(padded + [padded[-1]] * (min(BATCH, len(recordings)) - len(part)))
        found.extend(np.asarray(code(run.variables, rows))[: len(part)])
    return [code[:length] for code, length in zip(found, lengths, strict=True)]


def speak(
    run: runs.Run,
    codes: Sequence[np.ndarray],
    speaker: Sequence[int],
    *,
    key: jax.Array,
    temperature: float = 1.0,
) -> list[np.ndarray]:
    """Recordings drawn for codes in speakers' voices, float32 `[samples]` each.

    Args:
      run: a trained run of speech.
      codes: such as `encode` gives.
      speaker: a number for each.
      key: a key of `jax.random`.
      temperature: of the draws; see `models.speech.synthesize`.
    """
    every, longest = stride(run), max(len(code) for code in codes)
    said = []
    for number, start in enumerate(range(0, len(codes), BATCH)):
        part = codes[start : start + BATCH]
        padded = [np.pad(c, ((0, longest - len(c)), (0, 0)), mode="edge") for c in part]
        more = min(BATCH, len(codes)) - len(part)
        who = [*speaker[start : start + BATCH], *[0] * more]
        made = synthesize(
            run.model,
            run.variables,
            jax.random.fold_in(key, number),
            jnp.asarray(np.stack(padded + [padded[-1]] * more)),
            jnp.asarray(who, jnp.int32),
            temperature=temperature,
        )
        said += [x[: len(c) * every] for x, c in zip(np.asarray(made), part, strict=False)]
    return said


def _amplitude(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) / 32768 if x.dtype == np.int16 else x.astype(np.float32)


@functools.cache
def _encoder(model: nn.Module) -> Any:
    def code(module: nn.Module, x: jax.Array) -> jax.Array:
        return module.bottleneck(module.encode(x), train=False).code

    return jax.jit(lambda variables, x: model.apply(variables, x, method=code))
