"""Where the members of a run live: containers or processes."""

from deploy.backends.base import Backend
from deploy.plan import BackendKind

__all__ = ["Backend", "make_backend"]


def make_backend(kind: BackendKind) -> Backend:
    """The backend of that kind; nothing is asked of the machine yet."""
    if kind is BackendKind.DOCKER:
        from deploy.backends.docker import DockerBackend

        return DockerBackend()
    if kind is BackendKind.SIM:
        from deploy.backends.sim import SimBackend

        return SimBackend()
    from deploy.backends.local import LocalBackend

    return LocalBackend()
