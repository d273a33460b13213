# SPDX-License-Identifier: Apache-2.0
"""`meadowc serve` in a process of its own, as a user starts it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path


class Served:
    """A running server: its address and process."""

    def __init__(self, package: Path | None, *options: str, environment: dict[str, str] | None = None):
        port = () if "--port" in options else ("--port", "0")
        command = [sys.executable, "-m", "meadow", "serve", *([str(package)] if package else []), *port, *options]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
        )
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:
            said.append(line)
            found = re.search(r"((?:http|ws)s?://[\w.\[\]:]+:\d+) ", line)
            if found:
                self.url = found[1]
                return
        raise AssertionError("".join(said))

    def close(self) -> int:
        """End it as Ctrl-C does; its exit code."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
