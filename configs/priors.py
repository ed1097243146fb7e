"""Models of codes, as experiments share them: priors over them, and second stages."""

from ml_collections import ConfigDict

from configs import base


def set_pixelcnn(
    config: ConfigDict, *, code_shape: tuple[int, int, int], codes: int, classes: int, **sizes: int
) -> None:
    """Sets the model to a gated PixelCNN over codes, trained by their likelihood alone.

    `sizes` holds its `layers` and `features`, and what of `kernel` and `output_features` is not 5
    and 128.
    """
    config.model.code_shape = code_shape
    config.model.prior = ConfigDict(
        {
            "name": "pixelcnn",
            "codes": codes,
            "classes": classes,
            "kernel": 5,
            "output_features": 128,
            **sizes,
        }
    )
    config.loss_weights = ConfigDict({"nats": 1.0})
    config.evaluation.evaluators = ("losses",)


def set_video_prior(
    config: ConfigDict,
    *,
    code_shape: tuple[int, int, int],
    codes: int,
    actions: int,
    past: int,
    **sizes: int,
) -> None:
    """Sets the model to a prior over a frame's codes, given `past` frames and their actions.

    `sizes` holds options of `models.priors.VideoPrior`: `layers` and `features`, and what is not
    its default.
    """
    config.data.frames = past + 1
    config.model.code_shape = code_shape
    config.model.prior = ConfigDict({"name": "video", "codes": codes, "actions": actions, **sizes})
    config.loss_weights = ConfigDict({"nats": 1.0})
    config.evaluation.evaluators = ("losses",)


def set_second_stage(
    config: ConfigDict,
    *,
    code_shape: tuple[int, int, int],
    codes: int,
    widths: tuple[int, ...],
    **sizes: int,
) -> None:
    """Sets the model to a VQ-VAE of codes: three latents of K=512, each with its own codebook.

    Section 4.2 of the VQ-VAE's paper. The loss is in nats per code of the first stage. `sizes`
    holds options of the PixelCNN, and `embedding` and `map_features`.
    """
    config.model.code_shape = code_shape
    config.model.backbone = base.convnet(widths=widths, last_width=None)
    config.model.bottleneck = base.ema_codebook(codes=512, depth=64)
    config.model.bottleneck.codebooks = 3
    # A batch has one latent a frame for each codebook: a code in even use is met once in 512.
    config.model.bottleneck.revive_below = 0.01
    config.model.second_stage = ConfigDict({"name": "pixelcnn", "codes": codes, **sizes})
    positions = code_shape[0] * code_shape[1] * code_shape[2]
    config.loss_weights = ConfigDict({"reconstruction": 1 / positions, "commitment": 0.25 / 64})
    config.evaluation.evaluators = ("losses", "codes")
