"""`deploy paths` and `timeline`: the network of a file, now and later, with nothing started."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from deploy.loading import load_and_warn
from deploy.paths import (
    EVERY,
    HEADINGS,
    JSON_BETWEEN,
    PathTable,
    as_cells,
    as_json,
    at_time,
    chosen,
)
from deploy.plan_links import Moment, Pair, moments
from deploy.topology import Route, Topology
from deploy.topology.state import states
from deploy.topology.timeline import NodeAction
from node.config import PathSpec
from node.errors import ConfigError
from node.units import format_duration, format_rate, format_share, parse_duration

MAX_LOOKS: Final = 10_000_000
"""Routes and links that a timeline looks at; of more, it says what happens, but not to which
paths."""
_KINDS: Final = 3
"""Kinds of changes that a line of a timeline spells out."""


def paths(
    file: Path,
    source: str | None,
    target: str | None,
    *,
    at: str | None,
    sets: Sequence[str],
    as_json: bool,
) -> int:
    """Print the path of each ordered pair."""
    topology = load_and_warn(file, overrides=sets)
    try:
        state = at_time(topology, None if at is None else parse_duration(at))
    except ValueError as error:
        raise ConfigError(str(error), where="--at") from error
    sources, targets = chosen(topology, source), chosen(topology, target)
    write = sys.stdout.write
    if as_json:
        table = PathTable(state, between=JSON_BETWEEN)
        found = _json_rows(table.rows(a, targets) for a in sources)
        write("[")
        for text in found:
            write(text)
        write("\n]\n")
        return 0
    widths = _widths(topology)
    write(_line(HEADINGS, widths))
    table, count = PathTable(state, between=" > "), 0
    for a in sources:
        lines = [_line(as_cells(row), widths) for row in table.rows(a, targets)]
        count += len(lines)
        write("".join(lines))
    if not count:
        write(f"no path from {_who(source)} to {_who(target)}\n")
    return 0


def _json_rows(by_source: Iterable[Iterator[Any]]) -> Iterator[str]:
    """The rows of each source as one text, with the commas between all of them."""
    first = True
    for found in by_source:
        if text := ",\n".join(map(as_json, found)):
            yield ("\n" if first else ",\n") + text
            first = False


def _who(name: str | None) -> str:
    return "any node" if name in (None, EVERY) else str(name)


def _widths(topology: Topology) -> tuple[int, ...]:
    longest = max(len(node.name) for node in topology.nodes)
    return (max(longest, 4), max(longest, 4), 10, 10, 8, 10, 0)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return padded.rstrip() + "\n"


# The timeline ------------------------------------------------------------------------------------


def timeline(file: Path, *, sets: Sequence[str], as_json: bool) -> int:
    """Print the explicit timeline: what happens when, and what becomes of which paths."""
    topology = load_and_warn(file, overrides=sets)
    followed = _followed(topology)
    if as_json:
        facts = [
            {
                "at_s": step.at_ns / 1e9,
                "what": list(step.what),
                "nodes": [
                    {"node": action.node, "verb": action.verb}
                    for action in step.actions
                    if isinstance(action, NodeAction)
                ],
                "paths": None if moment is None else _json_changes(moment),
            }
            for step, moment in zip(topology.timeline, followed, strict=True)
        ]
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return 0
    if not topology.timeline:
        sys.stdout.write(f"{file}: no events\n")
    for step, moment in zip(topology.timeline, followed, strict=True):
        told = "" if moment is None else _in_short(moment)
        at = format_duration(step.at_ns) if step.at_ns else "0s"
        sys.stdout.write(f"{at:>10}  {'; '.join(step.what)}{told}\n")
    return 0


def _followed(topology: Topology) -> Iterator[Moment | None]:
    """What each step changes; nothing is worked out where that would be too much."""
    steps = topology.timeline
    looks = (len(topology.nodes) ** 2 + len(topology.network.links)) * len(steps)
    if looks > MAX_LOOKS:
        return itertools.repeat(None, len(steps))
    return itertools.islice(moments(states(topology)), 1, None)


def _changes(moment: Moment) -> Iterator[tuple[Pair, Route | None, Route | None]]:
    """The pairs whose path is another, or not as it was."""
    for pair, (old, new) in moment.routes.items():
        if old is None or new is None or old.spec != new.spec or old.vertices != new.vertices:
            yield pair, old, new


def _in_short(moment: Moment) -> str:
    """`; 12 paths: a > b and 11 more: 8mbit 42ms -> none`."""
    kinds: dict[str, list[Pair]] = {}
    for pair, old, new in _changes(moment):
        before, after = _text(old), _text(new)
        if before == after:
            assert new is not None
            after = f"{after} by {' > '.join(new.vertices[1:-1]) or 'a direct link'}"
        kinds.setdefault(f"{before} -> {after}", []).append(pair)
    if not kinds:
        return "  [no path is another]"
    texts = []
    for text, pairs in itertools.islice(kinds.items(), _KINDS):
        more = f" and {len(pairs) - 1} more" if len(pairs) > 1 else ""
        texts.append(f"{pairs[0][0]} > {pairs[0][1]}{more}: {text}")
    if (
        rest := sum(map(len, kinds.values()))
        - sum(len(pairs) for pairs in itertools.islice(kinds.values(), _KINDS))
    ) > 0:
        texts.append(f"and {rest} other paths")
    return f"  [{'; '.join(texts)}]"


def _text(route: Route | None) -> str:
    """`8mbit 42ms +-2ms 0.5%`."""
    if route is None:
        return "none"
    spec = route.spec
    words = ["unlimited" if spec.rate_bps is None else format_rate(spec.rate_bps)]
    words.append(format_duration(spec.delay_ns))
    if spec.jitter_ns:
        words.append(f"+-{format_duration(spec.jitter_ns)}")
    if spec.loss_rate:
        words.append(f"{format_share(float(f'{spec.loss_rate:.4g}'))} lost")
    words += [
        f"{key} {format_share(value)}"
        for key in ("duplicate", "corrupt", "reorder")
        if (value := getattr(spec, key))
    ]
    return " ".join(words)


def _json_changes(moment: Moment) -> list[Mapping[str, Any]]:
    return [
        {"from": a, "to": b, "before": _facts(old), "after": _facts(new)}
        for (a, b), old, new in _changes(moment)
    ]


def _facts(route: Route | None) -> Mapping[str, Any] | None:
    """A path as `deploy paths --json` writes it; None: there is none."""
    if route is None:
        return None
    spec: PathSpec = route.spec
    return {
        "route": list(route.vertices),
        "latency_ms": spec.delay_ns / 1e6,
        "jitter_ms": spec.jitter_ns / 1e6,
        "loss": spec.loss_rate,
        "rate_bps": spec.rate_bps,
    }
