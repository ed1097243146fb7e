r"""Predictive Topographic VAE on transforming MNIST: the next frame from the frames so far.

    python -m train --config configs/topographic_vae_predictive.py --workdir \
        runs/topographic_vae_predictive

Not run to its end here: 100 passes over 48,000 sequences of 18 frames are work for a GPU.

"Predictive Coding with Topographic Variational Autoencoders" (Keller and Welling 2021, ICCV
workshops): W has the half of its 18 frames that lies in the past, L = 9/36, K = 3, and capsules are
rolled on by one frame and one place before they are decoded. The first frame is decoded from its
own capsules; the release predicts it from the last one, which lies in its future.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "topographic_vae_predictive"
    config.model.image_shape = (28, 28, 3)
    kernel = {"kernel": "shifting", "window": 18, "spread": 1, "predictive": True}
    base.set_topographic(config, frames=18, capsules=18, places=18, **kernel)
    config.data.source = "sequences:mnist"
    config.data.transformations = ("rotation", "scale", "hue")
    config.data.train = "train[:48000]"
    base.released_topographic_training(config, steps=600_000, batch_size=8)
    config.evaluation.evaluators = ("losses", "image", "equivariance")
    config.evaluation.batch_size = 40
    config.evaluation.every = 30_000
    return config
