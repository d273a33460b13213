# SPDX-License-Identifier: Apache-2.0
"""Requests that are wrong in one thing, to the server of a package in this process."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

from fuzz.damage import TEXTS, change, raw

PATHS = {
    "/v1/chat/completions": {
        "model": "tiny",
        "messages": [{"role": "system", "content": "be"}, {"role": "user", "content": "Hello"}],
        "max_tokens": 3,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.01,
        "repeat_penalty": 1.1,
        "seed": 1,
        "stop": ["x", "y"],
        "logprobs": True,
        "top_logprobs": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "/v1/completions": {"model": "tiny", "prompt": "The", "max_tokens": 3, "logprobs": 2, "echo": False, "stop": "q"},
}


def made(random_: random.Random) -> dict[str, str]:
    """Method, path, headers and body (in base64) of a request."""
    path = random_.choice(sorted(PATHS))
    body: Any = PATHS[path]
    for _ in range(random_.choice((1, 1, 2, 3))):
        body = change(random_, body)
    data = json.dumps(body).encode()
    if random_.random() < 0.2:
        data = raw(random_, data)
    if random_.random() < 0.02:
        data = random_.choice((b"[" * 100_000, b"", b"null", b'"' + b"a" * 2_000_000 + b'"', b'{"prompt":1e999}'))
    headers = {"content-type": "application/json"}
    if random_.random() < 0.1:
        name = random_.choice(("content-type", "host", "authorization", "content-length", "expect", "accept"))
        headers[name] = random_.choice(TEXTS[:6]).encode("ascii", "ignore").decode().replace("\0", "")
    method = random_.choice(("POST",) * 18 + ("GET", "PUT"))
    if random_.random() < 0.05:
        path = random_.choice(("/", "/metrics", "/health", "/v1/models", "/v1/models/x", "/../etc/passwd", "//", "/x"))
    return {
        "method": method,
        "path": path,
        "headers": json.dumps(headers),
        "body": base64.b64encode(data).decode(),
    }


@cache
def _served(package: Path) -> tuple[Any, asyncio.AbstractEventLoop]:
    from meadow.runtime.session import Session
    from meadow.serve.app import Settings, app_of

    return app_of(Session(package), Settings("tiny", most_tokens=4)), asyncio.new_event_loop()


def send(package: Path, request: dict[str, str]) -> str:
    """Send it; "ok" or "refused".  What the application raises is raised; so is an answer of 500, or none."""
    app, loop = _served(package)
    headers = {"host": "localhost", **json.loads(request["headers"])}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request["method"],
        "path": request["path"],
        "raw_path": request["path"].encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(k.encode(), v.encode("latin-1", "replace")) for k, v in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    status, kind, body = 0, b"", b""
    message = {"type": "http.request", "body": base64.b64decode(request["body"]), "more_body": False}
    waiting = [message]

    async def receive() -> dict[str, Any]:
        return waiting.pop() if waiting else await asyncio.sleep(3600, {})

    async def answer(part: Any) -> None:
        nonlocal status, kind, body
        if part["type"] == "http.response.start":
            status, kind = part["status"], dict(part["headers"]).get(b"content-type", b"")
        body += part.get("body", b"")

    loop.run_until_complete(app(scope, receive, answer))
    text = body.decode("utf-8", "replace")
    if status in (0, 500) or "the server failed" in text:
        raise RuntimeError(f"the server answered {status}: {text[:300]}")
    if status >= 400 and request["path"] in PATHS and kind == b"application/json":
        assert isinstance(json.loads(text)["error"]["message"], str)
    return "ok" if status < 400 else "refused"
