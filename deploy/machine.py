"""`deploy build`: the node image, built where it is missing or old."""

from __future__ import annotations

import json
import sys

from deploy import host
from deploy.image import ensure_image
from deploy.live import PlainScreen
from deploy.version import ROOT


def build(*, force: bool, as_json: bool) -> int:
    """Build the node image unless it is there; say which it is."""
    made = ensure_image(host.docker_client(), root=ROOT, force=force, report=PlainScreen().say)
    if as_json:
        facts = {"image": made.tag, "digest": made.image_id, "built": made.built}
        sys.stdout.write(json.dumps(facts | {"seconds": round(made.seconds, 3)}) + "\n")
    else:
        how = f"built in {made.seconds:.0f} s" if made.built else "is there already"
        sys.stdout.write(f"{made.tag} {how}\n")
    return 0
