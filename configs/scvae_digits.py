"""SC-VAE on the 8x8 digits of scikit-learn, with the backbone of `vqvae_digits`.

    python -m train --config configs/scvae_digits.py --workdir runs/scvae_digits

2 CPU cores shared with other work: 1 minute. Test split: normalised error 0.0161 (the mean image:
0.514), PSNR 27.0, with 45 entries of the code in use, of 512 (2.8 at each of 4x4 positions).

`configs/scvae_digits.py:published` is the released recursion, dictionary and loss, without an L1
term: normalised error 0.0025 with 442 entries in use, of 1,024, more than the image has pixels.
`configs/scvae_digits.py:paper_v2` is the preprint's orthonormal dictionary with free LISTA weights:
0.0074 with 152, of 256.
"""

from ml_collections import ConfigDict

from configs import base

MODES = ("fista", "published", "paper_v2")


def get_config(mode: str = "fista") -> ConfigDict:
    if mode not in MODES:
        raise ValueError(f"scvae_digits has no variant {mode!r}; known: {', '.join(MODES)}")
    shape = (8, 8, 1)
    config = base.get_config()
    config.name = "scvae_digits"
    config.model.image_shape = shape
    config.model.backbone = base.convnet(widths=(32,), last_width=64)
    config.model.bottleneck = base.sparse_coder(depth=8, atoms=32, penalty=0.3)
    config.loss_weights = base.sparse_weights(image_shape=shape)
    if mode == "published":
        config.model.bottleneck.update({"mode": mode, "depth": 16, "atoms": 64})
        config.model.likelihood = ConfigDict({"name": "gaussian", "variance": 0.25})
        config.loss_weights = base.released_sparse_weights(
            image_shape=shape, positions=4 * 4, depth=16
        )
    elif mode == "paper_v2":
        config.model.bottleneck.update({"mode": mode, "depth": 16, "atoms": 16, "penalty": 0.1})
    config.data.source = "digits"
    config.data.holdout = 0.2
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.train.steps = 3000
    config.train.batch_size = 64
    config.evaluation.evaluators = ("losses", "image", "atoms")
    config.evaluation.every = 1000
    config.log_every = 50
    config.checkpoint_every = 500
    return config
