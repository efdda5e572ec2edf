"""Graphs of routers (GraphML, GML; the Internet Topology Zoo) as networks (pure; docs/kollaps.md).

    file --parse--> Graph (routers, lines, their attributes as text) --data--> nodes and network

Each router becomes a bridge with one node on it, or with `format.nodes=routers` a node itself.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import networkx as nx

from deploy.topology.formats import graph_values as values
from deploy.topology.formats.defaults import defaults
from deploy.topology.formats.names import Names
from deploy.topology.formats.xml_tree import Element, parse
from deploy.topology.problems import Place, Problem
from deploy.topology.reader import Document

OPTIONS: Final = {"nodes": ("attached", "routers"), "unit": ("ms", "us", "s")}
"""nodes: a node attached to each router, or the routers are the nodes. unit: of bare latencies."""
MAX_GML_BYTES: Final = 4 << 20
ROUTER: Final = "-r"
"""What the name of a router ends with that has a node of the plain name attached."""


@dataclass(slots=True, kw_only=True)
class Graph:
    """What a file says, attributes as text with their names in small letters.

    Args:
        routers: attributes and place by id.
        lines: (one end, other end, attributes, place).
        directed: whether a line goes only from its first to its second end.
    """

    routers: dict[str, tuple[dict[str, str], Place]] = field(default_factory=dict)
    lines: list[tuple[str, str, dict[str, str], Place]] = field(default_factory=list)
    directed: bool = False


def read_graphml(raw: bytes, *, file: str, options: Mapping[str, str]) -> Document:
    """Read a GraphML file; what is wrong is in the document's `problems`."""
    document = Document(file=file)
    root = parse(raw, document)
    graph = _graphml(root, document) if root is not None else None
    if graph is not None and not document.problems:
        _fill(graph, document, options)
    return document


def _graphml(root: Element, document: Document) -> Graph | None:
    graphs = [child for child in root.children if child.tag == "graph"]
    if root.tag != "graphml" or len(graphs) != 1:
        what = f"the root is {root}" if root.tag != "graphml" else f"{len(graphs)} graphs in it"
        _problem(document, root.place, f"{what}; expected <graphml> with one <graph>")
        return None
    keys = {
        child.attributes.get("id", ""): child.attributes.get("attr.name", "").lower()
        for child in root.children
        if child.tag == "key"
    }
    graph = Graph(directed=graphs[0].attributes.get("edgedefault") == "directed")
    for element in graphs[0].children:
        said = {
            keys.get(data.attributes.get("key", ""), ""): data.text.strip()
            for data in element.children
            if data.tag == "data"
        }
        attributes = element.attributes
        if element.tag == "node" and "id" in attributes:
            if attributes["id"] in graph.routers:
                _problem(document, element.place, f"a second node {attributes['id']!r}")
            graph.routers[attributes["id"]] = (said, element.place)
        elif element.tag == "edge" and {"source", "target"} <= {*attributes}:
            ends = attributes["source"], attributes["target"]
            graph.lines.append((*ends, said, element.place))
        elif element.tag in ("node", "edge"):
            _problem(document, element.place, f"{element} without id or ends")
        elif element.tag not in ("data", "desc"):
            _problem(
                document, element.place, f"{element} is not supported", "write nodes and edges"
            )
    return graph


def read_gml(raw: bytes, *, file: str, options: Mapping[str, str]) -> Document:
    """Read a GML file; what is wrong is in the document's `problems`."""
    document, place = Document(file=file), Place(file=file)
    if len(raw) > MAX_GML_BYTES:
        _problem(document, place, f"the file has more than {MAX_GML_BYTES >> 20} MiB")
        return document
    if b"multigraph" not in raw:  # parallel lines are common, and this word is not
        raw = re.sub(rb"\bgraph\s*\[", b"graph [ multigraph 1 ", raw, count=1)
    try:
        found: Any = nx.read_gml(io.BytesIO(raw), label="id")
    except (nx.NetworkXError, ValueError, KeyError, TypeError, AttributeError) as error:
        _problem(document, place, f"not valid GML: {error}")
        return document
    except RecursionError:
        _problem(document, place, "nested too deeply")
        return document
    graph = Graph(directed=found.is_directed())
    for name, said in found.nodes(data=True):
        graph.routers[str(name)] = (_lower(said), place)
    for a, b, said in found.edges(data=True):
        graph.lines.append((str(a), str(b), _lower(said), place))
    _fill(graph, document, options)
    return document


def _lower(said: Mapping[Any, Any]) -> dict[str, str]:
    return {str(key).lower(): str(value) for key, value in said.items()}


def _problem(document: Document, place: Place, message: str, hint: str = "") -> None:
    document.problems.append(Problem.at(place, (), message, hint))


