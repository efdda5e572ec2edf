"""The error tree: whose fault it is decides the exit status and what a user sees.

    PeerbedError          anything that a user may be told about, never with a traceback
    +- ConfigError        the input is wrong                            exit status 2
    +- EnvironmentFault   the machine lacks something, with the remedy  exit status 3
    +- RunFailed          the run started and did not end well          exit status 1
    +- PeerFault          another member broke the protocol: counted and refused, never fatal

Anything else that is raised is a defect of ours and keeps its traceback.
"""

from __future__ import annotations


class PeerbedError(Exception):
    """Something to tell a user: what failed, where, and what to do about it.

    Args:
        message: what failed, in one sentence.
        where: file:line, node or link that it concerns.
        remedy: what to do, as an instruction.
    """

    exit_status = 1

    def __init__(
        self, message: str, *, where: str | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        return self.said_by("")

    def said_by(self, member: str) -> str:
        """The same in a record of a member, whose name need not be in it."""
        text = f"{self.where}: {self.message}" if self.where not in (None, member) else self.message
        return f"{text}\n  {self.remedy}" if self.remedy else text


class ConfigError(PeerbedError):
    """The input (topology file, option, node configuration) is wrong."""

    exit_status = 2


class EnvironmentFault(PeerbedError):
    """The machine lacks something that was asked for."""

    exit_status = 3


class RunFailed(PeerbedError):
    """A run started and did not end well."""


class PeerFault(PeerbedError):
    """Another member sent something malformed, stale or out of state."""
