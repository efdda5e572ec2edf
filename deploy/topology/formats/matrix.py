"""Latency matrices (CSV), such as those between regions of a cloud, as networks (pure).

    rtt ms,  ireland, oregon, sydney
    ireland,      0,    170,    340
    oregon,     170,      0,    204
    sydney,     338,    204,      0

The row is where a latency was measured from, the column where to. docs/kollaps.md has the rules.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from deploy.topology.formats.defaults import defaults
from deploy.topology.formats.names import Names
from deploy.topology.problems import Place, Problem
from deploy.topology.reader import Document
from node.units import format_duration, parse_duration

OPTIONS: Final = {
    "latency": ("rtt", "one-way"),
    "unit": ("ms", "us", "s"),
    "sites": ("nodes", "bridges"),
}
"""latency: what a cell is. unit: of bare numbers; default ms. sites: each site is a node with a
direct link to every other, or a bridge with one node on it."""
MAX_BYTES: Final = 4 << 20
MAX_SITES: Final = 600
ROUTER: Final = "-r"

_MAX_PROBLEMS: Final = 50
_EMPTY: Final = ("", "-", "na", "n/a", "nan", "none", "x")
_BARE: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{0,12})?")
_SAID: Final = {"rtt": "rtt", "round-trip": "rtt", "one-way": "one-way", "oneway": "one-way"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Meaning:
    """What the numbers are."""

    halves: bool
    unit: str


class _Matrix:
    """The cells of a file by row and column, and where they stand."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self.names: list[str] = []
        self.columns: list[str] = []
        self.corner = ""
        self.rows: list[tuple[str, list[str], Place]] = []

    def problem(self, place: Place, message: str, hint: str = "") -> None:
        self._document.problems.append(Problem.at(place, (), message, hint))

    def read(self, raw: bytes) -> None:
        """Take the file apart; it must be square, with the same names both ways."""
        file = self._document.file
        top = Place(file=file, line=1)
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            self.problem(Place(file=file), "this is not a text file: expected CSV in UTF-8")
            return
        lines = csv.reader(text.splitlines(), delimiter=_delimiter(text), skipinitialspace=True)
        try:
            for cells in lines:
                if not any(cell.strip() for cell in cells) or cells[0].startswith("#"):
                    continue
                cells = [cell.strip() for cell in cells]
                place = Place(file=file, line=lines.line_num)
                if not self.columns:
                    top, self.corner, self.columns = place, cells[0], cells[1:]
                else:
                    self.rows.append((cells[0], cells[1:], place))
        except csv.Error as error:
            self.problem(Place(file=file, line=lines.line_num), f"not valid CSV: {error}")
            return
        self._check(top)

    def _check(self, top: Place) -> None:
        self.names = [name for name, _, _ in self.rows]
        if len(self.columns) > MAX_SITES:
            self.problem(top, f"{len(self.columns)} sites; at most {MAX_SITES}")
        elif not self.columns or not self.rows:
            hint = "a header row and a first column with the names, and a latency for each pair"
            self.problem(top, "there is no matrix in it", hint)
        elif sorted(self.names) != sorted(self.columns):
            odd = sorted({*self.names} ^ {*self.columns})[:4]
            few = f"only in one of them: {', '.join(map(repr, odd))}" if odd else "a name repeats"
            hint = f"{len(self.rows)} rows, {len(self.columns)} columns; {few}"
            self.problem(top, "the rows and the columns do not have the same names", hint)
        for name, cells, place in self.rows:
            if len(cells) != len(self.columns):
                message = f"the row {name[:60]!r} has {len(cells)} cells, not {len(self.columns)}"
                self.problem(place, message)

    def cells(self) -> Iterator[tuple[str, str, str, Place]]:
        """(from, to, text, place)."""
        for name, cells, place in self.rows:
            for column, text in zip(self.columns, cells, strict=True):
                yield name, column, text, place


def _delimiter(text: str) -> str:
    """The one that the first line with names has most often."""
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    first = next(lines, "")
    return max((",", ";", "\t"), key=first.count)


