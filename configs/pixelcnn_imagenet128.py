"""Gated PixelCNN over the 32x32 codes of `vqvae_imagenet128`, given one of the 1,000 classes.

    python -m train --config configs/pixelcnn_imagenet128.py --workdir runs/pixelcnn_imagenet128

Meant for GPUs or a TPU slice; not run by us. As in van den Oord et al. 2017, section 4.2, which
samples from such a prior class by class and gives no figure. It says that the prior's size is
similar to Gated PixelCNN's, and not how the class enters: the sizes are ours, and the class is a
bias in every layer (van den Oord, Kalchbrenner, Vinyals et al. 2016, Eq. 4).
"""

from ml_collections import ConfigDict

from configs import base, priors


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "pixelcnn_imagenet128"
    priors.set_pixelcnn(
        config,
        code_shape=(32, 32, 1),
        codes=512,
        classes=1000,
        layers=20,
        features=384,
        output_features=1024,
    )
    config.model.dtype = "bfloat16"
    config.data.source = "codes:runs/vqvae_imagenet128"
    config.optimizer.learning_rate = 3e-4
    config.optimizer.schedule = "cosine"
    config.train.steps = 250_000
    config.train.batch_size = 128
    config.train.average_decay = 0.9999
    config.evaluation.every = 25_000
    config.log_every = 500
    config.checkpoint_every = 5000
    return config
