"""Names used across the core."""

from __future__ import annotations

from typing import Final, NewType

NodeId = NewType("NodeId", str)
"""A member's name as the topology file gives it; unique in a run."""

COORDINATOR: Final = NodeId("coordinator")
"""The name under which machines address the coordinator; no node may take it."""
