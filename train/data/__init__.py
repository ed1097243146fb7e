"""Where examples come from and how they become batches: NumPy only, no device."""

from train.data.pipeline import (
    Batches,
    EvaluationBatches,
    evaluation_batches,
    prefetch,
)
from train.data.sources import InMemory, Source, Subset, load_source
from train.data.statistics import Statistics, data_statistics
from train.data.transforms import Transform, make_transform

__all__ = [
    "Batches",
    "EvaluationBatches",
    "InMemory",
    "Source",
    "Statistics",
    "Subset",
    "Transform",
    "data_statistics",
    "evaluation_batches",
    "load_source",
    "make_transform",
    "prefetch",
]
