"""What is wrong with a topology file: all of it at once, each with its place and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from node.errors import ConfigError

Loc = tuple[str | int, ...]
"""The way to a value: keys of mappings and positions in lists."""


MAX_SHOWN: Final = 100
"""Problems in the text of a TopologyErrors; its `problems` holds all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where something is written: a line of a file, or a `--set` option."""

    file: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong.

    Args:
        file: the topology file as the user named it, or the option `--set KEY=VALUE`.
        line, column: counted from 1; None where there is none.
        key: dotted path of the key, empty for the file as a whole.
        message: what is wrong.
        hint: what would be right.
    """

    file: str
    line: int | None
    column: int | None
    key: str
    message: str
    hint: str = ""

    @staticmethod
    def at(place: Place, loc: Loc, message: str, hint: str = "") -> Problem:
        return Problem(
            file=place.file,
            line=place.line,
            column=place.column,
            key=dotted(loc),
            message=message,
            hint=hint,
        )

    def __str__(self) -> str:
        place = Place(file=self.file, line=self.line, column=self.column)
        key = f"{self.key}: " if self.key else ""
        return f"{place}: {key}{self.message}" + (f"\n  {self.hint}" if self.hint else "")


class TopologyErrors(ConfigError):
    """A topology file is wrong; `problems` holds all that is wrong with it, in file order.

    `warnings` say how it was read, which may be why.
    """

    def __init__(self, problems: Iterable[Problem], *, warnings: Iterable[Problem] = ()) -> None:
        self.warnings = tuple(warnings)
        self.problems = tuple(
            sorted(problems, key=lambda p: (p.line is None, p.line or 0, p.column or 0))
        )
        shown = [str(problem) for problem in self.problems[:MAX_SHOWN]]
        if more := len(self.problems) - len(shown):
            shown.append(f"and {more} more problems")
        shown += [f"warning: {warning}" for warning in self.warnings]
        super().__init__("\n".join(shown))


def dotted(loc: Loc) -> str:
    """`("network", "links", 0, "rate")` as `network.links[0].rate`."""
    text = ""
    for step in loc:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def nearest(word: object, known: Sequence[str], *, what: str = "known") -> str:
    """A hint: the nearest valid spelling, if any is near, and all of them."""
    if not known:
        return ""
    listed = f"{what}: {', '.join(known[:16])}" + (", ..." if len(known) > 16 else "")
    near = difflib.get_close_matches(str(word).lower(), known, n=1)
    return f"did you mean {near[0]!r}? {listed}" if near else listed
