"""A long text as one short word, for a place with little room: an environment variable.

Linux takes no string longer than 128 KiB into the environment of a process. A configuration with
many peers and many changes is longer, and repeats itself a lot.
"""

from __future__ import annotations

import base64
import zlib
from typing import Final

from node.errors import ConfigError

PREFIX: Final = "zlib+base64:"
PLAIN_MAX: Final = 96 * 1024
"""Bytes; what is not longer stays readable."""
_UNPACKED_MAX: Final = 256 * 2**20


def pack(text: str) -> str:
    """The text as it is, or compressed where it is long: same text, same word."""
    raw = text.encode()
    if len(raw) <= PLAIN_MAX:
        return text
    return PREFIX + base64.b64encode(zlib.compress(raw, 9)).decode()


def unpack(word: str) -> str:
    """What was packed. Raises ConfigError where it was not."""
    if not word.startswith(PREFIX):
        return word
    try:
        reader = zlib.decompressobj()
        raw = reader.decompress(base64.b64decode(word[len(PREFIX) :], validate=True), _UNPACKED_MAX)
        if reader.eof and not reader.unused_data:
            return raw.decode()
    except (ValueError, zlib.error) as error:
        raise ConfigError(f"not a packed text: {error}") from error
    raise ConfigError("not a packed text: its end is missing, or it is far too long")
