"""The code of an algorithm that comes from another package, as a run needs it.

A run folder has it as one zip archive that Python imports from. Containers find the algorithm
there, whose image holds peerbed only, and whoever looks at the run later finds what was run.
"""

from __future__ import annotations

import importlib.util
import io
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from typing import Final

from node.algorithms import GROUP
from node.errors import ConfigError

_WITHOUT: Final = {"__pycache__", "tests"}
_BINARY: Final = {".pyc", ".so", ".pyd"}


def packed(name: str) -> bytes | None:
    """The package that registers this algorithm; None: it is one of ours.

    All of its Python modules and the files beside them, but nothing that is compiled, and nothing
    of other packages. The same bytes for the same files.

    Raises:
        ConfigError: the package cannot be found any more.
    """
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if not points or points[0].dist is None:
        return None
    point, package = points[0], points[0].dist
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for inside, data in sorted(
            {**_metadata(package), **dict(_modules(point, package))}.items()
        ):
            file.writestr(zipfile.ZipInfo(inside), data)  # of 1980: no time, so that bytes agree
    return archive.getvalue()


def _metadata(package: Distribution) -> dict[str, bytes]:
    """What `importlib.metadata` finds entry points by."""
    folder = f"{package.name.replace('-', '_')}-{package.version}.dist-info"
    texts = {name: package.read_text(name) for name in ("METADATA", "entry_points.txt")}
    return {f"{folder}/{name}": (text or "").encode() for name, text in texts.items()}


def _modules(point: EntryPoint, package: Distribution) -> Iterator[tuple[str, bytes]]:
    listed = package.read_text("top_level.txt")  # of setuptools; others have one module as a rule
    tops = listed.split() if listed else [point.module.partition(".")[0]]
    for top in tops:
        spec = importlib.util.find_spec(top)
        if spec is None or (spec.origin is None and not spec.submodule_search_locations):
            raise ConfigError(
                f"the package {package.name} says that it has a module {top}, which is not there",
                where="algorithm.name",
                remedy="Install it again: pip install -e .",
            )
        if not spec.submodule_search_locations:
            assert spec.origin is not None
            yield Path(spec.origin).name, Path(spec.origin).read_bytes()
        for folder in spec.submodule_search_locations or ():
            yield from _files(Path(folder))


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder.parent)
        if path.is_file() and path.suffix not in _BINARY and _WITHOUT.isdisjoint(inside.parts):
            yield inside.as_posix(), path.read_bytes()
