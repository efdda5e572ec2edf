"""What keys of a file mean together: names, references, shapes, paths, the algorithm's options.

Each check reports all that it finds. Those on parts of the file run even where other parts are
wrong; `check_paths` needs a file in which nothing else is.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from deploy.topology import expand
from deploy.topology.event_checks import check_events
from deploy.topology.model import Group, LinkOptions, TopologyFile, spelled_out
from deploy.topology.network import Network, connected_parts, natural
from deploy.topology.problems import Loc, nearest
from deploy.topology.reader import Document
from deploy.topology.shapes import complaints
from deploy.topology.training_checks import check_training
from node import algorithms
from node.core.ids import NodeId
from node.errors import ConfigError

MAX_NODES: Final = 4096
MAX_LINKS: Final = 1 << 20
"""Directed links; a full network of 1,000 nodes has fewer."""
MAX_REPORTED: Final = 50
"""Problems of one kind; whoever has more has made one mistake in many places."""


def check_parts(document: Document, file: TopologyFile, broken: frozenset[str]) -> None:
    """All checks whose part of the file could be read: `broken` names the keys that could not."""
    if "nodes" not in broken and (count := _count(file)) > MAX_NODES:
        document.report(("nodes",), f"{count} nodes; at most {MAX_NODES}")
        broken |= {"nodes"}  # not to be expanded
    for check, needs in (
        (_names, {"nodes", "network"}),
        (_network_kind, {"network"}),
        (_network_shape, {"nodes", "network"}),
        (_sharing, {"nodes", "network"}),
        (_compute, {"nodes"}),
        (_slots, {"nodes", "network", "events"}),
        (_overlay_kind, {"nodes", "overlay"}),
        (check_events, {"nodes", "network", "events"}),
        (_algorithm, {"algorithm"}),
        (_mode, {"algorithm", "mode"}),
        (check_training, {"training"}),
        (_stop, {"stop"}),
        (_deadlines, {"deadlines"}),
        (_trace, {"nodes", "trace"}),
    ):
        if not needs & broken:
            check(document, file)
    _references(document)


def _count(file: TopologyFile) -> int:
    return sum(group.replicas or 1 for group in file.nodes.values())


def _names(document: Document, file: TopologyFile) -> None:
    """Names are unique once groups are expanded."""
    owner: dict[str, str] = {}
    for name, group in file.nodes.items():
        for member in expand.members(name, group):
            if other := owner.get(member):
                message = f"the node {member!r} comes from the group {other!r} too"
                document.report(("nodes", name), message, "rename one of them", key=True)
                break
            owner[member] = name
    taken = {**owner, **dict.fromkeys(file.nodes, "")}
    if file.network.shape == "star" and expand.SWITCH in taken:
        message = f"{expand.SWITCH!r} is the name of the switch in a network of shape star"
        document.report(("nodes", expand.SWITCH), message, "rename the node", key=True)
    for i, bridge in enumerate(file.network.bridges):
        if bridge in taken:
            document.report(("network", "bridges", i), f"{bridge!r} is the name of a node too")
        if bridge in file.network.bridges[:i]:
            document.report(("network", "bridges", i), f"{bridge!r} stands here twice")


def _network_kind(document: Document, file: TopologyFile) -> None:
    """Either a shape or links, and no option that would go unused."""
    network = file.network
    given = network.model_fields_set
    listed = sorted({"bridges", "links"} & given)
    if network.shape and listed:
        message = "a network has either a `shape` or `bridges` and `links`, not both"
        document.report(("network", listed[0]), message, key=True)
    elif not network.shape and not network.links and _count(file) > 1:
        message = "a network needs a `shape` such as ring, or `links`"
        document.report(("network",), message, key=True)
    if not network.shape:
        _unused_options(document, "network", given)
    for i, entry in enumerate(network.links):
        if entry.oneway and "back" in entry.model_fields_set:
            loc: Loc = ("network", "links", i, "back")
            document.report(loc, "a link that is `oneway` has no way back", key=True)


def _unused_options(document: Document, section: str, given: set[str]) -> None:
    for option in sorted({"degree", "rewire", "branching", "columns", "seed"} & given):
        document.report((section, option), "means something only with a `shape`", key=True)


def _network_shape(document: Document, file: TopologyFile) -> None:
    """The shape's options, or the number of listed links, repeats and loops."""
    network = file.network
    count = _count(file)
    if network.shape:
        for option, message in complaints(network.shape, network, count=count):
            document.report(("network", option), message)
        if network.shape == "full" and count * (count - 1) > MAX_LINKS:
            document.report(("network", "shape"), f"{count} nodes: more than {MAX_LINKS} links")
        return
    known = expand.references(file.nodes)
    seen: dict[tuple[str, str], int] = {}
    for i, entry in enumerate(network.links):
        loc: Loc = ("network", "links", i)
        ends = len(known.get(entry.source, "1")) * len(known.get(entry.target, "1"))
        if len(seen) + 2 * ends > MAX_LINKS:
            document.report(loc, f"more than {MAX_LINKS} links")
            return
        for a, b in expand.entry_pairs(entry, known):
            if a == b:
                document.report(loc, f"a link from {a!r} to itself")
                break
            ways = [(a, b)] if entry.oneway else [(a, b), (b, a)]
            if first := [seen[way] for way in ways if way in seen]:
                line = document.place(("network", "links", first[0])).line
                hint = f"the first is in line {line}" if line else ""
                document.report(loc, f"a second link between {a!r} and {b!r}", hint)
                break
            seen |= dict.fromkeys(ways, i)


