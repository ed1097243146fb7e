"""VQ-VAE on CIFAR-10 as in van den Oord et al. 2017, section 4.1: bits per dimension.

    python -m train --config configs/vqvae_cifar10_paper.py --workdir runs/vqvae_cifar10_paper

Meant for a GPU, which we have not had: one CPU core makes 15 steps of 32 images a minute. The paper
gives 4.67 bits/dim with a trained prior: configs/pixelcnn_cifar10_paper.py, and the README's "Bits
per dimension" for what few steps give. Our `nll_uniform_prior_bits_per_dim` is the bound with a
uniform one (640 codes of 9 bits: 1.875).

256 units, 8x8x10 latents, beta = 0.25, Adam 2e-4, batch 128, 250,000 steps. The paper does not say
K, the codes' depth or the likelihood: 10 codebooks of K=512 and depth 64, and a 256-way softmax,
are our choice. So are codebooks that follow averages (appendix A.1, which the paper did not use),
and nats per dimension beside the commitment's mean over depth, as in the authors' notebook. With
`configs/vqvae_cifar10_paper.py:eq3` codebooks follow the loss, nats are summed over the image, and
the other two terms over depth, as in Eq. 3. On batches of 32 the encoder then outran its codebooks:
at steps 61 to 80 a commitment of 9,220, a perplexity of 12 and 15,598 nats; by averages 0.87, 17
and 15,341. It was stopped there; neither more steps nor batches of 128 have been tried.
"""

from ml_collections import ConfigDict

from configs import base

VARIANTS = ("averages", "eq3")


def get_config(variant: str = "averages") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(
            f"vqvae_cifar10_paper has no variant {variant!r}; known: {', '.join(VARIANTS)}"
        )
    config = base.get_config()
    config.name = "vqvae_cifar10_paper"
    config.model.image_shape = (32, 32, 3)
    config.model.data_variance = 0.0632704
    config.model.backbone = base.convnet(widths=(256, 256), last_width=None, residual_width=256)
    config.model.bottleneck = base.ema_codebook(codes=512, depth=64)
    config.model.bottleneck.codebooks = 10
    config.model.likelihood = ConfigDict({"name": "categorical", "levels": 256})
    # Nats per dimension, and the commitment's mean over depth, as in the authors' notebook.
    config.loss_weights = ConfigDict({"reconstruction": 1 / (32 * 32 * 3), "commitment": 0.25 / 64})
    if variant == "eq3":
        config.model.bottleneck.update({"codebook_update": "loss", "revive_below": 0.0})
        eq3 = {"reconstruction": 1.0, "codebook": 1.0, "commitment": 0.25}
        config.loss_weights = ConfigDict(eq3)
    config.data.source = "tfds:cifar10"
    config.optimizer.learning_rate = 2e-4
    config.train.steps = 250_000
    config.train.batch_size = 128
    config.evaluation.evaluators = ("losses", "image", "codes")
    config.evaluation.every = 25_000
    config.log_every = 500
    config.checkpoint_every = 5000
    return config
