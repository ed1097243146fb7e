"""Every field of a run, with its default. An experiment's config starts here and says what differs.

Lengths are in steps (one step is one batch of all devices); rates are per step.
"""

import math
from typing import Any

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """Fields and defaults shared by all experiments."""
    image_shape = FieldReference((32, 32, 3))
    config = ConfigDict()
    config.name = ""
    config.seed = 0
    # Folder of another run whose parameters (and codebooks) this one starts from.
    config.init_from = ""

    config.model = ConfigDict()
    config.model.image_shape = image_shape
    # Variance of the training images' values in [0, 1]: the unit of the normalised reconstruction
    # error, and of the Gaussian likelihood unless that has its own. 0: measured at the start.
    config.model.data_variance = 0.0
    config.model.dtype = "float32"  # of the arithmetic: float32, bfloat16; parameters are float32
    config.model.remat = False  # compute activations again in the backward pass, to save memory
    # A dict with a name and the options of what is named; experiments replace it whole.
    config.model.backbone = ConfigDict()
    config.model.bottleneck = ConfigDict()
    config.model.likelihood = ConfigDict({"name": "gaussian"})
    # Of a run that trains a prior over codes, and nothing of the four above but dtype: the codes'
    # grid and their codebooks, such as (8, 8, 1), and the prior's name and options.
    config.model.code_shape = ()
    config.model.prior = ConfigDict()
    # Of a run that models speech, whose backbone is "waveform": the options of its WaveNet (classes
    # are the speakers), and the jitter of its latents.
    config.model.speech = ConfigDict()
    # Of a run that squeezes the codes of another a second time, whose backbone is "convnet" (its
    # encoder reads embedded codes of `code_shape`): the options of its PixelCNN, the embedding's
    # features, and those of the map that it draws of the latents (0: it is given the latents).
    config.model.second_stage = ConfigDict()
    # A loss term of how images look: "vgg16", "alexnet", or "" for none. It is LPIPS, lpips_vgg16
    # say, with a file of its weights (train/weights.py tells how to make one), and without one a
    # random_features_distance.
    config.model.perceptual = ConfigDict({"net": "", "file": ""})
    config.model.perceptual.weight = 1.0  # of this term, beside loss_weights

    # One weight for each other loss term of the model. A reconstruction is in nats per example.
    config.loss_weights = ConfigDict()

    # A discriminator of patches that the decoder is trained to deceive, by the same optimiser.
    config.adversary = ConfigDict()
    config.adversary.loss = ""  # "": none; hinge, non_saturating
    config.adversary.layers = 3  # of stride 2; the fewer, the smaller the patches
    config.adversary.width = 64
    config.adversary.weight = 0.8  # of the adversary's pull, 1 being as hard as the rest of it
    config.adversary.start = 0  # steps done before there is an adversary
    config.adversary.gradient_penalty = 0.0  # weight of 1/2 |dD(x)/dx|^2 at real images; 0: none

    config.data = ConfigDict()
    # digits, photos, tfds:NAME, folder:PATH, audio:PATH, array:PATH, game:NAME, codes:W, synthetic;
    # moving:mnist, moving:digits;
    # sequences:mnist, sequences:digits, sequences:dsprites, sequences:PATH (of dSprites in a file)
    config.data.source = ""
    # Of TFDS; empty: TFDS_DATA_DIR, or TFDS's own default. Of what games have played: a cache.
    config.data.data_dir = ""
    config.data.train = "train"
    config.data.test = "test"
    config.data.holdout = 0.0  # share cut off as "test" where the source has no test split
    config.data.split_seed = 0
    config.data.image_shape = image_shape
    config.data.crop = "none"  # none, random, resize
    config.data.flip = False
    config.data.binarise = ""  # "", stochastic
    # Standard deviation of noise added to training images, in [0, 1] units; 0: none.
    config.data.noise = 0.0
    config.data.limit = 0
    # Pixels as codes 0 .. levels - 1, for a prior over them; 0: pixels make an image.
    config.data.levels = 0
    # Of speech: samples of a crop, and samples a second.
    config.data.samples = 0
    config.data.sample_rate = 0
    # Of the checkpoint that the codes of "codes:W" are of; 0: of W's newest, noted at the start.
    config.data.encoder_checksum = 0
    # Of a sequence; 0: single images. Of codes: those that a frame is seen with, itself the last.
    config.data.frames = 0
    # Of sequences, one for each. Digits: rotation, scale, hue, perspective, or several that move
    # together, as rotation+hue. dSprites: x, y, orientation, scale.
    config.data.transformations = ()
    config.data.test_transformations = ()  # of "test", where those are others

    config.optimizer = ConfigDict()
    config.optimizer.name = "adam"  # adam, sgd
    config.optimizer.learning_rate = 3e-4
    config.optimizer.schedule = "constant"  # constant, cosine
    config.optimizer.warmup_steps = 0
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 0.0  # 0: no clipping

    config.train = ConfigDict()
    config.train.steps = 1000
    config.train.batch_size = 32  # of all devices together
    # Steps per dispatch to the devices. More hide the cost of a dispatch on accelerators; on CPU,
    # XLA runs convolutions inside such a loop some 15 times slower, so leave 1 there.
    config.train.steps_per_call = 1
    config.train.accumulate = 1  # parts that a batch is split in, their gradients added up
    config.train.average_decay = 0.0  # moving average of the parameters for evaluation; 0: none

    config.evaluation = ConfigDict()
    config.evaluation.batch_size = 128
    config.evaluation.evaluators = ("losses", "image")
    config.evaluation.final_evaluators = ()  # also done at the end of the run
    config.evaluation.importance_samples = 100
    # File of the weights that make the evaluator "frechet" an rFID (train/weights.py); "": none.
    config.evaluation.inception = ""
    config.evaluation.every = 0  # steps; 0: at the end only

    # Steps after which the same test images are reconstructed into pictures/; 0: at the end only.
    config.pictures_every = 0
    config.log_every = 100
    config.checkpoint_every = 1000
    config.keep_checkpoints = 3
    return config


