# SPDX-License-Identifier: Apache-2.0
"""Chat templates: Jinja in its sandbox, as transformers renders them, in a process of their own with bounds on time and memory.

A template comes with the model, so from anywhere: it may loop for ever, allocate without bound, or fail in any way.
"""

from __future__ import annotations

import contextlib
import json
import select
import signal
import subprocess
import sys
import time
import weakref

from meadow.machine.errors import DeviceError, ToolMissing
from meadow.runtime.text import template_worker

SECONDS = 10.0
"""Time that a template may take: real ones take some milliseconds."""
INSTEAD = "use plain completion (--raw)"


class Template:
    """One template, and the process that renders it once it is asked."""

    def __init__(self, text: str):
        self.text = text
        self.process: subprocess.Popen[bytes] | None = None

    def render(self, messages: list[dict[str, str]], names: dict[str, str]) -> str:
        """The prompt of `messages`.  Raises DeviceError when the template fails, or does not end.

        names  bos_token, eos_token and such
        """
        request = json.dumps({"template": self.text, "messages": messages, "names": names}).encode() + b"\n"
        found = json.loads(self._ask(request))
        if "error" in found:
            raise DeviceError(f"the model's chat template {found['error']}; {INSTEAD}")
        return str(found["text"])

    def _ask(self, request: bytes) -> bytes:
        """The worker's line.  A worker that was interrupted or does not answer is ended, and the next question gets another."""
        process = self.process or self._start()
        self.process = None  # until it has answered
        assert process.stdin is not None and process.stdout is not None
        ends, line = time.monotonic() + SECONDS, b""
        try:
            process.stdin.write(request)
            process.stdin.flush()
            while not line.endswith(b"\n"):
                left = ends - time.monotonic()
                if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                    raise DeviceError(f"the model's chat template did not end within {SECONDS:g} s; {INSTEAD}")
                piece = process.stdout.read(1 << 20)
                if not piece:
                    raise DeviceError(f"the model's chat template ended its process; {INSTEAD}")
                line += piece
        except BrokenPipeError:
            raise DeviceError(f"the model's chat template ended its process; {INSTEAD}") from None
        finally:
            if not line.endswith(b"\n"):
                _end(process)
        self.process = process
        return line

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            import jinja2  # noqa: F401
        except ImportError:
            raise ToolMissing("chat templates need jinja2: pip install 'meadow-fpga[cli]'") from None
        process = subprocess.Popen(
            [sys.executable, "-I", template_worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        weakref.finalize(self, _end, process)
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        process.send_signal(signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
