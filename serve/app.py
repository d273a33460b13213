# SPDX-License-Identifier: Apache-2.0
"""The server's paths: completions, models, health, figures and the chat page.  Who may ask, how much, and what errors look like.

Work is the queue's (queue.py); shapes are wire.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi import Request as Http
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException as Refusal
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meadow.machine.errors import MeadowError
from meadow.runtime.answer import Answer
from meadow.runtime.drafts import drafts_by_name
from meadow.runtime.session import Session
from meadow.runtime.text.sampler import Sampler
from meadow.serve.figures import Figures
from meadow.serve.queue import Ending, Full, Job, Worker
from meadow.serve.schema import ChatRequest, R, Request, TextRequest, Wrong, parse
from meadow.serve.wire import Completion, error, event

BODY_SECONDS = 30.0
"""In which a request's body must have come."""
DRAINED = 8
"""Times the longest body that are read before a refusal: a client that still sends would not see it."""
QUIET_SECONDS = 15.0
"""After which a stream that waits says that it still does."""
GONE = "meadow.gone"
"""Key of a request's scope: an event that is set once its client has gone."""
OPEN = ("/", "/health")
"""Paths that need no key."""
LOCAL = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Settings:
    """Of a server.

    model       the name that the package goes by
    key         that requests must bring; "" for none
    most_bytes  of a request's body
    most_tokens of an answer
    drafts      who proposes tokens that runs verify: "" for nobody, or as runtime.drafts names it
    hosts       names under which it may be asked for, beside this machine's; ("*",) for all
    """

    model: str
    key: str = ""
    most_bytes: int = 1 << 20
    most_tokens: int = 1024
    hosts: tuple[str, ...] = ()
    drafts: str = ""


class Bounded:
    """Middleware: a body of bounded size that comes in bounded time."""

    def __init__(self, app: ASGIApp, most_bytes: int):
        self.app, self.most_bytes = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"0")
        length = int(told) if told.isdigit() else DRAINED * self.most_bytes + 1
        if length > DRAINED * self.most_bytes:
            await self._refuse(
                send, scope, receive, 413, f"the body has {told.decode()[:20]} bytes; {self.most_bytes} are taken"
            )
            return
        body, size, more = b"", 0, True
        ends = asyncio.get_running_loop().time() + BODY_SECONDS
        while more and size <= DRAINED * self.most_bytes:
            try:
                message = await asyncio.wait_for(receive(), ends - asyncio.get_running_loop().time())
            except (TimeoutError, asyncio.TimeoutError):
                await self._refuse(send, scope, receive, 408, f"the body did not come within {BODY_SECONDS:g} s")
                return
            if message["type"] != "http.request":
                return
            piece = message.get("body", b"")
            more, size = message.get("more_body", False), size + len(piece)
            body = body + piece if size <= self.most_bytes else b""  # what is too long is read and forgotten
        if size > self.most_bytes:
            await self._refuse(
                send, scope, receive, 413, f"the body has more than {self.most_bytes} bytes, which are taken"
            )
            return
        given, gone = False, asyncio.Event()
        scope[GONE] = gone

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        async def replay() -> Message:
            nonlocal given
            if given:
                await gone.wait()
                return {"type": "http.disconnect"}
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        watching = asyncio.create_task(watch())
        try:
            await self.app(scope, replay, send)
        finally:
            watching.cancel()

    async def _refuse(self, send: Send, scope: Scope, receive: Receive, status: int, message: str) -> None:
        answer = JSONResponse(error(status, message), status, headers={"Connection": "close"})
        await answer(scope, receive, send)


