"""VQ-VAE on frames of Breakout in colour, for a second stage: `vqvae_pong84`, on another game.

    python -m train --config configs/vqvae_breakout84.py --workdir runs/vqvae_breakout84

One CPU core: 4 minutes. Its reconstructions have 34.1 dB.
"""

from ml_collections import ConfigDict

from configs import vqvae_pong84


def get_config() -> ConfigDict:
    config = vqvae_pong84.get_config()
    config.name = "vqvae_breakout84"
    config.data.source = "game:breakout"
    return config
