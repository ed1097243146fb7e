"""VQGAN on ImageNet at 256x256, as released: 16x16 codes of 1,024, an adversary from step 250,001.

    python -m train --config configs/vqgan_imagenet256.py --workdir gs://BUCKET/vqgan_imagenet256

Meant for GPUs or a TPU slice; not run by us. The authors' rFID is 7.94 on the validation images,
with a perceptual loss. That wants weights of yours (train/weights.py tells how to make the file),
so it is not here; with them, add it with the authors' weight 1 by

    --config.model.perceptual.net=vgg16 --config.model.perceptual.file=lpips_vgg16.npz

Networks, loss, adversary, Adam and crops are the release's: the absolute error of images in
[-1, 1], the codebook's term a quarter of the commitment's. The rate is 4.5e-6 times the batch of
all devices, 12 on each; for 8, `--config.train.batch_size=96
--config.optimizer.learning_rate=4.32e-4`. For how many steps they trained is not known to us.
Unlike there, the adaptive weight is that of all devices, the codebook starts wider, and the
discriminator learns from the images of the same pass. Prepare `imagenet2012` with TFDS first (see
the README), or use a folder: `--config.data.source=folder:PATH --config.data.holdout=0.02`.
"""

from ml_collections import ConfigDict

from configs import base

SHAPE = (256, 256, 3)


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "vqgan_imagenet256"
    released(config, batch_size=12)
    quantise(config)
    config.adversary.start = 250_001
    config.data.source = "tfds:imagenet2012"
    config.data.test = "validation"
    config.train.steps = 1_000_000
    return config


def released(config: ConfigDict, *, batch_size: int) -> None:
    """What VQGAN and CVGAN share as released: networks, loss, adversary, Adam and crops."""
    config.model.image_shape = SHAPE
    config.model.backbone = ConfigDict(
        {
            "name": "vqgan",
            "ch": 128,
            "ch_mult": (1, 1, 2, 2, 4),
            "num_res_blocks": 2,
            "attn_resolutions": (16,),
            "z_channels": 256,
            "start": "pytorch",
            "post_quant_conv": False,
        }
    )
    # Its nats are the absolute error of images in [-1, 1].
    config.model.likelihood = ConfigDict({"name": "laplace", "scale": 0.5})
    config.loss_weights = ConfigDict({"reconstruction": 1 / (256 * 256 * 3)})
    config.adversary.loss = "hinge"
    config.adversary.layers = 3
    config.adversary.width = 64
    config.adversary.weight = 0.8
    config.data.crop = "resize"
    config.optimizer.learning_rate = 4.5e-6 * batch_size
    config.optimizer.b1 = 0.5
    config.optimizer.b2 = 0.9
    config.train.batch_size = batch_size
    config.evaluation.evaluators = ("losses", "image", "frechet")
    config.evaluation.batch_size = 16
    config.evaluation.every = 50_000
    config.log_every = 500
    config.pictures_every = 5000
    config.checkpoint_every = 5000


def quantise(config: ConfigDict) -> None:
    """VQGAN's codebook, moved by gradients, between its two 1x1 convolutions."""
    config.model.bottleneck = base.ema_codebook(codes=1024, depth=256)
    config.model.bottleneck.update(
        {"codebook_update": "loss", "start": "uniform", "revive_below": 0.0}
    )
    config.model.backbone.post_quant_conv = True
    # Means over the depth. The quarter is on the codebook's term, as the published models had it.
    config.loss_weights.update({"commitment": 1 / 256, "codebook": 0.25 / 256})
    config.evaluation.evaluators = ("losses", "image", "codes", "frechet")
