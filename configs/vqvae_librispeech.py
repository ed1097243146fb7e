"""VQ-VAE of speech on LibriSpeech (van den Oord et al. 2017, section 4.3): 128 x fewer codes.

    python -m train --config configs/vqvae_librispeech.py --workdir runs/vqvae_librispeech

What the paper's unconditional speech is drawn from: chunks of 40,960 samples (2.56 s at 16 kHz),
seven convolutions, so 320 codes a chunk, of 460 speakers, which `train-clean-100` and
`train-clean-360` have more of: name a folder of chapters by speaker with
`--config.data.source=audio:PATH`, and its speakers with `--config.model.speech.classes=N`. One in
fifty recordings is held out. Other sizes, and the training, are ours.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "vqvae_librispeech"
    base.set_speech(
        config, samples=40_960, sample_rate=16_000, speakers=460, codes=512, widths=(256,) * 7
    )
    config.data.source = "audio:LibriSpeech/train-clean"
    config.data.holdout = 0.02
    config.optimizer.learning_rate = 4e-4
    config.train.steps = 500_000
    config.train.batch_size = 16
    config.train.average_decay = 0.9999
    config.evaluation.batch_size = 16
    config.evaluation.every = 25_000
    config.log_every = 500
    config.checkpoint_every = 5000
    return config
