"""VQ-VAE on frames of Breakout in colour, for a second stage: `vqvae_pong84`, on another game.

    python -m train --config configs/vqvae_breakout84.py --workdir runs/vqvae_breakout84

Not run to its end by us.
"""

from ml_collections import ConfigDict

from configs import vqvae_pong84


def get_config() -> ConfigDict:
    config = vqvae_pong84.get_config()
    config.name = "vqvae_breakout84"
    config.data.source = "game:breakout"
    return config