def _sharing(document: Document, file: TopologyFile) -> None:
    """Groups that share have links that they can share, behind bridges with names of their own."""
    network = file.network
    for name, group in file.nodes.items():
        loc: Loc = ("nodes", name, "share")
        if group.share and group.replicas is None:
            document.report(loc, "one node has nobody to share with; give `replicas`", key=True)
        elif group.share and network.shape not in (None, "star"):
            hint = "a star, or `bridges` and `links`"
            message = f"the shape {network.shape} has no link that a group could share"
            document.report(loc, message, hint, key=True)
    for i, entry in enumerate(network.links):
        if entry.source == entry.target and file.nodes.get(entry.source, Group()).share:
            message = f"the group {entry.source!r} shares its links, and cannot be one's both ends"
            document.report(("network", "links", i), message, "put a bridge between")
    taken = {*expand.references(file.nodes), *network.bridges}
    for made in expand.share_bridges(file).values():
        for group_name, bridge in made.items():
            if bridge in taken:
                message = f"{bridge!r} is the bridge that the group {group_name!r} shares links by"
                document.report(("nodes", group_name), message, "rename the other", key=True)


def _compute(document: Document, file: TopologyFile) -> None:
    """One model of compute time for a group."""
    for name, group in file.nodes.items():
        if group.compute.step is not None and group.compute.trace is not None:
            loc: Loc = ("nodes", name, "compute", "trace")
            document.report(loc, "a step takes either `step`, or what a `trace` says", key=True)


def _slots(document: Document, file: TopologyFile) -> None:
    """In every `slot`, the shortest pause is not longer than the longest."""
    network, places = file.network, list[tuple[Loc, LinkOptions]]()
    places.append((("network", "link"), network.link))
    for name, group in file.nodes.items():
        at: Loc = ("nodes", name, "link")
        link = group.link
        places += [(at, link), ((*at, "up"), link.up), ((*at, "down"), link.down)]
    for i, entry in enumerate(network.links):
        at = ("network", "links", i)
        places += [(at, entry), ((*at, "back"), entry.back)]
    for i, event in enumerate(file.events):
        at = ("events", i)
        places += [((*at, "set"), event.set), ((*at, "back"), event.back)]
    for at, options in places:
        slot = options.slot
        if slot is not None and slot.least > slot.most:
            document.report((*at, "slot", "least"), "must not be longer than `most`")


def _trace(document: Document, file: TopologyFile) -> None:
    """Every node that is to be traced exists."""
    names = sorted(expand.references(file.nodes), key=natural)
    for i, name in enumerate(file.trace):
        if name not in names:
            hint = nearest(name, names, what="nodes and groups")
            document.report(("trace", i), f"there is no node or group {name!r}", hint)


