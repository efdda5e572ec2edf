"""The command line: verbs and options, no logic. What a verb does is imported when it runs, so that
`deploy --help` and shell completion are quick.
"""

from __future__ import annotations

import click

from deploy.commands import (
    checking,
    comparing,
    control,
    convert,
    files,
    looking,
    machine,
    running,
    simulating,
    verify,
)

_EPILOG = """\b
Examples:
  deploy up topologies/ring.yaml            run it, watch it, read the verdict
  deploy up ring.yaml --set stop.rounds=50  any key of the file
  deploy up ring.yaml -d; deploy wait       in the background
  deploy sim topologies/ring.yaml           the same in virtual time, also of thousands of nodes
  deploy link set n-0 n-1 --rate 5mbit      change the run that is under way
  deploy results                            all runs so far
  deploy doctor                             what this machine has and lacks

\b
Exit status: 0 done and valid; 1 the run failed or is not valid; 2 the input is
wrong; 3 the machine lacks something.

\b
Completion in bash: eval "$(_DEPLOY_COMPLETE=bash_source deploy)"
(zsh_source and fish_source for zsh and fish)
"""


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="peerbed", prog_name="deploy")
def cli() -> None:
    """Learning among peers on a network that is what the topology file says, and proves it."""


for _group in (
    running,
    simulating,
    control,
    verify,
    looking,
    comparing,
    checking,
    files,
    convert,
    machine,
):
    for _command in _group.COMMANDS:
        cli.add_command(_command)
