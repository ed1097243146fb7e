"""Gated PixelCNN over the 4x4 codes of a VQ-VAE of the digits, given the class.

    python -m train --config configs/vqvae_digits.py --workdir runs/vqvae_digits
    python -m train --config configs/pixelcnn_digits.py --workdir runs/pixelcnn_digits

2 CPU cores shared with other work: 2 minutes. Test split: 4.249 bits per code (frequencies alone:
5.895, uniform: 6).

Of another run's codes: `--config.data.source=codes:RUN`, with its grid and K. The sizes are ours.
"""

from ml_collections import ConfigDict

from configs import base, priors


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "pixelcnn_digits"
    priors.set_pixelcnn(config, code_shape=(4, 4, 1), codes=64, classes=10, layers=3, features=32)
    config.data.source = "codes:runs/vqvae_digits"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.train.steps = 400
    config.train.batch_size = 64
    config.train.average_decay = 0.99
    config.evaluation.every = 100
    config.log_every = 50
    config.checkpoint_every = 100
    return config
