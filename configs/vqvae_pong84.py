"""VQ-VAE on frames of Pong in colour: 84x84x3 to 21x21 codes of K=512, for a second stage.

    python -m train --config configs/vqvae_pong84.py --workdir runs/vqvae_pong84

Image, codes and K are those of the DM-Lab frames of van den Oord et al. 2017, section 4.2; the
network and its short training are ours.

Test split: PSNR 38.7 (the mean image: 35.0), perplexity 3.8, 246 of 512 codes used. The paddles are
drawn faintly, the ball hardly: most of the variance is that of the field's three channels about
their common mean, and so of the unit of the error.
"""

from ml_collections import ConfigDict

from configs import base, vqvae_pong


def get_config() -> ConfigDict:
    config = vqvae_pong.get_config()
    config.name = "vqvae_pong84"
    config.model.image_shape = (84, 84, 3)
    config.model.bottleneck = base.ema_codebook(codes=512, depth=16)
    config.loss_weights = base.mean_squared_weights(image_shape=(84, 84, 3), depth=16)
    config.train.steps = 1000
    config.train.batch_size = 16
    config.evaluation.every = 500
    return config