class Server:
    """The package behind the paths."""

    def __init__(self, session: Session, settings: Settings):
        self.session, self.settings = session, settings
        self.worker = Worker(session, lambda what, number: self.figures.tell(what, number))
        self.figures = Figures(lambda: self.worker.waiting, lambda: self.worker.running is not None)
        self._text = threading.Lock()  # the tokenizer's: requests are made into tokens beside the session's thread
        self.fingerprint = f"meadow-{session.package.design.id}"

    # -- what is asked ---------------------------------------------------------------------------------------------

    def tokens_of(self, request: Request) -> list[int]:
        """Token ids of a request's prompt.  Raises MeadowError."""
        tokenizer = self.session.tokenizer
        if isinstance(request, ChatRequest):
            with self._text:  # one template process
                return tokenizer.conversation([message.plain for message in request.messages])
        assert isinstance(request, TextRequest)
        return tokenizer.encode(request.prompt) if isinstance(request.prompt, str) else request.prompt

    def limit_of(self, request: Request, prompt: int) -> int:
        """Tokens of an answer at most.  Raises HTTPException where the context has no room for a prompt."""
        room = self.session.context - prompt + 1
        if room < 1:
            message = f"the prompt has {prompt} tokens; the context of this package holds {self.session.context}"
            raise HTTPException(
                400,
                error(
                    400,
                    message,
                    "messages" if isinstance(request, ChatRequest) else "prompt",
                    "context_length_exceeded",
                ),
            )
        wanted = self.settings.most_tokens if request.limit is None else request.limit
        return min(wanted, room, self.settings.most_tokens)

    def check_model(self, name: str) -> None:
        if name and name != self.settings.model:
            message = f"model {name!r} is not here; {self.settings.model} is (GET /v1/models)"
            raise HTTPException(404, error(404, message, "model", "model_not_found"))

    async def complete(self, request: Request, http: Http) -> Response:
        """An answer, whole or as a stream."""
        self.check_model(request.model)
        if self.worker.failed:
            raise HTTPException(503, error(503, f"the device failed: {self.worker.failed}; start the server again"))
        try:
            tokens = await asyncio.to_thread(self.tokens_of, request)
            limit = self.limit_of(request, len(tokens))
            self.session.check_tokens(tokens, 0)
            sampler = Sampler(request.sampling)
        except MeadowError as wrong:
            raise HTTPException(400, error(400, str(wrong))) from None
        stop, top, end = tuple(request.stop or ()), request.top, self.session.tokenizer.end_tokens

        name = self.settings.drafts
        ahead = request.sampling.takes_likeliest and top is None and not name

        def begin(session: Session) -> Answer:
            drafts = drafts_by_name(name, session.package) if name else None
            return Answer(session, tokens, limit, sampler, stop, top, end, ahead, drafts)

        host = http.client.host if http.client else ""
        owner = key_of(http).hex() if self.settings.key else host  # a key that nobody checked says nothing
        job = Job(owner, request.user or "", begin, asyncio.get_running_loop())
        try:
            self.worker.submit(job)
        except Full as full:
            raise HTTPException(429, error(429, str(full), code="queue_full"), {"Retry-After": "5"}) from None
        made = Completion(request, self.settings.model, self.fingerprint, self._decode)
        if request.stream:
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            return StreamingResponse(self._stream(job, made), media_type="text/event-stream", headers=headers)
        return JSONResponse(await self._whole(job, made, http))

    def _decode(self, ids: list[int]) -> str:
        return str(self.session.tokenizer.library.decode(ids, skip_special_tokens=False))

    async def _whole(self, job: Job, made: Completion, http: Http) -> dict[str, Any]:
        left = asyncio.create_task(http.scope[GONE].wait())
        try:
            while True:
                next_event = asyncio.create_task(job.events.get())
                await asyncio.wait({next_event, left}, return_when=asyncio.FIRST_COMPLETED)
                if not next_event.done():
                    next_event.cancel()
                    raise HTTPException(499, error(499, "the client has gone"))
                happened = next_event.result()
                if isinstance(happened, BaseException):
                    raise HTTPException(_status_of(happened), error(_status_of(happened), _words(happened)))
                if happened is None:
                    assert job.answer is not None
                    return made.whole(job.answer)
        finally:
            left.cancel()
            self.worker.cancel(job)

    async def _stream(self, job: Job, made: Completion) -> AsyncIterator[bytes]:
        try:
            yield made.opening()
            while True:
                try:
                    happened = await asyncio.wait_for(job.events.get(), QUIET_SECONDS)
                except (TimeoutError, asyncio.TimeoutError):
                    yield b": waiting\n\n"
                    continue
                if isinstance(happened, BaseException):
                    yield event(error(_status_of(happened), _words(happened)))
                    return
                assert job.answer is not None
                if happened is None:
                    yield made.closing(job.answer)
                    return
                yield made.piece(happened, job.answer)
        finally:  # also where the client has gone
            self.worker.cancel(job)

    # -- what there is to say --------------------------------------------------------------------------------------

    def model_row(self) -> dict[str, Any]:
        return {
            "id": self.settings.model,
            "object": "model",
            "created": 0,
            "owned_by": "meadow",
            "context_length": self.session.context,
        }

    def health(self) -> dict[str, Any]:
        device, package = self.session.device, self.session.package
        state = "failed" if self.worker.failed else "busy" if self.worker.running is not None else "ok"
        return {
            "status": state,
            "model": self.settings.model,
            "board": package.design.board,
            "device": device.name,
            "emulated": device.emulated,
            "context": self.session.context,
            "waiting": self.worker.waiting,
            "chat": self.session.tokenizer.template is not None,
            **({"error": self.worker.failed} if self.worker.failed else {}),
        }


