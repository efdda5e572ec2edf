"""The command `deploy`: turns every error that a user may be told about into one message.

Exit statuses: 0 done and valid, 1 the run failed or is invalid, 2 the input is wrong, 3 the machine
lacks something. Anything else that is raised is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Final

from node.errors import PeerbedError

_INSTALL: Final = (
    "pip install -e '.[deploy]' in a checkout of peerbed, or: pip install 'peerbed[deploy]'"
)
_NEEDED: Final = (
    "click", "defusedxml", "docker", "jinja2", "matplotlib", "networkx", "numpy", "pydantic",
    "rich", "yaml",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    # All at once and before anything is done, not in the middle of a run.
    if missing := [name for name in _NEEDED if not _there(name)]:
        return _report(f"these Python packages are missing: {', '.join(missing)}\n  {_INSTALL}", 3)
    import click

    from deploy.cli import cli

    try:
        status = cli.main(args=arguments, prog_name="deploy", standalone_mode=False)
    except PeerbedError as error:
        return _report(str(error), error.exit_status)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        return _report("interrupted", 1)
    except BrokenPipeError:
        # Whoever read our output has enough; Python must not complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status if isinstance(status, int) else 0


def _there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # somebody put None into sys.modules: not to be imported
        return False


def _report(message: str, status: int) -> int:
    sys.stderr.write(f"deploy: {message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
