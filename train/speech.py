"""What a run of speech can do, on held-out recordings: `python -m train.speech --workdir W`.

- bits per sample of true recordings, told their own codes, codes of another, another speaker: what
  the codes and the speaker are worth to the decoder;
- the spectral distance of what is drawn from a recording's codes, beside silence, and beside the
  recording itself resampled and quantised to as many bits;
- speaker conversion: every recording in another speaker's voice, and in its own, judged by
  classifiers of speakers and of labels (where there are any) trained on real recordings;
- codes and n-grams of them, mapped to their likeliest speaker and label.

Writes `W/speech.json`, and `W/pictures/speech.png`: spectrograms of recordings, reconstructions and
conversions; they are in `W/speech/` too, as WAV files.
"""

import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from models import mu_law
from train import cli, parallel, runs, speech_pictures, voices
from train.data import audio
from train.data.sources import load_source
from train.metrics import speech as metrics
from train.writers import write_whole

SHOWN = 6


def measure(
    run: runs.Run, *, seconds: float, limit: int = 0, temperature: float = 1.0
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All figures by name, in groups, and a few recordings to look at and to hear.

    Args:
      run: a trained run of speech.
      seconds: recordings are cut to this length.
      limit: held-out recordings, evenly spaced; 0: all.
      temperature: of the draws.

    Raises:
      UserError: the run is not of speech, or its data are not there.
    """
    voices.check_speech(run)
    rate, every = run.config.data.sample_rate, voices.stride(run)
    longest = round(seconds * rate) // every * every
    train, test = (_recordings(run, split, longest) for split in ("train", "test"))
    if 0 < limit < len(test["audio"]):
        rows = np.linspace(0, len(test["audio"]) - 1, limit).round().astype(int)
        test = {n: [v[i] for i in rows] if n == "audio" else v[rows] for n, v in test.items()}
    names = [name for name in ("speaker", "label") if name in test]
    codes = {
        split: voices.encode(run, x["audio"]) for split, x in (("train", train), ("test", test))
    }
    found: dict[str, Any] = {"bits_per_sample": _bits(run, test, codes["test"], longest)}

    # Another speaker for each, every other one as often.
    speaker, number = test["speaker"], run.model.wavenet.classes
    target = (
        (speaker + 1 + np.arange(len(speaker)) % (number - 1)) % number if number > 1 else speaker
    )
    key = jax.random.key(run.config.seed)
    made = {
        "reconstructed": (speaker, jax.random.fold_in(key, 0)),
        "converted": (target, jax.random.fold_in(key, 1)),
    }
    real = [x / 32768 for x in test["audio"]]
    said = {"real": real}
    for name, (who, draws) in made.items():
        drawn = voices.speak(run, codes["test"], who, key=draws, temperature=temperature)
        said[name] = [x[: len(y)] for x, y in zip(drawn, real, strict=True)]

    bits = round(math.log2(run.model.bottleneck.codes) * run.model.bottleneck.codebooks)
    found["spectral_distance_db"] = _distances(said, bits=bits, samples=every)
    found["heard"] = _heard(train, said, {"speaker": speaker, **test}, target, rate)
    found["codes_to"] = {
        name: {
            f"{length}-grams": metrics.map_codes(
                [c[:, 0] for c in codes["train"]],
                train[name],
                [c[:, 0] for c in codes["test"]],
                test[name],
                length=length,
            )._asdict()
            for length in (1, 2, 3)
        }
        for name in names
    }
    some = np.linspace(0, len(real) - 1, SHOWN).round().astype(int)
    shown = {f"{i} {name}": said[name][i] for i in some for name in said}
    return found, shown


def _recordings(run: runs.Run, split: str, longest: int) -> dict[str, Any]:
    """Recordings of a split, int16, cut to a length, and what is known of each."""
    source = load_source(run.config.data, split)
    examples = [source[i] for i in range(len(source))]
    kept = {name: np.array([e[name] for e in examples]) for name in examples[0] if name != "audio"}
    return {"audio": [e["audio"][:longest] for e in examples], **kept}


def _bits(
    run: runs.Run, test: dict[str, Any], codes: list[np.ndarray], longest: int
) -> dict[str, float]:
    """Bits per sample of the recordings, without the zeros after them."""
    model, every = run.model, voices.stride(run)

    def nats(variables: Any, level: Any, code: Any, speaker: Any) -> jax.Array:
        local = model.apply(variables, code, method="conditioned_on")
        wavenet = {"params": variables["params"]["wavenet"]}
        return model.wavenet.apply(wavenet, level, speaker, local, method="nats")

    nats = jax.jit(nats)
    level = np.stack([np.pad(x, (0, longest - len(x))) for x in test["audio"]]) / 32768
    level = np.asarray(mu_law.encode(jnp.asarray(level, jnp.float32)))
    code = np.stack(
        [np.pad(c, ((0, longest // every - len(c)), (0, 0)), mode="edge") for c in codes]
    )
    real = np.arange(longest) < np.array([len(x) for x in test["audio"]])[:, None]
    half, speaker = len(level) // 2 + 1, test["speaker"]
    told = {
        "own codes": (code, speaker),
        "codes of another recording": (np.roll(code, half, axis=0), speaker),
        "another speaker": (code, (speaker + 1) % model.wavenet.classes),
    }
    sums = dict.fromkeys(told, 0.0)
    size = min(20, len(level))
    for start in range(0, len(level) - size + 1, size):
        rows = slice(start, start + size)
        for name, (c, s) in told.items():
            found = np.asarray(nats(run.variables, level[rows], c[rows], s[rows]))
            sums[name] += float(found[real[rows]].sum())
    count = real[: len(level) // size * size].sum() * math.log(2)
    return {name: total / count for name, total in sums.items()}


def _distances(said: dict[str, list], *, bits: int, samples: int) -> dict[str, float]:
    """Means over the recordings, in dB."""
    made = {
        "reconstructed": said["reconstructed"],
        "silence": [np.zeros_like(x) for x in said["real"]],
    }
    for depth in (d for d in (1, 2, 4, 8) if d <= bits):
        name = f"{bits} bits for {samples} samples, {depth} a sample"
        made[name] = [
            metrics.coarse_copy(x, bits=bits, samples=samples, depth=depth) for x in said["real"]
        ]
    loud = [i for i, x in enumerate(said["real"]) if np.any(x)]
    return {
        name: float(np.mean([metrics.spectral_distance(said["real"][i], xs[i]) for i in loud]))
        for name, xs in made.items()
    }


def _heard(
    train: dict[str, Any],
    said: dict[str, list],
    truth: dict[str, Any],
    target: np.ndarray,
    rate: int,
) -> dict[str, dict[str, float]]:
    """Shares of recordings in which classifiers of real speech hear a speaker, or a label."""
    heard = {}
    for name, features in (
        ("speaker", metrics.speaker_features),
        ("label", metrics.word_features),
    ):
        if name not in truth:
            continue
        real = np.stack([features(x / 32768, rate) for x in train["audio"]])
        classifier = metrics.listener(real, train[name])
        guess = {
            kind: classifier.predict(np.stack([features(x, rate) for x in xs]))
            for kind, xs in said.items()
        }
        heard[name] = {kind: float(np.mean(guess[kind] == truth[name])) for kind in said}
        shares = np.bincount(train[name]) / len(train[name])
        heard[name]["chance"] = float(np.mean(truth[name] == shares.argmax()))
        if name == "speaker":
            heard["target speaker"] = {kind: float(np.mean(guess[kind] == target)) for kind in said}
    return heard


def main(_: list[str]) -> None:
    """Measures, prints, writes and draws."""
    workdir = runs.folder(flags.FLAGS.workdir)
    run = runs.load(workdir)
    found, shown = measure(
        run,
        seconds=flags.FLAGS.seconds,
        limit=flags.FLAGS.limit,
        temperature=flags.FLAGS.temperature,
    )
    if not parallel.is_first_process():
        return
    content = {"step": run.step, "temperature": flags.FLAGS.temperature, **found}
    write_whole(workdir / "speech.json", json.dumps(content, indent=2) + "\n")
    (workdir / "speech").mkdir(parents=True, exist_ok=True)
    (workdir / "pictures").mkdir(parents=True, exist_ok=True)
    rate = run.config.data.sample_rate
    for name, x in shown.items():
        audio.write(workdir / "speech" / f"{name.replace(' ', '_')}.wav", x, rate)
    picture = workdir / "pictures" / "speech.png"
    speech_pictures.spectrograms(shown, picture, rate=rate, columns=len(shown) // SHOWN)
    print(f"{run.config.name}, step {run.step}, {run.config.data.test}")
    for group, rows in found.items():
        print(f"\n{group}")
        for name, value in rows.items():
            print(f"  {name:42} {_row(value)}")
    print(f"\n{workdir / 'speech.json'}\n{picture}\n{workdir / 'speech'}")


def _row(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {_row(one)}" for name, one in value.items())
    return f"{value:.4g}"


if __name__ == "__main__":
    cli.define_workdir("folder of a trained run of speech")
    flags.DEFINE_float("seconds", 1.0, "that recordings are cut to", lower_bound=0.1)
    flags.DEFINE_integer("limit", 0, "held-out recordings, evenly spaced; 0: all", lower_bound=0)
    flags.DEFINE_float("temperature", 1.0, "of the draws", lower_bound=1e-6)
    cli.run(main)
