"""Prints what the guest needs of Python's packages: all pins of pyproject.toml but a few.

Training is the node image's business, and lint, types and code generation the host's.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

NOT_THERE = re.compile(r"(ruff|mypy|grpcio-tools|types-.*)==")

if __name__ == "__main__":
    project = tomllib.loads((Path(sys.argv[1]) / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pins = [*project["dependencies"], *extras["deploy"], *extras["dev"]]
    print(*(pin for pin in pins if not NOT_THERE.match(pin)), sep="\n")
