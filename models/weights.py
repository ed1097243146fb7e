"""Arrays of networks that others trained, checked one by one."""

from collections.abc import Mapping

import numpy as np


def checked_array(
    arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], *, of: str
) -> np.ndarray:
    """The array called `name`, in its own dtype.

    Args:
      arrays: name to array.
      name: of the one wanted.
      shape: that it must have.
      of: what the weights are of, for errors: "VQGAN".

    Raises:
      ValueError: it is absent, of another shape or not finite.
    """
    if name not in arrays:
        raise ValueError(
            f"weights of {of} lack {name!r}, {list(shape)}; the first found are "
            f"{', '.join(list(arrays)[:3]) or 'none'}"
        )
    found = np.asarray(arrays[name])
    if found.shape != tuple(shape):
        raise ValueError(
            f"weights of {of}: {name!r} is {list(found.shape)}, expected {list(shape)}"
        )
    if not np.isfinite(found).all():
        raise ValueError(f"weights of {of}: {name!r} is not finite")
    return found
