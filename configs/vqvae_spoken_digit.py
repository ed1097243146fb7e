"""VQ-VAE of spoken digits: van den Oord et al. 2017, section 4.3, made small.

    python -m train --config configs/vqvae_spoken_digit.py --workdir runs/vqvae_spoken_digit

With `--config.data.source=audio:PATH`, the folder `recordings` of the Free Spoken Digit Dataset
(8 kHz, six speakers, 3,000 recordings); takes 0 to 4 of each speaker and digit are the test split.
A code for 64 samples. Sizes are ours. An hour on one CPU core: 3.91 bits per sample of the test
split, 3.86 after the 6,000 steps more that the README tells of.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "vqvae_spoken_digit"
    base.set_speech(
        config,
        samples=2048,
        sample_rate=8000,
        speakers=6,
        codes=256,
        widths=(64, 64, 64, 128, 128, 128),
    )
    config.model.speech.update({"layers": 8, "cycles": 1, "features": 32, "skip_features": 64})
    # So few tokens are in a batch that a code would not be missed for long.
    config.model.bottleneck.decay = 0.95
    config.model.bottleneck.revive_below = 0.2
    config.data.source = "audio:free-spoken-digit-dataset/recordings"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 20
    config.optimizer.clip_norm = 1.0
    config.train.steps = 20_000
    config.train.batch_size = 4
    config.train.average_decay = 0.99
    config.evaluation.batch_size = 20
    config.evaluation.every = 5000
    config.log_every = 50
    config.checkpoint_every = 100
    return config
