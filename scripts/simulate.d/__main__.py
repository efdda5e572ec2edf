"""`scripts/simulate`: the harness is part of the tests (`tests/simulation`)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.simulation.simulate import main

if __name__ == "__main__":
    sys.exit(main())
