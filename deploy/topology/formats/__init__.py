"""Files in other formats that describe a topology, to the same data as YAML (pure).

A format is known by the suffix of the file's name. What a file of it leaves open is said by options
`format.KEY=VALUE`, given with `--set`. docs/kollaps.md describes all formats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Final

from deploy.topology import reader
from deploy.topology.formats import graph, kollaps, matrix, xml_tree
from deploy.topology.problems import Place, Problem, nearest
from deploy.topology.reader import Document

OPTION: Final = "format."
"""What an override begins with that is for the reader of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How a kind of file is read.

    Args:
        name: for people.
        suffixes: by which files are known to be of it.
        read: from bytes, the file's name for messages, and options.
        options: the values that each option may have; empty: see `read`.
        max_bytes: larger files are refused.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[..., Document]
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    max_bytes: int


def _yaml(raw: bytes, *, file: str, options: Mapping[str, str]) -> Document:
    del options  # it leaves nothing open
    return reader.read(raw, file=file)


YAML: Final = Format(
    name="YAML", suffixes=(".yaml", ".yml"), read=_yaml, max_bytes=reader.MAX_BYTES
)
KOLLAPS: Final = Format(
    name="Kollaps XML", suffixes=(".xml",), read=kollaps.read, max_bytes=xml_tree.MAX_BYTES
)
FORMATS: Final = (
    YAML,
    KOLLAPS,
    Format(
        name="GraphML",
        suffixes=(".graphml",),
        read=graph.read_graphml,
        options=graph.OPTIONS,
        max_bytes=xml_tree.MAX_BYTES,
    ),
    Format(
        name="GML",
        suffixes=(".gml",),
        read=graph.read_gml,
        options=graph.OPTIONS,
        max_bytes=graph.MAX_GML_BYTES,
    ),
    Format(
        name="latency matrix",
        suffixes=(".csv",),
        read=matrix.read,
        options=matrix.OPTIONS,
        max_bytes=matrix.MAX_BYTES,
    ),
)


def format_of(path: PurePath) -> Format:
    """By the name's suffix; YAML if it is none that is known."""
    suffix = path.suffix.lower()
    return next((known for known in FORMATS if suffix in known.suffixes), YAML)


def suffixes() -> tuple[str, ...]:
    """Of all files that can be read."""
    return tuple(suffix for known in FORMATS for suffix in known.suffixes)


def read(raw: bytes, *, path: PurePath, overrides: Sequence[str]) -> Document:
    """A file's data; those of `overrides` that are for the reader are used here.

    What is wrong is in the document's `problems`, nothing is raised.
    """
    known = format_of(path)
    options: dict[str, str] = {}
    problems: list[Problem] = []
    for override in filter(is_option, overrides):
        key, _, value = override.removeprefix(OPTION).partition("=")
        allowed = known.options.get(key)
        place, message, hint = Place(file=f"--set {override}"), "", ""
        if allowed is None:
            message = f"files of the format {known.name} have no option {OPTION}{key}"
            hint = nearest(key, [*known.options], what="options")
        elif value not in allowed:
            message = f"{value!r} is not allowed"
            hint = nearest(value, allowed, what="allowed")
        if message:
            problems.append(Problem.at(place, (), message, hint))
        options[key] = value
    if problems:
        return Document(file=str(path), problems=problems)
    return known.read(raw, file=str(path), options=options)


def is_option(override: str) -> bool:
    """Whether an override is for the reader of the file, not a key of its data."""
    return override.startswith(OPTION)
