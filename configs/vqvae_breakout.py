"""VQ-VAE on frames of Breakout, for a prior over video: that of `vqvae_pong`, on another game.

    python -m train --config configs/vqvae_breakout.py --workdir runs/vqvae_breakout

One CPU core: 4 minutes. Test split: normalised error 0.00101 (the mean image: 0.0190), PSNR 44.1,
perplexity 53.3, 247 of 256 codes used. The ball is hardly drawn.
"""

from ml_collections import ConfigDict

from configs import vqvae_pong


def get_config() -> ConfigDict:
    config = vqvae_pong.get_config()
    config.name = "vqvae_breakout"
    config.data.source = "game:breakout"
    return config
