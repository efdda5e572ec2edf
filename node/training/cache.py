"""Arrays that were made once, kept in a folder for all later runs and all nodes of one.

`$PEERBED_CACHE`, else `$XDG_CACHE_HOME/peerbed`, else `~/.cache/peerbed`; where none of them can be
written, a folder of the user's among the temporary files. Many processes may ask at once: one makes
the arrays, the others wait, and nobody sees half of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from node.errors import EnvironmentFault
from node.training.dataset import Array


def arrays(key: str, make: Callable[[Path], None]) -> dict[str, Array]:
    """The arrays kept under a key, mapped read-only: processes share their memory.

    Args:
        key: a file name; says all that the arrays hang on.
        make: writes `NAME.npy` files into an empty folder.

    Raises:
        EnvironmentFault: they cannot be written or read back; and what `make` raises.
    """
    folder = _find(key) or _made(key, make)
    try:
        return {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
    except (OSError, ValueError, EOFError) as error:
        raise EnvironmentFault(
            f"what is kept in {folder} cannot be read: {error}", remedy="Delete that folder."
        ) from error


def folders() -> tuple[Path, ...]:
    """Where arrays may be kept, first choice first."""
    places = []
    if own := os.environ.get("PEERBED_CACHE"):
        places.append(Path(own))
    if shared := os.environ.get("XDG_CACHE_HOME"):
        places.append(Path(shared) / "peerbed")
    with contextlib.suppress(RuntimeError):  # no home
        places.append(Path.home() / ".cache" / "peerbed")
    return (*places, Path(tempfile.gettempdir()) / f"peerbed-{os.getuid()}")


def _find(key: str) -> Path | None:
    return next((place / key for place in folders() if (place / key).is_dir()), None)


def _made(key: str, make: Callable[[Path], None]) -> Path:
    place = _writable()
    target = place / key
    try:
        with _alone(place / f"{key}.lock"):
            if not target.is_dir():
                _make(target, make)
    except OSError as error:
        raise EnvironmentFault(
            f"{place} cannot keep prepared data: {error}",
            remedy="Name a folder with room on its disk in the environment variable PEERBED_CACHE.",
        ) from error
    return target


def _make(target: Path, make: Callable[[Path], None]) -> None:
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=target.parent))
    try:
        make(draft)
        draft.chmod(0o755)
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _writable() -> Path:
    for place in folders():
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            if os.access(place, os.W_OK) and place.stat().st_uid == os.getuid():
                return place
    raise EnvironmentFault(
        f"no folder for prepared data: {', '.join(map(str, folders()))} cannot be written",
        remedy="Name one in the environment variable PEERBED_CACHE.",
    )


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time; the kernel frees the lock of one that dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