# Graph to data ------------------------------------------------------------------------------------


def _fill(graph: Graph, document: Document, options: Mapping[str, str]) -> None:
    """The document's data and places."""
    attached = options.get("nodes", "attached") == "attached"
    nodes = _names(graph, document)
    lines = _lines(graph, nodes, document, unit=options.get("unit"))
    if document.problems:
        return
    if not nodes:
        document.report((), "there is no node in the graph")
        return
    root = Place(file=document.file, line=1)
    document.values[()] = root
    for name, (_, place) in zip(nodes.values(), graph.routers.values(), strict=True):
        document.keys["nodes", name] = document.values["nodes", name] = place
    entries: list[tuple[dict[str, Any], Place]] = []
    if attached:
        for name in nodes.values():
            place = document.values["nodes", name]
            entries.append(({"from": name, "to": name + ROUTER}, place))
    tail = ROUTER if attached else ""
    entries += [
        (entry | {"from": entry["from"] + tail, "to": entry["to"] + tail}, place)
        for entry, place in lines
    ]
    network: dict[str, Any] = {}
    if attached:
        network["bridges"] = [name + ROUTER for name in nodes.values()]
    network["links"] = [entry for entry, _ in entries]
    for i, (_, place) in enumerate(entries):
        document.values["network", "links", i] = place
    if attached:
        network["metric"] = "latency"
    document.data |= {"nodes": dict.fromkeys(nodes.values()), "network": network}
    defaults(document, place=root)


def _names(graph: Graph, document: Document) -> dict[str, str]:
    """Our names of the routers by id: their labels, numbered where several are alike."""
    names = Names(document, numbered=True)
    found: dict[str, str] = {}
    for number, (key, (said, place)) in enumerate(graph.routers.items()):
        label = said.get("label") or key
        usable = any(c.isalnum() for c in label)
        ours = names.give(label[:30] if usable else f"router-{number}", place, what="router")
        if ours is not None:
            found[key] = ours
    return found


def _lines(
    graph: Graph, nodes: Mapping[str, str], document: Document, *, unit: str | None
) -> list[tuple[dict[str, Any], Place]]:
    """Links between the routers: parallel lines become the fastest one of them."""
    found: dict[tuple[str, str], tuple[dict[str, Any], Place]] = {}
    loops: list[Place] = []
    parallel: list[Place] = []
    unknown: dict[str, list[Place]] = {"delay": [], "rate": []}
    for a, b, said, place in graph.lines:
        missing = [end for end in (a, b) if end not in graph.routers]
        if missing:
            _problem(document, place, f"there is no node with the id {missing[0][:60]!r}")
        elif a == b:
            loops.append(place)
        elif {a, b} <= {*nodes}:
            try:
                entry = values.line(said, unit=unit)
            except ValueError as error:
                hint = "" if unit else "of latencies without a unit: --set format.unit=ms"
                _problem(document, place, f"edge {a} to {b}: {error}", hint)
                continue
            if "delay" not in entry and (km := _distance(graph, a, b)) is not None:
                entry["delay"] = values.light(km)
            pair = (a, b) if graph.directed else (min(a, b), max(a, b))
            if pair in found:
                parallel.append(place)
                if values.speed(entry) <= values.speed(found[pair][0]):
                    continue
            found[pair] = ({"from": nodes[a], "to": nodes[b], **entry}, place)
    for entry, place in found.values():
        for key, places in unknown.items():
            if key not in entry:
                places.append(place)
        if graph.directed:
            entry["oneway"] = True
    _warn(document, loops, "{} edges from a node to itself are left out")
    _warn(document, parallel, "{} edges are parallel to another; the fastest of them counts")
    hint = "--set network.link.{}=... is for all that say nothing"
    for key, what in (("delay", "latency, and no coordinates of both ends"), ("rate", "speed")):
        _warn(document, unknown[key], f"{{}} edges have no {what}", hint.format(key))
    return list(found.values())


def _warn(document: Document, places: list[Place], message: str, hint: str = "") -> None:
    if places:
        text = message.format(len(places))
        document.warnings.append(Problem.at(places[0], (), text, hint))


def _distance(graph: Graph, a: str, b: str) -> float | None:
    """Along the surface of the earth, km; None where a coordinate is missing."""
    ends = [values.coordinates(graph.routers[end][0]) for end in (a, b)]
    if ends[0] is None or ends[1] is None:
        return None
    (lat1, lon1), (lat2, lon2) = (tuple(map(math.radians, end)) for end in ends if end)
    across = math.sin((lat2 - lat1) / 2) ** 2
    across += math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * values.EARTH_KM * math.asin(math.sqrt(min(1.0, across)))
