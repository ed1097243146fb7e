"""Topographic VAE on one torus of 18 x 18 units, MNIST: the model of the paper's Figure 3.

    python -m train --config configs/topographic_vae_torus.py --workdir runs/topographic_vae_torus

Not run to its end here: 250 passes over 48,000 images.

Single images, without time: neighbours on the torus share the energy of 5 x 5 units, and come to
stand for alike digits. As released: mu starts at 10, SGD, batches of 128.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "topographic_vae_torus"
    config.model.image_shape = (28, 28, 1)
    base.set_topographic(config, frames=0, capsules=18, places=18, mu=10.0, kernel="torus", width=5)
    config.data.source = "tfds:mnist"
    config.data.train = "train[:48000]"
    base.released_topographic_training(config, steps=93_750, batch_size=128)
    config.evaluation.batch_size = 200
    config.evaluation.every = 18_750
    config.log_every = 250
    config.checkpoint_every = 1250
    return config
