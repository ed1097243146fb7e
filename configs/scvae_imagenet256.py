"""SC-VAE on ImageNet at 256x256, as released: `sotiraslab/SC-VAE`, its four sizes of a latent.

    python -m train --config configs/scvae_imagenet256.py --workdir gs://BUCKET/scvae_imagenet256

Meant for GPUs or a TPU slice; not run by us, and the authors' figures are not known to us.

16x16 positions of 256 features and 512 atoms, by VQGAN's networks. Other sizes are
`configs/scvae_imagenet256.py:32`, `configs/scvae_imagenet256.py:4` and
`configs/scvae_imagenet256.py:1`: as many positions a side. Recursion, dictionary, loss, start of
the weights and Adam are the release's; so are 10 epochs of batch 8. Prepare `imagenet2012` with
TFDS first (see the README), or use a folder: `--config.data.source=folder:PATH`.
"""

from ml_collections import ConfigDict

from configs import base

# Positions a side: the widths of VQGAN's levels in units of 128, and alpha.
LATENTS = {
    "16": ((1, 1, 2, 2, 4), 3.0),
    "32": ((1, 2, 2, 4), 3.0),
    "4": ((1, 1, 1, 2, 2, 4, 4), 2.0),
    "1": ((1, 1, 1, 2, 2, 2, 4, 4, 4), 0.5),
}


def get_config(latent: str = "16") -> ConfigDict:
    config = released(latent, "scvae_imagenet256")
    config.data.source = "tfds:imagenet2012"
    config.data.test = "validation"
    config.train.steps = 1_600_000  # 10 epochs
    return config


def released(latent: str, name: str) -> ConfigDict:
    """What the release does on either of its data sets."""
    if latent not in LATENTS:
        raise ValueError(f"{name} has no variant {latent!r}; known: {', '.join(LATENTS)}")
    ch_mult, alpha = LATENTS[latent]
    side, shape = int(latent), (256, 256, 3)
    config = base.get_config()
    config.name = name
    config.model.image_shape = shape
    config.model.backbone = ConfigDict(
        {
            "name": "vqgan",
            "ch": 128,
            "ch_mult": ch_mult,
            "num_res_blocks": 2,
            "attn_resolutions": (16,),
            "z_channels": 256,
            "start": "xavier",
        }
    )
    config.model.bottleneck = base.sparse_coder(
        depth=256, atoms=512, penalty=alpha, mode="published"
    )
    config.model.bottleneck.project = False
    config.model.likelihood = ConfigDict({"name": "gaussian", "variance": 0.25})
    config.loss_weights = base.released_sparse_weights(
        image_shape=shape, positions=side * side, depth=256
    )
    config.data.crop = "resize"
    config.data.flip = True
    config.optimizer.learning_rate = 4e-5
    config.optimizer.b1 = 0.5
    config.optimizer.b2 = 0.9
    config.train.batch_size = 8
    config.evaluation.evaluators = ("losses", "image", "atoms")
    config.evaluation.batch_size = 8
    config.evaluation.every = 25_000
    config.log_every = 500
    config.checkpoint_every = 5000
    return config
