"""Prior over video of moving MNIST, in codes of its frames: given 6 frames, and no actions.

    python -m train --config configs/vqvae_moving_mnist.py --workdir runs/vqvae_moving_mnist
    python -m train --config configs/video_moving_mnist.py --workdir runs/video_moving_mnist
    python -m train.video --workdir runs/video_moving_mnist

A CPU core shared with other work: 26 minutes. Of the first 2,000 test windows: 0.758 bits per code,
3.859 by frequencies; digits fall apart in the draws. The sizes are those of `video_pong`, and ours.
"""

from ml_collections import ConfigDict

from configs import base, priors


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "video_moving_mnist"
    config.model.image_shape = (64, 64, 1)
    priors.set_video_prior(
        config, code_shape=(16, 16, 1), codes=256, actions=0, past=6, layers=3, features=32
    )
    config.data.source = "codes:runs/vqvae_moving_mnist"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.train.steps = 5000
    config.train.batch_size = 32
    config.train.average_decay = 0.99
    config.log_every = 100
    config.checkpoint_every = 500
    return config