def _references(document: Document) -> None:
    """Every name that a link or an edge mentions exists. Reads the data as it stands, so that
    something else that is wrong there does not hide it."""
    network, overlay = (document.data.get(key) for key in ("network", "overlay"))
    listed = network.get("bridges") if isinstance(network, dict) else None
    found = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    groups, unsure = _readable_groups(document.data.get("nodes"))
    names = sorted(expand.references(groups), key=natural)
    if not names:
        return

    def wrong(mentioned: Iterator[tuple[Loc, str]], known: list[str]) -> list[tuple[Loc, str]]:
        exist = frozenset(known)
        every = (
            (loc, name)
            for loc, name in mentioned
            if name not in exist and name.rpartition("-")[0] not in unsure
        )
        return list(itertools.islice(every, MAX_REPORTED))

    for loc, name in wrong(_mentioned(network, "network", "links", ("from", "to")), names + found):
        hint = nearest(name, names + found, what="nodes and bridges")
        document.report(loc, f"there is no node, group or bridge {name!r}", hint)
    for loc, name in wrong(_mentioned(overlay, "overlay", "edges", (0, 1)), names):
        document.report(loc, f"there is no node or group {name!r}", nearest(name, names))
    center = overlay.get("center") if isinstance(overlay, dict) else None
    single = [name for name in names if name not in groups or groups[name].replicas is None]
    if isinstance(center, str) and wrong(iter([((), center)]), single):
        hint = nearest(center, single, what="nodes")
        document.report(("overlay", "center"), f"there is no node {center!r}", hint)


def _readable_groups(data: Any) -> tuple[dict[str, Group], set[str]]:
    """The groups in the data of `nodes`, and those of which the number of nodes cannot be told."""
    groups: dict[str, Group] = {}
    unsure: set[str] = set()
    entries = spelled_out(data)
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        replicas = entry.get("replicas", 0) if isinstance(entry, dict) else -1
        whole = type(replicas) is int and replicas >= 0 and {*entry} <= {*Group.model_fields}
        if not whole:
            unsure.add(name)
        groups[name] = Group(replicas=replicas if whole and replicas else None)
    too_many = sum(group.replicas or 1 for group in groups.values()) > MAX_NODES
    return ({}, set()) if too_many else (groups, unsure)


def _mentioned(
    section: Any, name: str, key: str, ends: tuple[str | int, ...]
) -> Iterator[tuple[Loc, str]]:
    """The names at the ends of a section's links or edges, as far as they are text."""
    entries = section.get(key) if isinstance(section, dict) else None
    for i, entry in enumerate(entries if isinstance(entries, list) else []):
        items = dict(enumerate(entry)) if isinstance(entry, list) else entry
        for end in ends if isinstance(items, dict) else ():
            if isinstance(found := items.get(end), str):
                yield (name, key, i, end), found


def _overlay_kind(document: Document, file: TopologyFile) -> None:
    """Either a shape or edges, with the shape's options."""
    overlay = file.overlay
    given = overlay.model_fields_set
    if overlay.edges and overlay.shape:
        message = "an overlay has either a `shape` or `edges`, not both"
        document.report(("overlay", "edges"), message, key=True)
    elif overlay.shape in (None, "network"):
        _unused_options(document, "overlay", given)
    elif overlay.shape:
        for option, message in complaints(overlay.shape, overlay, count=_count(file)):
            document.report(("overlay", option), message)
    if overlay.center and overlay.shape != "star":
        document.report(("overlay", "center"), "means something only with `shape: star`", key=True)
    for i, (one, other) in enumerate(overlay.edges):
        group = file.nodes.get(one)
        if one == other and (group is None or group.replicas is None):
            document.report(("overlay", "edges", i), f"an edge from {one!r} to itself")


