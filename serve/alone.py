# SPDX-License-Identifier: Apache-2.0
"""A server that has a target and no package: links to boards, health and figures."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.responses import Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from meadow.serve.address import PATH
from meadow.serve.app import LOCAL, Bounded, Settings, guard, tell_errors
from meadow.serve.boards import Boards, route
from meadow.serve.figures import Figures, RoundFigures
from meadow.serve.rounds import Rounds, facts
from meadow.targets.target import Target

KNOWN = (PATH, "/health", "/metrics")


def rounds_of(target: Target, figures: Figures, tau: float | None = None) -> Rounds:
    """The rounds of a target, counted among a server's figures; `tau` as rounds.py has it."""
    made = Rounds(target, lambda what, number: counted.tell(what, number), tau)
    counted = RoundFigures(figures.registry, lambda: made.boards)
    return made


def app_for(target: Target, settings: Settings, tau: float | None = None) -> tuple[FastAPI, Rounds]:
    """The application, and the rounds that its owner closes."""
    figures = Figures(lambda: rounds.waiting, lambda: rounds.waiting > 0)
    rounds = rounds_of(target, figures, tau)
    app = FastAPI(title="meadow", openapi_url=None, docs_url=None, redoc_url=None)
    guard(app, settings.key, figures)
    tell_errors(app, KNOWN)
    route(app, Boards(rounds, settings.key))

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", **facts(rounds)}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(figures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    app.add_middleware(Bounded, most_bytes=settings.most_bytes)
    if "*" not in settings.hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL, *settings.hosts])
    return app, rounds
