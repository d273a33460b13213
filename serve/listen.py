# SPDX-License-Identifier: Apache-2.0
"""Listens with uvicorn, and closes connections whose request does not come."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from meadow.machine.errors import UsageError

HEADER_SECONDS = 10.0
"""In which the head of a connection's first request must have come."""
MOST_CONNECTIONS = 512
HEAD_BYTES = 32 << 10
MOST_FRAME = 1 << 20
"""Bytes of a message of a board."""


class Patient(H11Protocol):
    """uvicorn's protocol, whose patience with a head that comes byte by byte has an end."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._upgraded = False
        self._look()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def handle_websocket_upgrade(self, event: Any) -> None:
        """From here on it is a link to a board, which has patience of its own (boards.py)."""
        self._upgraded = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().handle_websocket_upgrade(event)

    def _look(self) -> None:
        """A head is waited for, from its first byte, unless a request is being answered."""
        if self._upgraded:
            return
        cycle: Any = self.cycle
        answering = cycle is not None and not cycle.response_complete
        if answering and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif not answering and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(HEADER_SECONDS, self._expire)

    def _expire(self) -> None:
        self._timer = None
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)


class Pressed(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, which ends a link whose other side pings and does not read: nothing else bounds what waits to be sent."""

    def handle_ping(self) -> None:
        super().handle_ping()
        if self.transport.get_write_buffer_size() > MOST_FRAME:
            self.transport.abort()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()  # who does not answer takes no closing either


class Ended(uvicorn.Server):
    """uvicorn's server, which says that it is to end before it waits for what is under way."""

    def __init__(self, config: uvicorn.Config, stop: Callable[[], None]):
        super().__init__(config)
        self._stop = stop

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._stop()
        super().handle_exit(sig, frame)


@dataclass(frozen=True)
class Certificate:
    """Of a server that is spoken to over TLS: PEM files."""

    chain: Path
    key: Path

    def check(self) -> None:
        """Raise UsageError for files that are none."""
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.chain, self.key)
        except (OSError, ssl.SSLError, ValueError) as wrong:
            raise UsageError(
                f"--tls-cert {self.chain} and --tls-key {self.key} are no certificate and its key: {wrong}"
            ) from None


def listen(
    app: Any,
    host: str,
    port: int,
    tell: Callable[[str], None],
    stop: Callable[[], None],
    certificate: Certificate | None = None,
) -> None:
    """Serve until Ctrl-C.  `tell` gets the address once it is bound, `stop` is called before what is under way is waited for.

    Raises UsageError where it cannot be bound, or the certificate is none.
    """
    if certificate is not None:
        certificate.check()
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
        tell(f"{'http' if certificate is None else 'https'}://{shown}:{bound.getsockname()[1]}")
        config = uvicorn.Config(
            app,
            http=Patient,
            ws=Pressed,
            ws_max_size=MOST_FRAME,
            ws_ping_interval=20.0,
            ws_ping_timeout=20.0,
            ws_per_message_deflate=False,
            ssl_certfile=None if certificate is None else str(certificate.chain),
            ssl_keyfile=None if certificate is None else str(certificate.key),
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            h11_max_incomplete_event_size=HEAD_BYTES,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=5,
        )
        Ended(config, stop).run(sockets=[bound])
