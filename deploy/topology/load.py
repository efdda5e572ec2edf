"""One topology file of any format, read, checked and expanded."""

from __future__ import annotations

import difflib
import errno
import gc
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploy.topology import expand, formats
from deploy.topology.checks import check_algorithm, check_parts, check_paths, check_start
from deploy.topology.composition import check_compositions
from deploy.topology.event_checks import check_timeline
from deploy.topology.expand import Node
from deploy.topology.formats.yaml_writer import to_yaml
from deploy.topology.lives import latecomers
from deploy.topology.model import TopologyFile, spelled_out
from deploy.topology.network import Network
from deploy.topology.problems import Place, Problem, TopologyErrors
from deploy.topology.reader import Document, override
from deploy.topology.structure import validate
from deploy.topology.timeline import Step
from deploy.topology.traces import MAX_BYTES, Read, Traces, read_traces
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
        timeline: what happens to links and nodes, in order of time.
        standby: nodes that are not there at the start; an event or `deploy add` starts them.
        traces: the files of compute times that it names, where they were read.
        warnings: how something was read that could be read otherwise, and what is not used.
    """

    file: TopologyFile
    text: bytes
    path: Path
    nodes: tuple[Node, ...]
    network: Network
    overlay: Mapping[NodeId, tuple[NodeId, ...]]
    timeline: tuple[Step, ...] = ()
    standby: tuple[NodeId, ...] = ()
    traces: Traces = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def yaml(self) -> str:
        """The file as it was read; of another format, the YAML that it comes to."""
        if formats.format_of(self.path) is formats.YAML:
            return self.text.decode()
        digest = hashlib.sha256(self.text).hexdigest()
        return to_yaml(self.file, source=f"{self.path.name} (sha256 {digest[:16]})")

    @property
    def seed(self) -> int:
        return self.file.seed


def load_topology(path: Path, *, overrides: Sequence[str] = ()) -> Topology:
    """Read a topology file; each of `overrides` is `KEY=VALUE` with a dotted key.

    The format follows from the suffix: YAML, Kollaps XML, GraphML, GML, or a latency matrix (CSV).
    An override `format.KEY=VALUE` says what such a file leaves open (docs/kollaps.md).

    Raises:
        TopologyErrors: with all that is wrong in it.
    """
    with _collecting_later():
        return parse_topology(_bytes(path), path=path, overrides=overrides, read=_named)


@contextmanager
def _collecting_later() -> Iterator[None]:
    """Without Python's search for cycles, which would look at every link again and again (a fifth
    of the time of a file with 100,000 of them) and find none."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def parse_topology(
    raw: bytes, *, path: Path, overrides: Sequence[str] = (), read: Read | None = None
) -> Topology:
    """A topology from a file's bytes (pure); `path` is for messages and the default name.

    Args:
        read: gives the bytes of other files that it names; None: they are left out.

    Raises:
        TopologyErrors: with all that is wrong in it.
    """
    document = formats.read(raw, path=path, overrides=overrides)
    overrides = [option for option in overrides if not formats.is_option(option)]
    if document.problems and not document.data:
        raise TopologyErrors(document.problems, warnings=document.warnings)
    if any(option.startswith("nodes.") for option in overrides) and "nodes" in document.data:
        document.data["nodes"] = spelled_out(document.data["nodes"])
    for option in overrides:
        override(document, option)
    document.data.setdefault("name", default_name(path))
    file, broken = validate(document)
    check_parts(document, file, broken)
    traces: Traces = {}
    if read is not None and "nodes" not in broken:
        traces = read_traces(document, file, folder=path.parent, read=read)
    if document.problems:
        raise TopologyErrors(document.problems, warnings=document.warnings)
    return replace(_expanded(document, file, raw, path), traces=traces)


def _expanded(document: Document, file: TopologyFile, raw: bytes, path: Path) -> Topology:
    section = "network"
    try:
        network = expand.network(file)
        section = "overlay"
        overlay = expand.overlay(file, network)
        check_algorithm(document, file, overlay)
        check_paths(document, network, overlay)
        steps = check_timeline(document, file, network)
        standby = latecomers(file, steps)
        check_start(document, file, standby)
        check_compositions(document, file, network, steps)
    except ValueError as error:  # a random shape that does not connect
        document.report((section, "shape"), str(error), "try another seed or a higher degree")
    if document.problems:
        raise TopologyErrors(document.problems, warnings=document.warnings)
    return Topology(
        file=file,
        text=raw,
        path=path.absolute(),
        nodes=expand.nodes(file.nodes),
        network=network,
        overlay=overlay,
        timeline=steps,
        standby=standby,
        warnings=tuple(document.warnings),
    )


def default_name(path: Path) -> str:
    """The name of an experiment whose file says none: that of the file. Names of files in other
    formats were not chosen for us, so they are adapted."""
    if formats.format_of(path) is formats.YAML:
        return path.stem
    return re.sub(r"[^a-z0-9_-]+", "-", path.stem.lower()).strip("-_")[:40] or "topology"


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
                return stream.read(formats.format_of(path).max_bytes + 1)
    except FileNotFoundError:
        message, hint = "there is no such file", _similar(path)
    except (OSError, ValueError) as error:
        message = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise TopologyErrors([Problem.at(Place(file=str(path)), (), message, hint)])


def _named(path: Path) -> bytes:
    """The bytes of a file that a topology names; raises OSError."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is not a plain file")
    with path.open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


def _similar(path: Path) -> str:
    """A file beside the missing one, or in topologies/, whose name is near."""
    folders = [path.parent, Path("topologies")]
    found = [
        file
        for folder in folders
        if folder.is_dir()
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in formats.suffixes()
    ]
    near = difflib.get_close_matches(path.stem, [file.stem for file in found], n=1)
    files = [str(file) for file in found if file.stem in near]
    return f"did you mean {files[0]}?" if files else ""
