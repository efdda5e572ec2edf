"""Kollaps' topology XML to the data that a YAML file of ours would give (pure; docs/kollaps.md).

`read` gives a `Document` in which every value has its line of the XML, so that the checks of YAML
files find what is wrong with it. What only Kollaps can get wrong is found here. Where Kollaps' two
parsers disagree the one of its emulation core (Rust) is followed, and a warning says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from deploy.topology.checks import MAX_NODES
from deploy.topology.formats import kollaps_schedule
from deploy.topology.formats import kollaps_values as values
from deploy.topology.formats.defaults import defaults
from deploy.topology.formats.kollaps_file import (
    File,
    Service,
    TooManyProblems,
    add_link,
    children,
    clip,
)
from deploy.topology.formats.kollaps_notes import Note
from deploy.topology.formats.kollaps_overlay import edges
from deploy.topology.formats.names import Names
from deploy.topology.formats.xml_tree import Element, parse
from deploy.topology.problems import Place, Problem, nearest
from deploy.topology.reader import Document

SECTIONS: Final = ("config", "services", "bridges", "links", "dynamic")
_CONFIG: Final = ("shortest_path", "pool_period", "max_age")
_SERVICE: Final = (
    "name", "image", "command", "replicas", "share", "reuse", "supervisor", "port", "activepaths",
)  # fmt: skip
_BARE_METAL: Final = (
    "ip", "machinename", "kollaps_folder", "topology_file", "script", "controllername",
    "controller_ip",
)  # fmt: skip
LINK: Final = ("origin", "dest", "latency", "upload", "download", "jitter", "drop", "network")


def read(raw: bytes, *, file: str, options: Mapping[str, str]) -> Document:
    """Read a file's bytes; what is wrong is in the document's `problems`, nothing is raised."""
    del options  # the format has none
    document = Document(file=file)
    root = parse(raw, document)
    if root is None:
        return document
    known = File(document=document, names=Names(document, numbered=False))
    try:
        _read(root, known)
    except TooManyProblems:
        place = Place(file=file)
        document.problems.append(Problem.at(place, (), "and more; the rest was not looked at"))
        document.data = {}
    document.warnings += known.notes.warnings()
    return document


def _read(root: Element, file: File) -> None:
    sections = _sections(root, file)
    if sections is None:
        return
    dynamic = sections.get("dynamic")
    _services(sections["services"], file)
    if "bridges" in sections:
        _bridges(sections["bridges"], file)
    _links(sections["links"], file)
    schedule = kollaps_schedule.read(dynamic, file) if dynamic is not None else None
    if sum(service.replicas for service in file.services.values()) > MAX_NODES:
        file.problem(root.place, f"more than {MAX_NODES} replicas of services in all")
        return
    if schedule is not None:
        kollaps_schedule.expand(schedule, file)
    metric = _config(sections["config"], file) if "config" in sections else None
    _transit(file)
    _unused(root, sections, file)
    _fill(root, file, metric)


def _sections(root: Element, file: File) -> dict[str, Element] | None:
    """The children of the root by their tag, or None where there is nothing to go on with."""
    if root.tag != "experiment":
        hint = "a Kollaps topology begins with <experiment>"
        file.problem(root.place, f"the root is {root}, not <experiment>", hint)
        return None
    file.check_attributes(root, ("boot",))
    found: dict[str, Element] = {}
    for child in root.children:
        if child.tag not in SECTIONS:
            hint = nearest(clip(child.tag), SECTIONS, what="tags here")
            file.problem(child.place, f"unknown tag <{clip(child.tag)}> in {root}", hint)
        elif child.tag in found:
            hint = f"the first is in line {found[child.tag].place.line}"
            file.problem(child.place, f"a second {child}", hint)
        else:
            found[child.tag] = child
    for tag in ("services", "links"):
        if tag not in found:
            file.problem(root.place, f"there is no <{tag}>")
    return found if {"services", "links"} <= {*found} else None


def _config(config: Element, file: File) -> str | None:
    """The metric of shortest paths. The tags of the children mean nothing to Kollaps."""
    file.check_attributes(config, ())
    metric = None
    for child in config.children:
        file.check_attributes(child, _CONFIG)
        if (asked := child.attributes.get("shortest_path")) is not None:
            metric = asked
            if metric not in ("hop", "latency"):
                hint = nearest(clip(metric), ["hop", "latency"], what="allowed")
                file.problem(child.place, f"shortest_path: {clip(metric)!r} is not allowed", hint)
    return metric


def _services(section: Element, file: File) -> None:
    for element in children(section, "service", file):
        file.check_attributes(element, (*_SERVICE, *_BARE_METAL))
        theirs = file.value(element, "name", str, required=True)
        if theirs is None:
            continue
        replicas = file.value(element, "replicas", values.whole)
        share = file.value(element, "share", values.switch)
        reuse = file.value(element, "reuse", values.switch)
        paths = file.value(element, "activepaths", values.services)
        if "supervisor" in element.attributes:
            file.supervisors.add(theirs)
            file.notes.add(Note.SUPERVISOR, element.place, theirs)
            continue
        ours = file.names.give(theirs, element.place, what="service")
        if ours is None:
            file.broken.add(theirs)
            continue
        file.services[ours] = Service(
            name=ours,
            theirs=theirs,
            place=element.place,
            replicas=replicas or 1,
            share=bool(share),
            reuse=reuse is not False,
            active_paths=paths or [],
        )
    if not file.services and not file.document.problems:
        file.problem(section.place, "there is no service that would be a node")


def _bridges(section: Element, file: File) -> None:
    for element in children(section, "bridge", file):
        file.check_attributes(element, ("name",))
        theirs = file.value(element, "name", str, required=True)
        if theirs is None:
            continue
        ours = file.names.give(theirs, element.place, what="bridge")
        if ours is None:
            file.broken.add(theirs)
        else:
            file.bridges[ours] = element.place


def _links(section: Element, file: File) -> None:
    networks: dict[str, Place] = {}
    oneway = []
    for element in children(section, "link", file):
        file.check_attributes(element, LINK)
        networks.setdefault(element.attributes.get("network", ""), element.place)
        if (ends := add_link(element, file)) and "download" not in element.attributes:
            oneway.append((ends, element.place))
    for (a, b), place in oneway:
        if (b, a) not in file.directions and a != b:
            file.notes.add(Note.ONE_WAY, place, f"{a} -> {b}")
    named = [name for name in networks if name]
    for name in named if len(named) > 1 else ():
        file.notes.add(Note.NETWORKS, networks[named[1]], name)


def _transit(file: File) -> None:
    """Services that Kollaps may lead the paths of others through."""
    neighbours: dict[str, set[str]] = {}
    count: dict[str, int] = {}
    for a, b in file.directions:
        for one, other in ((a, b), (b, a)):
            if one in file.services and other not in neighbours.setdefault(one, set()):
                neighbours[one].add(other)
                service = file.services.get(other)
                alone = service is None or (service.share and service.replicas > 1)
                mine = file.services[one]
                alone = alone or (mine.share and mine.replicas > 1)
                several = 1 if alone or service is None else service.replicas - (one == other)
                count[one] = count.get(one, 0) + several
    for name, number in count.items():
        if number > 1:
            file.services[name].forwards = True
            file.notes.add(Note.TRANSIT, file.services[name].place, name)


def _unused(root: Element, sections: Mapping[str, Element], file: File) -> None:
    """One warning for all that is about how Kollaps deploys, with the line of the first."""
    found: dict[str, Place] = {}
    if "boot" in root.attributes:
        found["boot"] = root.place
    tables = (
        ("config", ("pool_period", "max_age")),
        ("services", ("image", "command", "port", *_BARE_METAL)),
        ("links", ("network",)),
    )
    for tag, keys in tables:
        for child in sections[tag].children if tag in sections else ():
            for key in keys:
                if key in child.attributes:
                    found.setdefault(key, child.place)
    for place in list(found.values())[:1]:
        file.notes.add(Note.UNUSED, place, ", ".join(found))


def _fill(root: Element, file: File, metric: str | None) -> None:
    """The document's data and places."""
    document = file.document
    put = document.values
    put[()] = root.place
    nodes: dict[str, Any] = {}
    for service in file.services.values():
        group: dict[str, Any] = {"replicas": service.replicas} if service.replicas > 1 else {}
        if service.share and group:
            group["share"] = True
        if service.forwards:
            group["forwards"] = True
        nodes[service.name] = group or None
        document.keys["nodes", service.name] = put["nodes", service.name] = service.place
    network: dict[str, Any] = {}
    for key, entries in (
        ("bridges", list(file.bridges.items())),
        ("links", file.links),
    ):
        if entries:
            network[key] = [entry for entry, _ in entries]
            for i, (_, place) in enumerate(entries):
                put["network", key, i] = place
    if metric is not None:
        network["metric"] = metric
    document.data |= {"nodes": nodes, "network": network}
    if (pairs := edges(file)) is not None:
        document.data["overlay"] = {"edges": [pair for pair, _ in pairs]}
        for i, (_, place) in enumerate(pairs):
            put["overlay", "edges", i] = place
    if file.events:
        document.data["events"] = [event for event, _ in file.events]
        for i, (_, place) in enumerate(file.events):
            put["events", i] = place
    defaults(document, place=root.place, last_s=_last(file))
    for theirs, ours, place in file.names.changed():
        file.notes.add(Note.NAMES, place, f"{clip(theirs)!r} is {ours!r}")


def _last(file: File) -> int:
    """The time of the last event, in whole seconds."""
    times = [float(event["at"].removesuffix("s")) for event, _ in file.events]
    return -int(-max(times, default=0.0) // 1)
