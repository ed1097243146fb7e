"""Bottlenecks as pure functions of arrays."""

from bottlenecks import gaussian
from bottlenecks.clusters import KMeans, code_counts, kmeans, perplexity, sample_rows, used_codes
from bottlenecks.gaussian import GaussianSample
from bottlenecks.nearest import Nearest, nearest_codeword
from bottlenecks.quantization import (
    CodebookState,
    Quantized,
    Revived,
    quantize,
    revive_dead_codes,
    start_codebook,
    update_codebook,
)

__all__ = [
    "CodebookState",
    "GaussianSample",
    "KMeans",
    "Nearest",
    "Quantized",
    "Revived",
    "code_counts",
    "gaussian",
    "kmeans",
    "nearest_codeword",
    "perplexity",
    "quantize",
    "revive_dead_codes",
    "sample_rows",
    "start_codebook",
    "update_codebook",
    "used_codes",
]