async def request_of(kind: type[R], http: Http) -> R:
    """What a request asks.  Raises HTTPException with all that is wrong.  Only JSON that says so is read: a page of another origin
    cannot send it without asking first."""
    if http.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, error(415, "the body is JSON; say so: Content-Type: application/json"))
    try:
        return parse(kind, await http.body())
    except Wrong as wrong:
        field = next((field for field, _ in wrong.problems if field), None)
        raise HTTPException(400, error(400, str(wrong), field)) from None


def _words(happened: BaseException) -> str:
    return (
        str(happened)
        if isinstance(happened, (MeadowError, Ending))
        else f"the server failed: {type(happened).__name__}"
    )


def _status_of(happened: BaseException) -> int:
    if isinstance(happened, Ending):
        return 503
    return 400 if isinstance(happened, MeadowError) and happened.exit_code == 2 else 500


def key_of(http: HTTPConnection) -> bytes:
    """What follows `Bearer`, as it was sent."""
    sent: bytes = dict(http.scope["headers"]).get(b"authorization", b"")
    scheme, _, key = sent.partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""


def app_of(session: Session, settings: Settings) -> FastAPI:
    """The application.  Raises ToolMissing or UsageError for a package without a tokenizer."""
    assert session.tokenizer is not None
    server = Server(session, settings)

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(server.worker.close)

    app = FastAPI(title="meadow", openapi_url=None, docs_url=None, redoc_url=None, lifespan=life)
    app.state.server = server
    guard(app, settings.key, server.figures)
    tell_errors(app, KNOWN)
    _route(app, server)
    app.add_middleware(Bounded, most_bytes=settings.most_bytes)
    if "*" not in settings.hosts:  # a page of another origin that gives its name this machine's address is not answered
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL, *settings.hosts])
    return app


def guard(app: FastAPI, key_text: str, figures: Figures) -> None:
    """Let nobody ask who has not the key, and count what is answered."""
    key = key_text.encode()

    @app.middleware("http")
    async def guarded(http: Http, go_on: Callable[[Http], Awaitable[Response]]) -> Response:
        """Who has no key is not answered; every answer is counted."""
        path = http.url.path
        if key and path not in OPEN and not hmac.compare_digest(key_of(http), key):
            message = "no key, or a wrong one; send Authorization: Bearer KEY"
            answer: Response = JSONResponse(error(401, message, code="invalid_api_key"), 401)
        else:
            answer = await go_on(http)
        known = path if path in KNOWN else "other"
        figures.requests.labels(known, str(answer.status_code)).inc()
        return answer


def tell_errors(app: FastAPI, known: tuple[str, ...]) -> None:
    """Every refusal has the shape of an error."""

    @app.exception_handler(Refusal)
    async def refused(http: Http, wrong: Refusal) -> JSONResponse:
        detail: Any = wrong.detail  # a text where the framework refuses, a body where we do
        path, status = http.url.path[:200], wrong.status_code
        said = {
            404: f"nothing is at {path}; there are {', '.join(known)}",
            405: f"{path} does not take {http.method}",
        }
        body = detail if isinstance(detail, dict) else error(status, said.get(status, str(detail)))
        return JSONResponse(body, status, headers=wrong.headers)


def _route(app: FastAPI, server: Server) -> None:
    page = (resources.files("meadow.serve") / "page.html").read_text()

    @app.post("/v1/chat/completions")
    async def chat(http: Http) -> Response:
        return await server.complete(await request_of(ChatRequest, http), http)

    @app.post("/v1/completions")
    async def text(http: Http) -> Response:
        return await server.complete(await request_of(TextRequest, http), http)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [server.model_row()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        server.check_model(name)
        return server.model_row()

    @app.get("/health")
    async def health() -> JSONResponse:
        found = server.health()
        return JSONResponse(found, 503 if found["status"] == "failed" else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(server.figures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/")
    async def home() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": POLICY, "X-Frame-Options": "DENY"})


KNOWN = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics", "/")
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