def convnet(
    *, widths: tuple[int, ...], last_width: int | None, residual_width: int = 32
) -> ConfigDict:
    """The VQ-VAE's convolutional network, halving the image once for each of `widths`."""
    return ConfigDict(
        {
            "name": "convnet",
            "widths": widths,
            # A placeholder, so that an override knows its type where there is none.
            "last_width": last_width or placeholder(int),
            "residual_layers": 2,
            "residual_width": residual_width,
        }
    )


def ema_codebook(*, codes: int, depth: int) -> ConfigDict:
    """One codebook moved by averages (gamma 0.99), started by k-means, dead codes revived."""
    return ConfigDict(
        {
            "name": "vq",
            "codes": codes,
            "depth": depth,
            "codebooks": 1,
            "codebook_update": "ema",
            "decay": 0.99,
            "epsilon": 1e-5,
            "debias": False,
            "start": "kmeans",
            "revive_below": 0.1,
        }
    )


def sparse_coder(*, depth: int, atoms: int, penalty: float, mode: str = "fista") -> ConfigDict:
    """A sparse code on a dictionary `[depth, atoms]` for each position, by 16 steps."""
    return ConfigDict(
        {
            "name": "sparse",
            "mode": mode,
            "depth": depth,
            "atoms": atoms,
            "penalty": penalty,
            "iterations": 16,
            "project": True,
        }
    )


def capsules(*, primaries: int, pose: int, outputs: int, depth: int) -> ConfigDict:
    """Capsules of each position routed by agreement, three iterations, to competing outputs."""
    return ConfigDict(
        {
            "name": "capsules",
            "mode": "agreement",
            "primaries": primaries,
            "pose": pose,
            "outputs": outputs,
            "depth": depth,
            "iterations": 3,
            "deviation": 1.0,
            "leaky": False,
            "gradient": "all",
            "train_capsules": True,
        }
    )


def released_capsules() -> ConfigDict:
    """CVGAN's capsule layer as released, at the random start that nothing trains."""
    released = capsules(primaries=32, pose=16, outputs=1, depth=64)
    released.update({"mode": "published", "train_capsules": False})
    return released


def partition_network(*, subresolution: int, **others: object) -> ConfigDict:
    """PartitionVAE's convolutional network as released for MNIST, with a smaller decoder image."""
    return ConfigDict(
        {
            "name": "partition",
            "convs": ((5, 32), (5, 8)),
            "dense": (100,),
            "decoder_convs": ((5, 1),),
            "subresolution": subresolution,
            "upsample": "nearest",
            "activation": "linear",
            "centre": 0.5,
            "scale": 1.0,
            "partitions": (),
            "broadcast": False,
            **others,
        }
    )


def partitioned_latent(*, partitions: tuple[int, ...], **others: object) -> ConfigDict:
    """A Gaussian latent whose partitions have linear heads n -> 10 -> n of their own."""
    return ConfigDict(
        {
            "name": "partition",
            "partitions": partitions,
            "hidden": (10,),
            "head_activation": "linear",
            "mode": "described",
            "heads": "partitioned",
            **others,
        }
    )


def mean_squared_weights(*, image_shape: tuple[int, int, int], depth: int) -> ConfigDict:
    """Mean squared error over the data's variance, plus 0.25 times the commitment's mean over D.

    The loss of the authors' notebook, from a Gaussian's nats summed over the image.
    """
    values = image_shape[0] * image_shape[1] * image_shape[2]
    return ConfigDict({"reconstruction": 2 / values, "commitment": 0.25 / depth})


def sparse_weights(*, image_shape: tuple[int, int, int], weight: float = 1.0) -> ConfigDict:
    """Mean squared error over the data's variance, plus the sparse coder's objective in that unit.

    With weight 1 it is -log p(image, features, code) in nats, times 2 over the number of values.
    """
    unit = 2 / (image_shape[0] * image_shape[1] * image_shape[2])
    return ConfigDict({"reconstruction": unit, "latent": weight * unit, "l1": weight * unit})


