"""The node image of this checkout, on the host and in the guest.

    python scripts/netem-vm.d/node_image.py host    builds it; prints its name and its base's
    python scripts/netem-vm.d/node_image.py guest   names it as this checkout's, and does not build

An image's name comes from what went into it, the package index and wheels of its host included.
The guest has neither, so it would build another one; it has no network to do so, and need not: what
the engine holds was made from the same checkout.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import docker
from docker.errors import ImageNotFound

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from deploy.image import (  # noqa: E402
    FALLBACK_BASE,
    REGISTRY_BASE,
    REPOSITORY,
    ensure_image,
    gather,
)
from node.errors import EnvironmentFault  # noqa: E402


def base_of(client: docker.DockerClient) -> str:
    """The base that images here stand on."""
    try:
        client.images.get(REGISTRY_BASE)
    except ImageNotFound:
        return FALLBACK_BASE
    return REGISTRY_BASE


def host() -> None:
    client = docker.from_env()
    made = ensure_image(client, root=ROOT, report=lambda line: print(line, file=sys.stderr))
    print(made.tag, base_of(client))


def guest() -> None:
    client = docker.from_env()
    (image,) = client.images.list(REPOSITORY)
    recipe = gather(ROOT, machine=platform.machine(), environ=os.environ)
    digest = recipe.digest(str(client.images.get(base_of(client)).id))
    image.tag(REPOSITORY, digest)
    print(f"the guest's engine holds {REPOSITORY}:{digest}, made on the host as {image.tags[0]}")


if __name__ == "__main__":
    try:
        {"host": host, "guest": guest}[sys.argv[1]]()
    except EnvironmentFault as fault:
        sys.exit(f"error: {fault}")
