# SPDX-License-Identifier: Apache-2.0
"""Where a board finds its server, what it trusts, and what it does without it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from meadow.machine.errors import UsageError

PATH = "/v1/speculate"
EXPECTED = "ws://HOST:PORT or wss://HOST:PORT is expected, as meadowc serve --target prints it"


@dataclass(frozen=True)
class Server:
    """Where a server is, and what is done without it.

    url       ws://HOST:PORT or wss://HOST:PORT
    key       that it asks for; "" for none
    ca        certificates that are trusted besides the system's, PEM; None for none
    fallback  once it is gone: "stop", or go on with the "draft" model alone
    patience  seconds in which it may come back
    """

    url: str
    key: str = ""
    ca: Path | None = None
    fallback: str = "stop"
    patience: float = 20.0

    def check(self) -> None:
        """Raise UsageError for an address that is none."""
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname or "", parts.port
            host.encode("idna")
        except (ValueError, UnicodeError):
            raise UsageError(f"--target {self.url!r} is no address; {EXPECTED}") from None
        if (
            parts.scheme not in ("ws", "wss")
            or not host
            or parts.query
            or parts.path.strip("/") not in ("", PATH.strip("/"))
        ):
            raise UsageError(f"--target {self.url!r}: {EXPECTED}")
        if not (self.key.isascii() and self.key.isprintable()):
            raise UsageError("the key has characters that a header cannot carry; printable ASCII is possible")
        if self.ca is not None and (parts.scheme != "wss" or not self.ca.is_file()):
            raise UsageError(f"--ca {self.ca}: a file of certificates, for an address that begins with wss://")
        if self.key and parts.scheme == "ws" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise UsageError(
                f"{self.url} would carry the key in clear text; use wss:// (meadowc serve --tls-cert, --tls-key)"
            )

    def trusted(self) -> ssl.SSLContext:
        """The system's certificates, and those of `ca`.  Raises UsageError for a file that has none."""
        made = ssl.create_default_context()
        if self.ca is not None:
            try:
                made.load_verify_locations(str(self.ca))
            except (OSError, ssl.SSLError):
                raise UsageError(f"--ca {self.ca} has no certificates in PEM") from None
        return made

    @property
    def address(self) -> str:
        return self.url.rstrip("/") + ("" if urlsplit(self.url).path.strip("/") else PATH)
