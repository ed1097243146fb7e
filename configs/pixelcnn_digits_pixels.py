"""Gated PixelCNN over the pixels of scikit-learn's 8x8 digits, which have 17 values.

    python -m train --config configs/pixelcnn_digits_pixels.py --workdir runs/pixelcnn_digits_pixels

A pixel is a code: no bottleneck, and bits of a code are bits/dim. Given the digit's class.

A CPU core shared with other work: 70 s. Test split: 1.867 bits/dim (frequencies alone: 2.981,
uniform: 4.087). More steps overfit the 1,437 digits. Sizes are ours.
"""

from ml_collections import ConfigDict

from configs import base, priors


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "pixelcnn_digits_pixels"
    config.model.image_shape = (8, 8, 1)
    priors.set_pixelcnn(config, code_shape=(8, 8, 1), codes=17, layers=4, features=32, classes=10)
    config.data.source = "digits"
    config.data.holdout = 0.2
    config.data.levels = 17
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.train.steps = 400
    config.train.batch_size = 64
    config.train.average_decay = 0.99
    config.evaluation.every = 100
    config.log_every = 50
    config.checkpoint_every = 100
    return config