def _algorithm(document: Document, file: TopologyFile) -> None:
    """The algorithm exists, and takes these options."""
    name, options = file.algorithm.name, file.algorithm.options
    try:
        kind = algorithms.find(name)
    except ConfigError as error:  # it is registered, and its package is broken
        document.report(("algorithm", "name"), error.message)
        return
    fields = {field.name: field for field in dataclasses.fields(kind.Config)}
    for key in options:
        if key not in fields:
            hint = nearest(key, ["name", "pacing", *fields], what="keys here")
            document.report(("algorithm", key), f"unknown option of {name}", hint, key=True)
    known = {key: value for key, value in options.items() if key in fields}
    missing = [key for key, field in fields.items() if _required(field) and key not in known]
    for key in missing:
        document.report(("algorithm", key), "this key is missing", f"{name} needs it", key=True)
    if not missing:
        _option_values(document, kind, known, alone=not any(map(_required, fields.values())))


def check_algorithm(
    document: Document, file: TopologyFile, overlay: Mapping[NodeId, tuple[NodeId, ...]]
) -> None:
    """The algorithm can run on this overlay."""
    kind = algorithms.find(file.algorithm.name)
    try:
        kind.check_overlay(algorithms.configure(kind, file.algorithm.options), overlay)
    except ValueError as error:
        document.report(("algorithm", "name"), str(error))


def _mode(document: Document, file: TopologyFile) -> None:
    """The algorithm can run in the mode that is asked for."""
    if file.mode is None:
        return
    try:
        modes = algorithms.find(file.algorithm.name).MODES
    except ConfigError:
        return  # said elsewhere
    if file.mode not in modes:
        message = f"{file.algorithm.name} cannot run in mode {file.mode.value}"
        document.report(("mode",), message, f"it can in {' and '.join(m.value for m in modes)}")


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def _option_values(
    document: Document, kind: type[Any], options: Mapping[str, Any], *, alone: bool
) -> None:
    """Types and limits of the options, each `alone` where the others have defaults, then all."""
    before = len(document.problems)
    for key, value in options.items() if alone else ():
        try:
            algorithms.configure(kind, {key: value})
        except ConfigError as error:
            document.report(("algorithm", key), error.message)
    if len(document.problems) == before:
        try:
            algorithms.configure(kind, options)
        except ConfigError as error:
            document.report(("algorithm", *([error.where] if error.where else [])), error.message)


def _stop(document: Document, file: TopologyFile) -> None:
    if not file.stop.model_fields_set:
        hint = "keys here: " + ", ".join(type(file.stop).model_fields)
        document.report(("stop",), "at least one condition is needed", hint, key=True)


def _deadlines(document: Document, file: TopologyFile) -> None:
    if file.deadlines.heartbeat * 2 > file.deadlines.lease:
        message = "a lease must be at least two heartbeats long"
        document.report(("deadlines", "lease"), message)


def check_start(document: Document, file: TopologyFile, standby: Collection[NodeId]) -> None:
    """Enough nodes are there from the start for a round."""
    there = _count(file) - len(standby)
    if not there:
        message = "no node is there at the start: all are on standby, or join later"
        document.report(("nodes",), message, "let some of them start", key=True)
    elif (asked := file.signaling.min_participants or 0) > there:
        message = f"{asked} nodes are needed for a round, and {there} are there at the start"
        document.report(("signaling", "min_participants"), message, "the run would only wait")


def check_paths(
    document: Document, network: Network, overlay: Mapping[NodeId, tuple[NodeId, ...]]
) -> None:
    """Every edge of the overlay has a path both ways, and the overlay hangs together."""
    pairs: list[tuple[NodeId, NodeId]] = []
    for a, reach in network.reach():
        pairs += [(a, b) for b in overlay[a] if b not in reach]
    for a, b in pairs[:MAX_REPORTED]:
        message = f"{a} and {b} are to exchange, but the network has no path {a} -> {b}"
        document.report(("overlay",), message, "add links, or a bridge that both hang on", key=True)
    if (more := len(pairs) - MAX_REPORTED) > 0:
        document.report(("overlay",), f"and {more} more paths that are missing", key=True)
    parts = [] if pairs else connected_parts(overlay)
    if len(parts) > 1:
        some = "; ".join(_few(part) for part in parts[:5]) + ("; ..." if len(parts) > 5 else "")
        message = f"the overlay falls into {len(parts)} parts that never exchange: {some}"
        document.report(("overlay",), message, "connect them in `network` or `overlay`", key=True)


def _few(names: list[NodeId]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
