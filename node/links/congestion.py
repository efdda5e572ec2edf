"""TCP's congestion control where TCP measures the network: the same on every machine."""

from __future__ import annotations

import contextlib
import socket
from typing import Final

_CONTROLS: Final = (b"cubic", b"reno")
"""The first that there is, whatever the machine's default: BBR, for one, sends four packets a round
trip every ten seconds, to see how short that can be."""


def control_by_loss(connection: socket.socket) -> None:
    """Let this connection fill a path until packets are lost; by default, where the kernel has no
    such control."""
    for name in _CONTROLS:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
            return