def released_sparse_weights(
    *, image_shape: tuple[int, int, int], positions: int, depth: int
) -> ConfigDict:
    """SC-VAE's loss as released: mean (x - x_hat)^2 + mean (e - e_hat)^2 / (positions depth).

    Its images are in [-1, 1]: the Gaussian likelihood has variance 1 there, 0.25 here.
    """
    values = image_shape[0] * image_shape[1] * image_shape[2]
    latent = 2 / (positions * depth) ** 2
    return ConfigDict({"reconstruction": 2 / values, "latent": latent, "l1": 0.0})


# The rows of the Topographic VAE's tables on MNIST (S = C = D = 18, K = 3), as kernels of W.
TOPOGRAPHIES = {
    "L13_36": {"kernel": "shifting", "window": 13, "spread": 1},
    "L5_36": {"kernel": "shifting", "window": 5, "spread": 1},
    "L1_2": {"kernel": "shifting", "window": 18, "spread": 1},
    "L0": {"kernel": "stationary", "window": 1, "width": 3},
    "bubble": {"kernel": "stationary", "window": 5, "width": 3},
    "vae": {"kernel": "none"},
}


def set_topographic(
    config: ConfigDict, *, frames: int, capsules: int, places: int, mu: float = 30.0, **kernel: Any
) -> None:
    """Sets the model of a Topographic VAE, and its loss: nats per frame; 0 frames: single images.

    `kernel` holds the bottleneck's options kernel, window, width, spread, epsilon and predictive.
    """
    topographic = kernel["kernel"] != "none"
    config.data.frames = frames
    config.model.backbone = ConfigDict(
        {
            "name": "capsule_mlp",
            "units": capsules * places,
            "encoders": 2 if topographic else 1,
        }
    )
    options = {"window": 0, "width": 0, "spread": 0, "epsilon": 1e-6, "predictive": False}
    config.model.bottleneck = ConfigDict(
        {"name": "topographic", "capsules": capsules, "places": places, "mu": mu} | options | kernel
    )
    config.model.likelihood = ConfigDict({"name": "bernoulli"})
    terms = ("reconstruction", "kl_z", "kl_u") if topographic else ("reconstruction", "kl_z")
    config.loss_weights = ConfigDict({term: 1 / max(frames, 1) for term in terms})


def released_topographic_training(config: ConfigDict, *, steps: int, batch_size: int) -> None:
    """Sets SGD as the Topographic VAE was trained by, and evaluation and logging to fit.

    Rate 1e-4, momentum 0.9, constant. Its likelihood is of 10 draws.
    """
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 1e-4
    config.train.steps = steps
    config.train.batch_size = batch_size
    config.train.steps_per_call = 10
    config.evaluation.evaluators = ("losses", "image")
    config.evaluation.final_evaluators = ("sequence_likelihood",)
    config.evaluation.importance_samples = 10
    config.log_every = 500
    config.checkpoint_every = 2000


def partition_weights(
    *, image_shape: tuple[int, int, int], batch_size: int, subresolution: int
) -> ConfigDict:
    """PartitionVAE's loss as released, for a Gaussian likelihood of variance 1.

    100 MSE + w times the sum over the batch of -1 - log sigma^2 + mu^2 + sigma^2, which is twice
    the KL, with w = 10^(-log2 f - 3) at subresolution f: the more images, the heavier is the KL.
    """
    values = image_shape[0] * image_shape[1] * image_shape[2]
    w = 10 ** (-math.log2(subresolution) - 3)
    return ConfigDict({"reconstruction": 2 * 100 / values, "kl": 2 * w * batch_size})


def partition_variance(
    *, image_shape: tuple[int, int, int], batch_size: int, subresolution: int
) -> float:
    """Variance of the Gaussian likelihood whose ELBO is PartitionVAE's loss, up to a factor."""
    weights = partition_weights(
        image_shape=image_shape, batch_size=batch_size, subresolution=subresolution
    )
    return weights.kl / weights.reconstruction


def set_speech(
    config: ConfigDict,
    *,
    samples: int,
    sample_rate: int,
    speakers: int,
    codes: int,
    widths: tuple[int, ...],
) -> None:
    """Sets the model of section 4.3 of the VQ-VAE's paper, and its loss: nats per sample.

    `samples` is the crop it is trained on; `widths` has a stride of 2 for each.
    """
    config.data.samples = samples
    config.data.sample_rate = sample_rate
    config.model.backbone = ConfigDict({"name": "waveform", "widths": widths, "residual_layers": 2})
    config.model.bottleneck = ema_codebook(codes=codes, depth=64)
    config.model.speech = ConfigDict(
        {
            "name": "wavenet",
            "layers": 10,
            "cycles": 2,
            "features": 64,
            "skip_features": 256,
            "classes": speakers,
            "local_features": 64,
            "jitter": 0.12,
        }
    )
    config.loss_weights = ConfigDict({"reconstruction": 1 / samples, "commitment": 0.25 / 64})
    config.evaluation.evaluators = ("losses", "codes")
