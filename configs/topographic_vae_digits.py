"""Topographic VAE on digits of scikit-learn that turn, grow or change colour.

    python -m train --config configs/topographic_vae_digits.py --workdir runs/topographic_vae_digits

One CPU core shared with other work: 5 minutes. Test sequences: ELBO -126.9 nats a frame (`elbo`
over 18), normalised error 0.460 (the mean image: 0.826); CapCorr of the hue 0.998, of the prior
0.938, of a constant sequence 0.813. Colour and size are learned, shapes hardly.

    python -m train.forecast --workdir runs/topographic_vae_digits

rolls capsules into frames that the model has not seen, 5 of 18: a mean squared error of 0.0219,
where a copy of the last seen frame has 0.0247.

The transformations of `topographic_vae_mnist` on 16x16 digits; 6 capsules of 18 places instead of
18, and Adam. `configs/topographic_vae_digits.py:vae` has t = z, and
`configs/topographic_vae_digits.py:bubble` capsules that keep still: BubbleVAE.
"""

from ml_collections import ConfigDict

from configs import base

ROWS = ("L13_36", "vae", "bubble")


def get_config(row: str = "L13_36") -> ConfigDict:
    if row not in ROWS:
        raise ValueError(f"topographic_vae_digits has no variant {row!r}; known: {', '.join(ROWS)}")
    config = base.get_config()
    config.name = "topographic_vae_digits"
    config.model.image_shape = (16, 16, 3)
    base.set_topographic(config, frames=18, capsules=6, places=18, **base.TOPOGRAPHIES[row])
    config.data.source = "sequences:digits"
    config.data.transformations = ("rotation", "scale", "hue")
    config.data.holdout = 0.2
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.train.steps = 6000
    config.train.batch_size = 8
    config.evaluation.evaluators = ("losses", "image", "equivariance")
    config.evaluation.final_evaluators = ("sequence_likelihood",)
    config.evaluation.importance_samples = 10
    config.evaluation.batch_size = 40
    config.evaluation.every = 3000
    config.log_every = 50
    config.checkpoint_every = 500
    return config
