"""Speech drawn from a prior of its codes: `python -m train.speak --workdir PRIOR --speaker S`.

Codes from the prior, and the voice from the decoder of the run whose codes it was trained on: the
unconditional samples of van den Oord et al. 2017, section 4.3. Writes `PRIOR/speech/*.wav` and a
picture of their spectrograms.
"""

import jax
import numpy as np
from absl import flags

from train import cli, parallel, runs, sample, speech_pictures, voices
from train.data import audio
from train.data.codes import check_encoder, encoder_of
from train.errors import UserError


def main(_: list[str]) -> None:
    """Draws codes of each class and says them."""
    given = flags.FLAGS
    config = runs.read_config(given.workdir)
    if not config.model.prior or not sample.of_speech(config):
        raise UserError(f"{given.workdir} holds no prior of the codes of speech; name one's")
    if not given.speaker:
        raise UserError("--speaker is needed: whose voice it gets")
    place = encoder_of(config.data)
    check_encoder(place, config.data.encoder_checksum)
    prior, run = runs.load(given.workdir), runs.load(place)
    number = voices.speaker_number(run, given.speaker)
    if not parallel.is_first_process():
        return
    options = {"temperature": given.temperature, "seed": given.seed}
    codes, names = [], []
    for label in sample.labels_of(prior, given.labels):
        codes += list(sample.draw_codes(prior, given.samples, label=label, **options))
        of = "" if label is None else f"{label}_"
        names += [f"{of}{i}" for i in range(given.samples)]
    said = voices.speak(run, codes, [number] * len(codes), key=jax.random.key(given.seed))
    path, rate = runs.folder(given.workdir), run.config.data.sample_rate
    for folder in ("speech", "pictures"):
        (path / folder).mkdir(parents=True, exist_ok=True)
    for name, x in zip(names, said, strict=True):
        audio.write(path / "speech" / f"{name}.wav", np.asarray(x), rate)
    picture = path / "pictures" / "speech.png"
    shown = dict(list(zip(names, said, strict=True))[:16])
    speech_pictures.spectrograms(shown, picture, rate=rate, columns=min(4, len(shown)))
    print(path / "speech", picture, sep="\n")


if __name__ == "__main__":
    cli.define_workdir("folder of a trained prior of the codes of speech")
    flags.DEFINE_string(
        "speaker", None, "whose voice it gets: a name or number of the speech run's"
    )
    flags.DEFINE_string("labels", "", "classes to draw of, as 3,7; all of them by default")
    flags.DEFINE_float("temperature", 1.0, "of the prior's softmax", lower_bound=1e-6)
    flags.DEFINE_integer("samples", 4, "draws of each class", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "of the draws", lower_bound=0)
    cli.run(main)
