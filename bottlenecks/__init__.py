"""Bottlenecks as pure functions of arrays.

Everything is here under its own name; `gaussian`, whose names are general words, as a module.
"""

from bottlenecks import gaussian
from bottlenecks.clusters import (
    KMeans,
    bits_per_token,
    code_counts,
    kmeans,
    perplexity,
    sample_rows,
    used_codes,
)
from bottlenecks.codebook import (
    CodebookState,
    Revived,
    revive_dead_codes,
    start_codebook,
    update_codebook,
)
from bottlenecks.dictionaries import (
    analytic_weights,
    coherence,
    dct_dictionary,
    overcomplete_dct,
    spectral_norm_squared,
)
from bottlenecks.em import EMRouted, em_routing
from bottlenecks.equivariance import (
    CapsuleRoll,
    capsule_correlation,
    capsule_rolls,
    circular_correlation,
    equivariance_error,
    observed_roll,
)
from bottlenecks.gaussian import GaussianSample
from bottlenecks.lasso import sparse_code
from bottlenecks.learned_ista import (
    CoupledWeights,
    ListaWeights,
    StepWeights,
    TiedWeights,
    alista,
    lista,
    lista_cp,
    published_scvae,
    select_support,
    start_alista,
    start_lista,
    start_lista_cp,
    start_tilista,
    tilista,
)
from bottlenecks.nearest import Nearest, nearest_codeword
from bottlenecks.partition import (
    block_diagonal,
    block_mean_floor,
    partition_of_units,
    split_partitions,
    upsample,
)
from bottlenecks.quantization import Quantized, quantize
from bottlenecks.rotation import normalize
from bottlenecks.routing import (
    PublishedCapsules,
    Routed,
    attention_routing,
    dynamic_routing,
    published_capsules,
    squash,
)
from bottlenecks.scalar_quantization import (
    LookupFreeQuantized,
    ScalarQuantized,
    finite_scalar_quantize,
    fsq_latent,
    lfq_latent,
    lookup_free_quantize,
)
from bottlenecks.several_codebooks import ResidualQuantized, product_quantize, residual_quantize
from bottlenecks.sparse import fista, ista
from bottlenecks.sparse_codes import (
    SparseCode,
    duality_gap,
    hoyer,
    objective,
    soft_threshold,
    zero_fraction,
)
from bottlenecks.topographic import (
    StudentT,
    roll_capsules,
    shifting_energy,
    stationary_energy,
    student_t,
    torus_energy,
)

__all__ = [
    "CapsuleRoll",
    "CodebookState",
    "CoupledWeights",
    "EMRouted",
    "GaussianSample",
    "KMeans",
    "ListaWeights",
    "LookupFreeQuantized",
    "Nearest",
    "PublishedCapsules",
    "Quantized",
    "ResidualQuantized",
    "Revived",
    "Routed",
    "ScalarQuantized",
    "SparseCode",
    "StepWeights",
    "StudentT",
    "TiedWeights",
    "alista",
    "analytic_weights",
    "attention_routing",
    "bits_per_token",
    "block_diagonal",
    "block_mean_floor",
    "capsule_correlation",
    "capsule_rolls",
    "circular_correlation",
    "code_counts",
    "coherence",
    "dct_dictionary",
    "duality_gap",
    "dynamic_routing",
    "em_routing",
    "equivariance_error",
    "finite_scalar_quantize",
    "fista",
    "fsq_latent",
    "gaussian",
    "hoyer",
    "ista",
    "kmeans",
    "lfq_latent",
    "lista",
    "lista_cp",
    "lookup_free_quantize",
    "nearest_codeword",
    "normalize",
    "objective",
    "observed_roll",
    "overcomplete_dct",
    "partition_of_units",
    "perplexity",
    "product_quantize",
    "published_capsules",
    "published_scvae",
    "quantize",
    "residual_quantize",
    "revive_dead_codes",
    "roll_capsules",
    "sample_rows",
    "select_support",
    "shifting_energy",
    "soft_threshold",
    "sparse_code",
    "spectral_norm_squared",
    "split_partitions",
    "squash",
    "start_alista",
    "start_codebook",
    "start_lista",
    "start_lista_cp",
    "start_tilista",
    "stationary_energy",
    "student_t",
    "tilista",
    "torus_energy",
    "update_codebook",
    "upsample",
    "used_codes",
    "zero_fraction",
]
