"""What passes between the two machines of a node (pure): effects of one are events of the other.

The runtime and the simulator stand between them, and do no more than this with these.
"""

from __future__ import annotations

from typing import TypeAlias

from node.core.effects import AdoptModel, DropFromShare, Offer, OpenShare, ShareOver, SkipShare
from node.core.events import (
    Event,
    Exchanged,
    ModelAdopted,
    Offered,
    PeerDropped,
    ShareOpened,
    ShareSkipped,
)

ForPeer: TypeAlias = OpenShare | SkipShare | DropFromShare | AdoptModel
"""What the member machine wants of the peer machine."""
ForMember: TypeAlias = Offer | ShareOver
"""What the peer machine tells the member machine."""


def to_peer(effect: ForPeer) -> Event:
    """The peer machine's event of a member machine's effect."""
    match effect:
        case OpenShare(round=number, attempt=attempt, peers=peers):
            return ShareOpened(round=number, attempt=attempt, peers=peers)
        case SkipShare(round=number):
            return ShareSkipped(round=number)
        case DropFromShare(round=number, peer=peer):
            return PeerDropped(round=number, peer=peer)
        case AdoptModel(round=number, parameters=parameters):
            return ModelAdopted(round=number, parameters=parameters)


def to_member(effect: ForMember) -> Event:
    """The member machine's event of a peer machine's effect."""
    match effect:
        case Offer(round=number):
            return Offered(round=number)
        case ShareOver(round=number, attempt=attempt, missing=missing):
            return Exchanged(round=number, attempt=attempt, missing=missing)
