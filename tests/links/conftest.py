"""These tests need root, namespaces and tc.

With PEERBED_REQUIRE_LINKS=1 a lack of them fails, with PEERBED_REQUIRE_NETEM=1 a kernel without
netem does: in the guest of scripts/netem-vm, no netem case is skipped unnoticed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from node.config import Emulator
from node.links.kernel import Capabilities
from tests.links.bed import TOLERANCE
from tests.links.netns import ROOT, why_not

_PROBE = "import json; from node.links import kernel; print(json.dumps(kernel.probe().as_dict()))"


@pytest.fixture(scope="session", autouse=True)
def _namespaces() -> None:
    if (reason := why_not()) is None:
        return
    if os.environ.get("PEERBED_REQUIRE_LINKS") == "1":
        pytest.fail(f"PEERBED_REQUIRE_LINKS=1, but links cannot be tested: {reason}")
    pytest.skip(f"links cannot be tested here: {reason}")


@pytest.fixture(scope="session")
def able(_namespaces: None) -> Capabilities:
    """What this kernel can do, probed in a namespace of its own."""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", _PROBE],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    found = Capabilities(**json.loads(done.stdout))
    if os.environ.get("PEERBED_REQUIRE_LINKS") == "1" and not (found.netem or found.nfqueue):
        pytest.fail("PEERBED_REQUIRE_LINKS=1, but this kernel has neither netem nor NFQUEUE")
    if os.environ.get("PEERBED_REQUIRE_NETEM") == "1" and not found.netem:
        pytest.fail("PEERBED_REQUIRE_NETEM=1, but this kernel has no netem")
    return found


@pytest.fixture(scope="session")
def tolerance() -> float:
    """How much more room figures have on this machine: PEERBED_TOLERANCE."""
    return TOLERANCE


@pytest.fixture(params=[Emulator.NETEM, Emulator.NFQUEUE], ids=lambda e: str(e.value))
def emulator(request: pytest.FixtureRequest, able: Capabilities) -> Emulator:
    """Each emulator that the kernel has."""
    wanted: Emulator = request.param
    if not (able.netem if wanted is Emulator.NETEM else able.nfqueue):
        pytest.skip(f"this kernel has no {wanted.value}")
    return wanted
