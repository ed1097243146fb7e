"""VQ-VAE on ImageNet at 128x128 as in van den Oord et al. 2017, section 4.2.

    python -m train --config configs/vqvae_imagenet128.py --workdir gs://BUCKET/vqvae_imagenet128

Meant for GPUs or a TPU slice; not run by us beyond a smoke run, and the paper gives pictures and no
figure to expect.

128x128x3 to 32x32x1 codes of K=512, 42.6 times fewer bits than the pixels. The network is that of
the authors' notebook (128 units, 2 residual layers of 32, depth 64), batch 128. Prepare
`imagenet2012` with TFDS first (see the README), or use a folder: `--config.data.source=folder:PATH
--config.data.holdout=0.02`.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "vqvae_imagenet128"
    config.model.image_shape = (128, 128, 3)
    config.model.backbone = base.convnet(widths=(64, 128), last_width=128)
    config.model.bottleneck = base.ema_codebook(codes=512, depth=64)
    config.loss_weights = base.mean_squared_weights(image_shape=(128, 128, 3), depth=64)
    config.data.source = "tfds:imagenet2012"
    config.data.test = "validation"
    config.data.crop = "resize"
    config.data.flip = True
    config.optimizer.learning_rate = 3e-4
    config.train.steps = 250_000
    config.train.batch_size = 128
    config.evaluation.evaluators = ("losses", "image", "codes")
    config.evaluation.every = 25_000
    config.log_every = 500
    config.checkpoint_every = 5000
    return config
