"""Gated PixelCNN over the 32x32 codes of `vqvae_photos128`, a grid as large as ImageNet's.

    python -m train --config configs/vqvae_photos128.py --workdir runs/vqvae_photos128
    python -m train --config configs/pixelcnn_photos128.py --workdir runs/pixelcnn_photos128

Of another run's codes: `--config.data.source=codes:RUN`. The photographs give few crops of this
size, 80 to train on, which even this small prior overfits after 300 steps: 5.37 bits per code of
the test crops then, 5.43 in the end (5.66 with 300 as train.steps), 8.81 by frequencies. One CPU
core: 3 minutes.
"""

from ml_collections import ConfigDict

from configs import base, priors


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "pixelcnn_photos128"
    priors.set_pixelcnn(config, code_shape=(32, 32, 1), codes=512, classes=0, layers=3, features=32)
    config.data.source = "codes:runs/vqvae_photos128"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.train.steps = 600
    config.train.batch_size = 8
    config.train.average_decay = 0.99
    config.evaluation.batch_size = 8
    config.evaluation.every = 100
    config.log_every = 50
    config.checkpoint_every = 100
    return config
