"""Unique identifiers that depend only on what they are made from, so that a repeated run agrees."""

from __future__ import annotations

import hashlib
import re

from medseg.core.errors import ConfigError

# PS3.5 B.2: a UUID written as one decimal number below 2.25 needs no registered root.
UUID_ROOT = "2.25"
_MAX_LENGTH = 64


def derive_uid(*parts: str, root: str = UUID_ROOT) -> str:
    """The UID that belongs to `parts`, always the same for the same parts in the same order.

    Below 2.25 it is a version 8 UUID (RFC 9562) made of the SHA-256 of the parts. Below a site's
    own root it is that hash as a number, cut to what fits in 64 characters.

    Args:
        parts: what the object is made from, such as source UIDs, a model's hash and a purpose.
        root: UID below which the new one lies.

    Raises:
        ConfigError: `root` is no UID, or leaves less than 20 digits.
    """
    if not re.fullmatch(r"[0-2](\.(0|[1-9]\d*))+", root) or len(root) > _MAX_LENGTH - 21:
        raise ConfigError(
            "uid root", f"'{root}' is no UID of at most 43 characters", "use the site's own root"
        )
    # Each part carries its length, so that ("ab", "c") and ("a", "bc") differ.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16])
    if root == UUID_ROOT:
        number = number & ~(0xF << 76) & ~(0x3 << 62) | (0x8 << 76) | (0x2 << 62)
        return f"{root}.{number}"
    room = _MAX_LENGTH - len(root) - 1
    return f"{root}.{number % 10 ** min(room, 38)}"
