"""Topographic VAE on transforming MNIST, as released: the rows of the paper's Table 1.

    python -m train --config configs/topographic_vae_mnist.py --workdir runs/topographic_vae_mnist

Not run to its end here: 100 passes over 48,000 sequences of 18 frames are work for a GPU.

A digit in one colour turns by 20 degrees a frame, or grows, or changes its hue. 18 capsules of 18
places. The rows are the kernels of W, L being half of the frames it spans over 18, and K 3 places:
TVAE with L = 13/36 and `configs/topographic_vae_mnist.py:L5_36`,
`configs/topographic_vae_mnist.py:L1_2`; `configs/topographic_vae_mnist.py:L0`, topographic within a
frame only; `configs/topographic_vae_mnist.py:bubble`, whose energy stays in place;
`configs/topographic_vae_mnist.py:vae`, t = z. Compare what is measured with its `_prior`.

`--config.data.transformations="('rotation+hue',)"` moves both together, and
`"('hue+perspective',)"` turns the digit in depth, as two more of the release's experiments do. The
release holds another 12,000 digits back and never uses them; here these are `train[48000:]`.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(row: str = "L13_36") -> ConfigDict:
    if row not in base.TOPOGRAPHIES:
        known = ", ".join(base.TOPOGRAPHIES)
        raise ValueError(f"topographic_vae_mnist has no variant {row!r}; known: {known}")
    config = base.get_config()
    config.name = "topographic_vae_mnist"
    config.model.image_shape = (28, 28, 3)
    base.set_topographic(config, frames=18, capsules=18, places=18, **base.TOPOGRAPHIES[row])
    config.data.source = "sequences:mnist"
    config.data.transformations = ("rotation", "scale", "hue")
    config.data.train = "train[:48000]"
    base.released_topographic_training(config, steps=600_000, batch_size=8)
    config.evaluation.evaluators = ("losses", "image", "equivariance")
    config.evaluation.batch_size = 40
    config.evaluation.every = 30_000
    return config
