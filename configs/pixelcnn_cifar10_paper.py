"""Gated PixelCNN over the 8x8x10 codes of `vqvae_cifar10_paper`: bits per dimension.

    python -m train --config configs/pixelcnn_cifar10_paper.py --workdir runs/pixelcnn_cifar10_paper

Meant for a GPU; we ran 280 steps of 16 (the README's "Bits per dimension"). `python -m train.bits
--workdir runs/pixelcnn_cifar10_paper` then gives the whole model's bits/dim, 4.67 in van den Oord
et al. 2017, section 4.1, beside those with a uniform prior and with independent codes. The paper
says nothing of this prior: all sizes are ours, the ten codes of a position come one after another,
and there is no class.
"""

from ml_collections import ConfigDict

from configs import base, priors


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "pixelcnn_cifar10_paper"
    priors.set_pixelcnn(
        config,
        code_shape=(8, 8, 10),
        codes=512,
        classes=0,
        layers=12,
        features=256,
        output_features=1024,
    )
    config.data.source = "codes:runs/vqvae_cifar10_paper"
    config.optimizer.learning_rate = 3e-4
    config.optimizer.schedule = "cosine"
    config.train.steps = 100_000
    config.train.batch_size = 128
    config.train.average_decay = 0.999
    config.evaluation.every = 5000
    config.log_every = 500
    config.checkpoint_every = 5000
    return config
