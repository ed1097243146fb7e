"""PartitionVAE on frames of Pong, whose true factors are known: ball, paddles.

    python -m train --config configs/partition_vae_pong.py --workdir runs/partition_vae_pong
    python -m train.disentangle --workdir runs/partition_vae_pong --samples=1000 --draws=50

Frames are 40x40 and grey; 10 units in partitions of 4, 3, 2 and 1. The rows of the ablation are
`configs/partition_vae_pong.py:dense` and `configs/partition_vae_pong.py:permuted` (heads with as
many parameters that do not keep the partitions apart, or keep others apart), and an extension,
`configs/partition_vae_pong.py:additive`: each partition has a decoder of its own, and their images
are added. All have full resolution, for the ball has few pixels;
`configs/partition_vae_pong.py:f2` and `configs/partition_vae_pong.py:f4` are the paper's
subresolutions.

In `configs/partition_vae_pong.py:broadcast`, another extension, two partitions of 5 units are drawn
pixel by pixel by nets that are told where, and added: one for each of the two things that cover
most of the pixels that change, the paddles. `configs/partition_vae_pong.py:two` is as described,
with these partitions and as many steps.
"""

from ml_collections import ConfigDict

from configs import base

VARIANTS = ("partitioned", "dense", "permuted", "additive", "f2", "f4", "broadcast", "two")


def get_config(variant: str = "partitioned") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(
            f"partition_vae_pong has no variant {variant!r}; known: {', '.join(VARIANTS)}"
        )
    partitions = (5, 5) if variant in ("broadcast", "two") else (4, 3, 2, 1)
    config = base.get_config()
    config.name = "partition_vae_pong"
    config.model.image_shape = (40, 40, 1)
    config.model.backbone = base.partition_network(
        subresolution=1,
        convs=((5, 8), (5, 16)),
        dense=(256,),
        decoder_convs=(),
        activation="relu",
        centre=0.342,  # mean and standard deviation of the values
        scale=0.0164,
    )
    config.model.bottleneck = base.partitioned_latent(partitions=partitions)
    # A third of the values' variance: what moves covers few pixels, and has to pay for its code.
    config.model.likelihood = ConfigDict({"name": "gaussian", "variance": 1e-4})
    if variant in ("dense", "permuted"):
        config.model.bottleneck.heads = variant
    elif variant == "additive":
        config.model.backbone.update({"partitions": partitions, "dense": (64,)})
    elif variant == "broadcast":
        options = {"dense": (32, 32), "broadcast": True, "subresolution": 2}
        config.model.backbone.update({"partitions": partitions, **options})
        # The same for the mean of four pixels as 1e-4 for each of them.
        config.model.likelihood.variance = 4e-4
    elif variant in ("f2", "f4"):
        config.model.backbone.subresolution = int(variant[1:])
    config.loss_weights = ConfigDict({"reconstruction": 1.0, "kl": 1.0})
    config.data.source = "game:pong"
    config.optimizer.learning_rate = 2e-3 if variant == "broadcast" else 1e-3
    config.optimizer.schedule = "cosine"
    config.train.steps = 6000 if variant in ("broadcast", "two") else 2000
    config.train.batch_size = 64
    config.evaluation.evaluators = ("losses", "image", "subresolution", "units")
    config.log_every = 50
    config.checkpoint_every = 500
    return config
