# SPDX-License-Identifier: Apache-2.0
"""The errors a user can meet, each with the exit code the command line gives it.

Not for programming mistakes: those stay ordinary Python exceptions, and a traceback of one is a bug report.
"""

from __future__ import annotations


class MeadowError(Exception):
    """Something the user can act on.  The message says what was found, what was allowed and what to do."""

    exit_code = 2


class UsageError(MeadowError):
    """Wrong arguments, a file that is not what the command takes, a path that cannot be used."""

    exit_code = 2


class UnsupportedModel(MeadowError):
    """The model is well formed, but this compiler cannot serve it.  Carries every problem, not the first."""

    exit_code = 3

    def __init__(self, message: str, problems: tuple[tuple[str, str, str], ...] = ()):
        super().__init__(message)
        self.problems = problems
        """Rows of (where, what was found, what to do)."""

    def __str__(self) -> str:
        text = super().__str__()
        for where, found, todo in self.problems:
            text += f"\n  - {where}: {found}" + (f"; {todo}" if todo else "")
        return text


class ResourceExceeded(MeadowError):
    """The design or the model does not fit the board."""

    exit_code = 5


class ToolMissing(MeadowError):
    """A program or an optional Python package is not installed."""

    exit_code = 6


class DeviceError(MeadowError):
    """The device, or the package on its way to the device, is not in order."""

    exit_code = 7
