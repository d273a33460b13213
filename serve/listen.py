# SPDX-License-Identifier: Apache-2.0
"""Listens with uvicorn, and closes connections whose request does not come."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from meadow.machine.errors import UsageError

HEADER_SECONDS = 10.0
"""In which the head of a connection's first request must have come."""
MOST_CONNECTIONS = 256
HEAD_BYTES = 32 << 10


class Patient(H11Protocol):
    """uvicorn's protocol, whose patience with a head that comes byte by byte has an end."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._head_timer = asyncio.get_running_loop().call_later(HEADER_SECONDS, self._expire)

    def _expire(self) -> None:
        waits: Any = self.cycle  # of a request, once its head has come
        if waits is None:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_timer.cancel()
        super().connection_lost(exc)


def listen(app: Any, host: str, port: int, tell: Callable[[str], None]) -> None:
    """Serve until Ctrl-C.  `tell` gets the address once it is bound.  Raises UsageError where it cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(MOST_CONNECTIONS)  # whoever is told the address can come at once
    except OSError as error:
        bound.close()
        raise UsageError(
            f"{host} port {port} cannot be listened on: {error.strerror}; choose another with --port"
        ) from None
    with bound:
        shown = f"[{host}]" if ":" in host else host
        tell(f"http://{shown}:{bound.getsockname()[1]}")
        config = uvicorn.Config(
            app,
            http=Patient,
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            h11_max_incomplete_event_size=HEAD_BYTES,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=5,
        )
        uvicorn.Server(config).run(sockets=[bound])
