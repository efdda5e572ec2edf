"""One topology file, read, checked and expanded."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.topology import expand
from deploy.topology.checks import check_parts, check_paths
from deploy.topology.expand import Node
from deploy.topology.model import TopologyFile, spelled_out
from deploy.topology.network import Network
from deploy.topology.problems import Place, Problem, TopologyErrors
from deploy.topology.reader import MAX_BYTES, Document, override, read
from deploy.topology.structure import validate
from node.core.ids import NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """An experiment: the file, and what its groups, shapes and defaults come to.

    Args:
        file: what the file says, `--set` included, with defaults filled in.
        text: the file's bytes as they were read, without `--set`.
        path: where it was read, absolute.
        nodes: in natural order of their names.
        network: the links between nodes and bridges.
        overlay: the neighbours of each node, in natural order.
    """

    file: TopologyFile
    text: bytes
    path: Path
    nodes: tuple[Node, ...]
    network: Network
    overlay: Mapping[NodeId, tuple[NodeId, ...]]

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def seed(self) -> int:
        return self.file.seed


def load_topology(path: Path, *, overrides: Sequence[str] = ()) -> Topology:
    """Read a topology file; each of `overrides` is `KEY=VALUE` with a dotted key.

    Raises:
        TopologyErrors: with all that is wrong in it.
    """
    return parse_topology(_bytes(path), path=path, overrides=overrides)


def parse_topology(raw: bytes, *, path: Path, overrides: Sequence[str] = ()) -> Topology:
    """A topology from a file's bytes (pure); `path` is for messages and the default name.

    Raises:
        TopologyErrors: with all that is wrong in it.
    """
    document = read(raw, file=str(path))
    if document.problems and not document.data:
        raise TopologyErrors(document.problems)
    if any(option.startswith("nodes.") for option in overrides) and "nodes" in document.data:
        document.data["nodes"] = spelled_out(document.data["nodes"])
    for option in overrides:
        override(document, option)
    document.data.setdefault("name", path.stem)
    file, broken = validate(document)
    check_parts(document, file, broken)
    if document.problems:
        raise TopologyErrors(document.problems)
    return _expanded(document, file, raw, path)


def _expanded(document: Document, file: TopologyFile, raw: bytes, path: Path) -> Topology:
    section = "network"
    try:
        network = expand.network(file)
        section = "overlay"
        overlay = expand.overlay(file, network)
        check_paths(document, network, overlay)
    except ValueError as error:  # a random shape that does not connect
        document.report((section, "shape"), str(error), "try another seed or a higher degree")
    if document.problems:
        raise TopologyErrors(document.problems)
    return Topology(
        file=file,
        text=raw,
        path=path.absolute(),
        nodes=expand.nodes(file.nodes),
        network=network,
        overlay=overlay,
    )


def _bytes(path: Path) -> bytes:
    """The file's bytes; whatever hinders reading them becomes a TopologyErrors."""
    message, hint = "", ""
    try:
        if path.is_dir():
            message, hint = "is a folder", "name a topology file in it"
        elif path.exists() and not path.is_file():
            message = "is not a plain file"
        else:
            with path.open("rb") as stream:
                return stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        message, hint = "there is no such file", _similar(path)
    except (OSError, ValueError) as error:
        message = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise TopologyErrors([Problem.at(Place(file=str(path)), (), message, hint)])


def _similar(path: Path) -> str:
    """A file beside the missing one, or in topologies/, whose name is near."""
    folders = [path.parent, Path("topologies")]
    found = [file for folder in folders if folder.is_dir() for file in folder.glob("*.y*ml")]
    near = difflib.get_close_matches(path.stem, [file.stem for file in found], n=1)
    files = [str(file) for file in found if file.stem in near]
    return f"did you mean {files[0]}?" if files else ""
