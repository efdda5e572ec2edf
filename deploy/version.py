"""Which peerbed this is."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path
from typing import Final

from deploy import host

ROOT: Final = Path(__file__).resolve().parents[1]
"""The checkout that this code lies in."""


def version() -> str:
    """The version of this source tree, or, without one, of the installed package."""
    try:
        return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
    except (OSError, KeyError):
        pass
    try:
        return metadata.version("peerbed")
    except metadata.PackageNotFoundError:
        return "unknown"


def commit() -> str | None:
    """The checkout's commit, with `-dirty` where something was changed; None without one."""
    done = host.run_quietly(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], timeout_s=5
    )
    return done.output.strip() if done.returncode == 0 else None
