"""Gated PixelCNN over the 8x8 codes of `vqvae_cifar10`, given the class.

    python -m train --config configs/vqvae_cifar10.py --workdir runs/vqvae_cifar10
    python -m train --config configs/pixelcnn_cifar10.py --workdir runs/pixelcnn_cifar10

A CPU core shared with other work: 40 minutes. Test split: 6.948 bits per code (frequencies alone:
8.740, uniform: 9).

Of another run's codes: `--config.data.source=codes:RUN`. The sizes are ours.
"""

from ml_collections import ConfigDict

from configs import base, priors


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "pixelcnn_cifar10"
    priors.set_pixelcnn(config, code_shape=(8, 8, 1), codes=512, classes=10, layers=6, features=64)
    config.data.source = "codes:runs/vqvae_cifar10"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.train.steps = 5000
    config.train.batch_size = 64
    config.train.average_decay = 0.999
    config.evaluation.every = 1000
    config.log_every = 100
    config.checkpoint_every = 500
    return config
