"""Second stage on the codes of Pong's frames: 21x21 of K=512 to three latents of K=512, 27 bits.

    python -m train --config configs/vqvae_pong84.py --workdir runs/vqvae_pong84
    python -m train --config configs/second_stage_pong.py --workdir runs/second_stage_pong
    python -m train.second_stage --workdir runs/second_stage_pong

Section 4.2 of van den Oord et al. 2017, on another game and with a small PixelCNN. So that a few
layers do, it is given a map that a small network draws of the latents.

1,500 steps, 15 minutes on a shared CPU core: 0.0593 nats a code told its latents, 0.2177 told
another frame's, 0.4143 by frequencies.
"""

from ml_collections import ConfigDict

from configs import base, priors


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "second_stage_pong"
    config.model.image_shape = (84, 84, 3)
    priors.set_second_stage(
        config,
        code_shape=(21, 21, 1),
        codes=512,
        widths=(64, 128),
        embedding=16,
        layers=2,
        features=32,
        kernel=3,
        output_features=48,
        map_features=32,
    )
    # A code is dead after 121 steps without a frame, and a batch has 32 for 512 codes.
    config.model.bottleneck.decay = 0.95
    config.model.bottleneck.revive_below = 0.002
    config.data.source = "codes:runs/vqvae_pong84"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.train.steps = 1500
    config.train.batch_size = 32
    config.log_every = 25
    config.checkpoint_every = 100
    return config
