"""Seven bottlenecks on the 8x8 digits: one backbone, one data set, as many steps.

    python -m train.compare --config configs/compare_digits.py --workdir runs/compare_digits

The network, data, optimiser and batch of `vqvae_digits`, for 500 steps with three seeds each. At
each of 4x4 positions the decoder reads 16 numbers: a draw of a Gaussian ("vae"), one of 64
codewords ("vq"), 8 capsules of 2 numbers ("capsules"), a few of 32 atoms ("sparse"), one torus of
4x4 Student-t variables ("topographic") or 4 partitions of 4 ("partition"); only "fsq" has 2
numbers, of 8 levels each: 64 codes as well. The Topographic VAE is that of single images: capsules
are neighbours on a torus, nothing rolls, for there is no time. The partitions are groups of
channels at each position.

The three with a KL have a likelihood of variance 0.004, an error of 24 dB: about the VQ-VAE's.
"""

from ml_collections import ConfigDict

from configs import base, vqvae_digits


def get_config() -> ConfigDict:
    config = ConfigDict({"name": "compare_digits", "seeds": (0, 1, 2)})
    vq = vqvae_digits.get_config()
    vq.train.steps = 500
    vq.evaluation.every = 100
    config.runs = seven(
        vq,
        variance=0.004,
        levels=(8, 8),
        sparse=base.sparse_coder(depth=16, atoms=32, penalty=0.3),
        capsules=base.capsules(primaries=8, pose=8, outputs=8, depth=2),
        torus=(4, 4),
        partitions=(4, 4, 4, 4),
    )
    config.curves = (("PSNR, dB", "psnr", 2), ("SSIM", "ssim", 4))
    return config


def seven(
    vq: ConfigDict,
    *,
    variance: float,
    levels: tuple[int, ...],
    sparse: ConfigDict,
    capsules: ConfigDict,
    torus: tuple[int, int],
    partitions: tuple[int, ...],
) -> ConfigDict:
    """A VQ-VAE's run, and the same with each of the other bottlenecks in place of its codebook.

    `variance` is that of the likelihood where there is a KL; the rest are sizes of bottlenecks.
    """
    shape, depth = tuple(vq.model.image_shape), vq.model.bottleneck.depth
    gaussian = ConfigDict({"name": "gaussian", "depth": depth})
    partition = base.partitioned_latent(
        partitions=partitions, hidden=(16,), head_activation="relu", grid=True
    )
    topographic = ConfigDict(
        {
            "name": "topographic",
            "capsules": torus[0],
            "places": torus[1],
            "kernel": "torus",
            "width": 3,
            "mu": 3.0,
            "project": True,
        }
    )
    # Mean squared error over the data's variance.
    error = ConfigDict({"reconstruction": 2 / (shape[0] * shape[1] * shape[2])})
    finite = ConfigDict({"name": "fsq", "levels": levels})
    runs = {
        "vae": _variational(vq, gaussian, variance, "kl"),
        "vq": vq,
        "fsq": _replaced(vq, finite, error, "codes"),
        "capsules": _replaced(vq, capsules, error),
        "sparse": _replaced(vq, sparse, base.sparse_weights(image_shape=shape), "atoms"),
        "topographic": _variational(vq, topographic, variance, "kl_z", "kl_u"),
        "partition": _variational(vq, partition, variance, "kl"),
    }
    return ConfigDict(runs)


def _replaced(
    vq: ConfigDict, bottleneck: ConfigDict, weights: ConfigDict, *evaluators: str
) -> ConfigDict:
    """The run with another bottleneck, weights of its loss, and evaluators that fit it."""
    config = ConfigDict(vq.to_dict())
    config.name = f"{bottleneck.name}_like_{vq.name}"
    config.model.bottleneck = bottleneck
    config.loss_weights = weights
    config.evaluation.evaluators = ("losses", "image", *evaluators)
    return config


def _variational(
    vq: ConfigDict, bottleneck: ConfigDict, variance: float, *terms: str
) -> ConfigDict:
    """The run with a bottleneck that has a KL, trained by the ELBO."""
    weights = ConfigDict(dict.fromkeys(("reconstruction", *terms), 1.0))
    units = () if bottleneck.name == "topographic" else ("units",)
    config = _replaced(vq, bottleneck, weights, *units)
    config.model.likelihood = ConfigDict({"name": "gaussian", "variance": variance})
    return config
