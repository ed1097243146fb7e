"""VQ-VAE on frames of Breakout, for a prior over video: that of `vqvae_pong`, on another game.

    python -m train --config configs/vqvae_breakout.py --workdir runs/vqvae_breakout

Not run to its end by us.
"""

from ml_collections import ConfigDict

from configs import vqvae_pong


def get_config() -> ConfigDict:
    config = vqvae_pong.get_config()
    config.name = "vqvae_breakout"
    config.data.source = "game:breakout"
    return config