def read(raw: bytes, *, file: str, options: Mapping[str, str]) -> Document:
    """Read a file's bytes; what is wrong is in the document's `problems`, nothing is raised."""
    document = Document(file=file)
    if len(raw) > MAX_BYTES:
        document.report((), f"the file has more than {MAX_BYTES >> 20} MiB")
        return document
    matrix = _Matrix(document)
    matrix.read(raw)
    if document.problems:
        return document
    meaning = _meaning(matrix, options, document)
    delays = _delays(matrix, meaning, document) if meaning is not None else {}
    names = Names(document, numbered=False)
    ours = {n: names.give(n, place, what="site") for n, _, place in matrix.rows}
    if not document.problems:
        sites = {name: our for name, our in ours.items() if our is not None}
        _fill(matrix, sites, delays, document, attached=options.get("sites") == "bridges")
    return document


def _meaning(matrix: _Matrix, options: Mapping[str, str], document: Document) -> _Meaning | None:
    """From the corner cell, or from options; whether it is a round trip is never guessed."""
    place = Place(file=document.file, line=1)
    words = re.findall(r"[a-z]+(?:-[a-z]+)*", matrix.corner.lower().replace("_", " "))
    words = (
        re.sub(r"one way", "one-way", " ".join(words)).replace("round trip", "round-trip").split()
    )
    said = {_SAID[word] for word in words if word in _SAID}
    units = {word for word in words if word in OPTIONS["unit"]}
    if (kind := options.get("latency")) is not None:
        said = {kind}
    if (unit := options.get("unit")) is not None:
        units = {unit}
    if len(said) != 1 or len(units) > 1:
        hint = 'begin the header with "rtt ms" or "one-way ms", or --set format.latency=rtt'
        message = "does the matrix hold round-trip times or one-way latencies?"
        matrix.problem(place, message if len(units) < 2 else "which unit?", hint)
        return None
    return _Meaning(halves=said == {"rtt"}, unit=min(units, default="ms"))


def _delays(matrix: _Matrix, meaning: _Meaning, document: Document) -> dict[tuple[str, str], int]:
    """One-way delays by (from, to), ns; a pair of empty cells is no link."""
    found: dict[tuple[str, str], int] = {}
    places: dict[tuple[str, str], Place] = {}
    inside: list[Place] = []
    for a, b, text, place in matrix.cells():
        if len(document.problems) >= _MAX_PROBLEMS:
            break
        places[a, b] = place
        if text.lower() in _EMPTY:
            continue
        try:
            given = parse_duration(f"{text}{meaning.unit}" if _BARE.fullmatch(text) else text)
        except ValueError as error:
            matrix.problem(place, f"{a[:60]} to {b[:60]}: {error}")
            continue
        if a != b:
            found[a, b] = round(Decimal(given) / 2) if meaning.halves else given
        elif given:
            inside.append(place)
    for a, b in found if not document.problems else ():
        if (b, a) not in found and len(document.problems) < _MAX_PROBLEMS:
            message = f"{b[:60]} to {a[:60]} is empty, but {a[:60]} to {b[:60]} is not"
            matrix.problem(places[b, a], message, "fill in both, or none for no link")
    if inside:
        message = f"{len(inside)} latencies within a site are not used: a site is one node"
        document.warnings.append(Problem.at(inside[0], (), message))
    return found


def _fill(
    matrix: _Matrix,
    sites: Mapping[str, str],
    delays: Mapping[tuple[str, str], int],
    document: Document,
    *,
    attached: bool,
) -> None:
    """The document's data and places."""
    tail = ROUTER if attached else ""
    network: dict[str, Any] = {"bridges": [n + ROUTER for n in sites.values()]} if attached else {}
    entries: list[tuple[dict[str, Any], Place]] = []
    for name, _, place in matrix.rows:
        here = sites[name]
        document.keys["nodes", here] = document.values["nodes", here] = place
        if attached:
            entries.append(({"from": here, "to": here + ROUTER}, place))
    for position, (a, _, place) in enumerate(matrix.rows):
        for b, _, _ in matrix.rows[position + 1 :]:
            if (a, b) in delays:
                there, back = (format_duration(delays[pair]) for pair in ((a, b), (b, a)))
                entry = {"from": sites[a] + tail, "to": sites[b] + tail, "delay": there}
                entries.append(
                    (entry | ({"back": {"delay": back}} if back != there else {}), place)
                )
    network["links"] = [entry for entry, _ in entries]
    for i, (_, place) in enumerate(entries):
        document.values["network", "links", i] = place
    document.data |= {"nodes": dict.fromkeys(sites.values()), "network": network}
    root = Place(file=document.file, line=1)
    document.values[()] = root
    defaults(document, place=root)
