"""Models of priors over codes, as experiments share them."""

from ml_collections import ConfigDict


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
