"""What a user should know of how a Kollaps file was read: each thing once, with its line (pure).

The decisions behind these are in docs/kollaps.md, by the same numbers of traps.
"""

from __future__ import annotations

from enum import Enum

from deploy.topology.problems import Place, Problem

_SHOWN = 4


class Note(Enum):
    """A message, with `{}` for what it is about, and a hint."""

    UNUSED = ("not used here: {}", "the nodes run what `algorithm` and `training` say")
    NAMES = ("names are written differently here: {}", "")
    SUPERVISOR = ("the supervisor is left out, and what names it: {}", "")
    NETWORKS = ("the links name several networks ({}), which Kollaps refuses; here all are one", "")
    TRANSIT = (
        "{}: linked to more than one neighbour: paths of others may lead through, as in Kollaps",
        "of several that are equally short Kollaps takes any, here the first by name counts",
    )
    ACTIVE_PATHS = (
        "activepaths of {}: becomes the overlay; Kollaps means the first replica, here all of them "
        "are meant",
        "",
    )
    ONE_WAY = (
        "{}: no `download` and no link back: one-way, as to Kollaps' emulation core (its "
        "deployment generator takes it for two-way)",
        "write download=..., or a link the other way",
    )
    NEVER_STARTS = (
        "no join of {}: Kollaps never starts it, since the file has a <dynamic>; here it is there "
        "from the start",
        'write <schedule name="..." time="0" action="join"/>',
    )
    RECONNECT = (
        "reconnect of {}: Kollaps refuses this by mistake (it asks for twice as many disconnected "
        "replicas); here it is right",
        "",
    )
    TOGETHER = (
        "{} changes of links fall within half a second: Kollaps makes one each 0.5 s, here each "
        "happens at its own time",
        "",
    )
    ORDER = (
        "{}: a change of links after a later one in the file: Kollaps would apply them in the "
        "order of the file, here they apply in the order of time",
        "",
    )
    SHARED_LINK = (
        "{}: a change of a link that replicas share: Kollaps never finds it, here the common link "
        "changes",
        "",
    )
    ONE_DIRECTION = (
        "{}: changes in this direction only, as in Kollaps",
        "a change of values with `download` is for both; leave and join need an event each way",
    )
    WHICH = ("{}: Kollaps draws which replicas are meant; here the lowest numbers come first", "")
    LINK_IS_BACK = ("{}: joins as it was; the values given here are not used, as in Kollaps", "")
    NO_EFFECT = ("{}: has no effect", "")


class Notes:
    """Notes as they come up, each kind collected into one warning."""

    def __init__(self) -> None:
        self._found: dict[Note, tuple[Place, dict[str, None]]] = {}

    def add(self, note: Note, place: Place, subject: str = "") -> None:
        """`subject` is what it is about; it is named once however often it comes."""
        _, subjects = self._found.setdefault(note, (place, {}))
        subjects[subject] = None

    def warnings(self) -> list[Problem]:
        """All of them, in the order of the file."""
        made = []
        for note, (place, subjects) in self._found.items():
            message, hint = note.value
            names = list(subjects)
            listed = ", ".join(names[:_SHOWN])
            if (more := len(names) - _SHOWN) > 0:
                listed += f" and {more} more"
            made.append(Problem.at(place, (), message.format(listed), hint))
        return sorted(made, key=lambda w: (w.line or 0, w.column or 0))
