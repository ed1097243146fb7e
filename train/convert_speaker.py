"""Says a recording in another voice: `python -m train.convert_speaker --workdir W --input x.wav`.

Needs `--speaker S`, a name or number among the run's speakers. The recording, WAV or FLAC of any
rate, is encoded and its codes are decoded for that speaker (van den Oord et al. 2017, section 4.3).
Writes `--output`, or x_S.wav beside the input, and beside that a picture of both spectrograms.
"""

from pathlib import Path

import jax
from absl import flags

from train import cli, runs, speech_pictures, voices
from train.data import audio
from train.errors import UserError


def convert(
    run: runs.Run, source: Path, output: Path, *, speaker: str, seed: int = 0, temperature: float
) -> Path:
    """Writes `output`, the recording in `source` in a speaker's voice; returns its picture's path.

    Raises:
      UserError: the run is not of speech, the recording cannot be read or the output not written,
        there is no such speaker, or the temperature is not positive.
    """
    voices.check_speech(run)
    if not 0 < temperature < float("inf"):
        raise UserError(f"--temperature is {temperature}; it must be finite and above 0")
    rate = run.config.data.sample_rate
    number = voices.speaker_number(run, speaker)
    recording = audio.read(source, rate)
    code = voices.encode(run, [recording])
    key = jax.random.key(seed)
    (said,) = voices.speak(run, code, [number], key=key, temperature=temperature)
    said = said[: len(recording)]
    try:
        audio.write(output, said, rate)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"--output {output} cannot be written: {error}") from error
    picture = output.with_suffix(".png")
    both = {source.name: recording / 32768, output.name: said}
    speech_pictures.spectrograms(both, picture, rate=rate)
    return picture


def main(_: list[str]) -> None:
    """Converts one recording."""
    given = flags.FLAGS
    if not given.input or not given.speaker:
        raise UserError("--input and --speaker are needed: a recording, and whose voice it gets")
    source = Path(given.input).expanduser()
    if not source.is_file():
        raise UserError(f"--input {given.input}: no such file")
    output = given.output or source.with_name(f"{source.stem}_{given.speaker}.wav")
    run = runs.load(given.workdir)
    picture = convert(
        run,
        source,
        Path(output).expanduser(),
        speaker=given.speaker,
        seed=given.seed,
        temperature=given.temperature,
    )
    print(f"{output}\n{picture}")


if __name__ == "__main__":
    cli.define_workdir("folder of a trained run of speech")
    flags.DEFINE_string("input", None, "recording to convert, WAV or FLAC")
    flags.DEFINE_string("speaker", None, "whose voice it gets: a name or number of the run's")
    flags.DEFINE_string("output", None, "WAV or FLAC file to write; x_S.wav beside the input x")
    flags.DEFINE_integer("seed", 0, "of the draws", lower_bound=0)
    flags.DEFINE_float("temperature", 1.0, "of the draws; below 1 they are less noisy")
    cli.run(main)
