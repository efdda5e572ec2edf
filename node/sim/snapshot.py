"""An object graph as bytes, and back (pure): what a checkpoint and a trace are made of.

    peerbed-snapshot 1 <sha256> <bytes of JSON>\\n  {names, shapes, objects, root}  arrays and bytes

Objects keep their identity: what is shared stays shared, and cycles stay cycles. Text and numbers
are values. Stored are None, bool, int, float, str, bytes; lists, tuples, sets, dicts and what
`collections` has of them, with their order; enums, named tuples, dataclasses and other objects of
allowed modules, by their attributes; NumPy arrays (views stay views of the same memory), scalars
and generators; bound methods of stored objects; classes and functions of allowed modules, by name.

Allowed are modules of this package and those that the caller names. Reading makes objects without
calling anything of theirs, so that a file can at most name what is there. Attributes that a class
lists in `TRANSIENT` (open files, processes) are left out; the caller puts them back.

What cannot be stored is refused with the way to it: `world.hosts['n3'].member._later: a lambda`.
Two arrays that share memory which is no array's (`np.frombuffer` twice) are not the same memory
afterwards, and a set may be iterated in another order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Final

from node.errors import EnvironmentFault
from node.sim.graph_read import GraphReader, Unknown
from node.sim.graph_write import GraphWriter, NotStorable
from node.sim.kinds import OURS

__all__ = ["FORMAT", "NotStorable", "dump", "load"]

FORMAT: Final = 1
_MAGIC: Final = b"peerbed-snapshot"
_HEAD_MAX: Final = 200
_OTHER_CODE: Final = "It was written by other code: use the version that wrote it."


def dump(root: Any, *, name: str = "root", modules: Iterable[str] = ()) -> bytes:
    """Store all that `root` refers to.

    Args:
        name: what `root` is called in an error.
        modules: allowed besides this package, with what is below them.

    Raises:
        NotStorable: something in it is of none of the kinds above.
    """
    writer = GraphWriter(name=name, modules=_allowed(modules))
    document = json.dumps(writer.graph(root), separators=(",", ":"), ensure_ascii=False).encode()
    digest = hashlib.sha256(document)
    for piece in writer.blobs:
        digest.update(piece)
    head = f" {FORMAT} {digest.hexdigest()} {len(document)}\n".encode()
    return b"".join([_MAGIC, head, document, *writer.blobs])


def load(data: bytes, *, where: str, modules: Iterable[str] = ()) -> Any:
    """What `dump` stored.

    Args:
        where: names the source in an error.

    Raises:
        EnvironmentFault: it is damaged, none of ours, of another version, or names what is not
            there or not allowed.
    """
    line, _, _ = data[:_HEAD_MAX].partition(b"\n")
    words = line.split(b" ")
    if len(words) != 4 or words[0] != _MAGIC or not words[3].isdigit():
        raise _damaged(where, "its first line is none of ours")
    if words[1] != str(FORMAT).encode():
        text = f"a snapshot of version {words[1].decode(errors='replace')}, not {FORMAT}"
        raise EnvironmentFault(text, where=where, remedy=_OTHER_CODE)
    start = len(line) + 1
    document = data[start : start + int(words[3])]
    content = memoryview(data)[start:]
    if hashlib.sha256(content).hexdigest().encode() != words[2]:
        raise _damaged(where, "its content is not what was written")
    try:
        graph, blobs = json.loads(document), content[len(document) :]
        return GraphReader(graph, blobs, modules=_allowed(modules)).root()
    except Unknown as error:
        raise EnvironmentFault(str(error), where=where, remedy=_OTHER_CODE) from error
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _damaged(where, f"{type(error).__name__}: {error}") from error


def _damaged(where: str, how: str) -> EnvironmentFault:
    remedy = "Use an older one, or begin anew."
    return EnvironmentFault(f"damaged, or no snapshot: {how}", where=where, remedy=remedy)


def _allowed(modules: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((OURS, *modules)))
