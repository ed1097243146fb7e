"""The file of a compressed image: which model, which class, how long, checksums; then the codes.

Little endian: the magic number, version 1 (a byte), prior (a byte: 0 trained, 1 table), class (two
bytes, 65535 for none), fingerprint of the model (eight bytes), CRC-32 of the codes, length of the
coded bytes (four each), the coded bytes, and the CRC-32 of all before it.
"""

import hashlib
import struct
import zlib
from typing import Any, NamedTuple

import jax
import numpy as np

from train.errors import UserError

MAGIC = b"\x89BNK"
VERSION = 1
PRIORS = ("trained", "table")
_HEADER = struct.Struct("<4sBBH8sII")
_CRC = struct.Struct("<I")
_NO_LABEL = 2**16 - 1
OVERHEAD = _HEADER.size + _CRC.size  # bytes


class Compressed(NamedTuple):
    """What a file holds.

    Attributes:
      prior: "trained" or "table", which the codes are coded under.
      label: class of the image; None without classes.
      fingerprint: of the models that made it, 8 bytes.
      checksum: CRC-32 of the codes.
      payload: the coded bytes.
    """

    prior: str
    label: int | None
    fingerprint: bytes
    checksum: int
    payload: bytes


def fingerprint(*trees: Any) -> bytes:
    """Eight bytes of the SHA-256 of trees of arrays: names, types, shapes and values."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(trees):
        value = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.digest()[:8]


def code_checksum(code: np.ndarray) -> int:
    """CRC-32 of codes, whatever whole-number type holds them."""
    return zlib.crc32(np.asarray(code, "<i4").tobytes())


def pack(compressed: Compressed) -> bytes:
    """The bytes of a file."""
    label = _NO_LABEL if compressed.label is None else compressed.label
    content = _HEADER.pack(
        MAGIC,
        VERSION,
        PRIORS.index(compressed.prior),
        label,
        compressed.fingerprint,
        compressed.checksum,
        len(compressed.payload),
    )
    content += compressed.payload
    return content + _CRC.pack(zlib.crc32(content))


def unpack(content: bytes, name: str) -> Compressed:
    """What the bytes of the file `name` hold.

    Raises:
      UserError: these are no such bytes, those of another version, cut short, or changed.
    """
    if content[: len(MAGIC)] != MAGIC[: len(content)] or not content:
        raise UserError(f"{name} was not written by train.compress")
    if len(content) > len(MAGIC) and content[len(MAGIC)] != VERSION:
        raise UserError(
            f"{name} is of version {content[len(MAGIC)]} of the format; this is version {VERSION}"
        )
    if len(content) < OVERHEAD:
        raise UserError(f"{name} is cut short: {len(content)} bytes; a whole one has more")
    _, _, prior, label, model, checksum, length = _HEADER.unpack_from(content)
    if len(content) < OVERHEAD + length:
        raise UserError(f"{name} is cut short: {len(content)} of {OVERHEAD + length} bytes")
    (crc,) = _CRC.unpack_from(content, len(content) - _CRC.size)
    damaged = zlib.crc32(content[: -_CRC.size]) != crc or len(content) != OVERHEAD + length
    if damaged or prior >= len(PRIORS):
        raise UserError(f"{name} is damaged: its bytes do not match their checksum")
    return Compressed(
        PRIORS[prior],
        None if label == _NO_LABEL else label,
        model,
        checksum,
        content[_HEADER.size : -_CRC.size],
    )
