"""Names of other formats to names that our files, host names and container names allow (pure)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from deploy.topology.problems import Place, Problem
from deploy.topology.quantities import NAME_PATTERN
from deploy.topology.reader import Document

_LETTERS = str.maketrans({"ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "ß": "ss", "æ": "ae", "ı": "i"})


def adapted(name: str) -> str:
    """The nearest allowed name: `Fast_Client` to `fast-client`, `São Paulo` to `sao-paulo`.

    It may still not be one: empty, or too long.
    """
    plain = unicodedata.normalize("NFKD", name.translate(_LETTERS)).encode("ascii", "ignore")
    text = re.sub(r"[^a-z0-9]+", "-", plain.decode().lower()).strip("-")
    return f"n{text}" if text[:1].isdigit() else text


class Names:
    """The names of one file, each given to one thing only.

    Args:
        document: where problems go.
        numbered: whether a name that is taken gets a number, rather than being an error.
    """

    def __init__(self, document: Document, *, numbered: bool) -> None:
        self._document = document
        self._numbered = numbered
        self._taken: dict[str, tuple[str, Place]] = {}
        self._ours: dict[str, str] = {}

    def give(self, name: str, place: Place, *, what: str) -> str | None:
        """Our name for `name`, or None with the reason in the document's problems."""
        ours = adapted(name)
        if not re.fullmatch(NAME_PATTERN, ours):
            hint = "a name has up to 40 of a-z, 0-9 and -, beginning with a letter"
            message = f"{name!r} cannot be the name of a {what}"
            self._document.problems.append(Problem.at(place, (), message, hint))
            return None
        if self._numbered:
            ours = next(free for free in _with_numbers(ours) if free not in self._taken)
        elif ours in self._taken:
            other, first = self._taken[ours]
            message = f"a second thing called {name!r}"
            if other != name:
                message = f"{name!r} and {other!r} are both {ours!r} here"
            hint = f"the first is in line {first.line}: rename one of them"
            self._document.problems.append(Problem.at(place, (), message, hint))
            return None
        self._taken[ours] = (name, place)
        self._ours[name] = ours
        return ours

    def of(self, name: str) -> str | None:
        """Our name for something that has got one."""
        return self._ours.get(name)

    def known(self) -> list[str]:
        """The file's own names."""
        return list(self._ours)

    def changed(self) -> list[tuple[str, str, Place]]:
        """Names that are not as they were: (theirs, ours, place)."""
        return [(their, ours, p) for ours, (their, p) in self._taken.items() if their != ours]


def _with_numbers(name: str) -> Iterator[str]:
    yield name
    for number in range(2, 1_000_000):
        tail = f"-{number}"
        yield name[: 40 - len(tail)].rstrip("-") + tail
