# SPDX-License-Identifier: Apache-2.0
"""serve: a package behind an OpenAI-compatible server with a chat page."""

from __future__ import annotations

import ipaddress
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from meadow.cli.drafting import lookup_option
from meadow.cli.exits import numbers
from meadow.cli.output import emit_json, err, json_option, options
from meadow.cli.run import device_option, header, opened
from meadow.cli.trust import RUNS_CODE, require_trust, trust_option
from meadow.machine.errors import UsageError
from meadow.machine.package.read import load

if TYPE_CHECKING:
    from meadow.runtime.session import Session
    from meadow.serve.app import Settings
    from meadow.serve.listen import Certificate
    from meadow.targets.target import Target


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


tls_options = options(
    click.option(
        "--tls-cert", type=click.Path(path_type=Path), default=None, help="Certificate chain, PEM: speak TLS."
    ),
    click.option("--tls-key", type=click.Path(path_type=Path), default=None, help="Its private key, PEM."),
)
"""--tls-cert and --tls-key."""


target_options = options(
    click.option(
        "--target",
        default="",
        metavar="KIND:PATH",
        help="Verify the drafts of boards (meadowc run --target) with onnx:FILE, gguf:FILE, hf:DIR or package:DIR.",
    ),
    click.option("--exits", default="", metavar="N,N,...", help="Layers after which the target tells early."),
    click.option(
        "--tau",
        type=click.FloatRange(0, 1),
        default=None,
        help="An exit tells where it is as sure as this of each token it names [default: 0.6].",
    ),
    click.option(
        "--exits-file",
        type=click.Path(path_type=Path),
        default=None,
        help="Maps of meadowc exits fit [default: exits.safetensors beside the target].",
    ),
    click.option(
        "--target-context", type=click.IntRange(min=1), default=None, help="Tokens of the target's context at most."
    ),
)
"""What verifies the drafts of boards."""


@click.command("serve")
@click.argument("package", type=click.Path(path_type=Path), required=False)
@device_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any that is free.")
@click.option(
    "--api-key",
    default="",
    envvar="MEADOW_API_KEY",
    help="Key that requests must bring [default: $MEADOW_API_KEY, or none].",
)
@click.option("--name", default="", help="The model's name for clients [default: the package's].")
@click.option("--max-tokens", type=click.IntRange(min=1), default=1024, show_default=True, help="Longest answer.")
@click.option(
    "--max-body", type=click.IntRange(min=1024), default=1 << 20, show_default=True, help="Bytes of a request."
)
@click.option("--allow-host", multiple=True, help="Name under which browsers may ask for it, besides localhost.")
@lookup_option
@target_options
@tls_options
@trust_option
@json_option
def serve_command(
    package: Path | None,
    device: str,
    host: str,
    port: int,
    api_key: str,
    name: str,
    max_tokens: int,
    max_body: int,
    allow_host: tuple[str, ...],
    draft: str | None,
    target: str,
    exits: str,
    tau: float | None,
    exits_file: Path | None,
    target_context: int | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Answer OpenAI's clients with PACKAGE: /v1/chat/completions, /v1/completions, /v1/models; a chat page at /.

    Greedy unless a request names a temperature, with the tokens of `meadowc run`.  One answer at a time; the others wait in turn.
    With --target it verifies what boards draft (meadowc run --target), beside PACKAGE or alone.

    \b
    Examples:
      meadowc serve build/smollm2
      meadowc serve build/smollm2 --host 0.0.0.0 --api-key "$KEY" --allow-host board.local
      meadowc serve --target onnx:models/smollm2 --exits 24,27
    """
    if not is_loopback(host) and not api_key:
        raise UsageError(
            f"--host {host} is reached by others, who could all use it; give --api-key, or listen on 127.0.0.1"
        )
    if package is None and not target:
        raise UsageError("there is nothing to serve: name a package, or a model that verifies drafts with --target")
    wish = Wish(target, exits, tau, exits_file, target_context)
    wish.check()
    given = click.get_current_context().get_parameter_source
    for option in ("draft", "name", "max_tokens"):
        if package is None and given(option) == ParameterSource.COMMANDLINE:
            raise UsageError(f"--{option.replace('_', '-')} is of the answers of a package, and none is named")
    from meadow.serve.app import Settings

    hosts = (*allow_host, host) if is_loopback(host) or allow_host else ("*",)
    certificate = _certificate(tls_cert, tls_key)
    verifier = wish.open(device, as_json, trust)
    settings = Settings(name, api_key, max_body, max_tokens, hosts, draft or "")
    where = (host, port, certificate)
    if package is None:
        assert verifier is not None
        _serve_target(verifier, tau, settings, where, as_json)
        return
    with opened(package, device, as_json, trust) as session:
        _serve_package(session, verifier, tau, replace(settings, model=name or session.package.name), where, as_json)


def _certificate(chain: Path | None, key: Path | None) -> Certificate | None:
    """What --tls-cert and --tls-key name.  Raises UsageError."""
    if chain is None and key is None:
        return None
    if chain is None or key is None:
        raise UsageError("--tls-cert and --tls-key go together: a certificate chain and its private key")
    from meadow.serve.listen import Certificate

    made = Certificate(chain, key)
    made.check()
    return made


Where = tuple[str, int, "Certificate | None"]


@dataclass(frozen=True)
class Wish:
    """The target that the options name, and its exits."""

    spec: str
    exits: str
    tau: float | None
    maps: Path | None
    context: int | None

    def check(self) -> None:
        """Raise UsageError for options that do not go together."""
        if not self.spec and (self.exits or self.maps or self.context or self.tau is not None):
            raise UsageError("--exits, --tau, --exits-file and --target-context are of a target; add --target")
        for option, value in (("--tau", self.tau), ("--exits-file", self.maps)):
            if value is not None and not self.exits:
                raise UsageError(f"{option} is of exits, and none is named; add --exits 14,21,25")

    def open(self, device: str, quiet: bool, trust: bool) -> Target | None:
        """The target; None where none is asked for."""
        if not self.spec:
            return None
        from meadow.targets.target import open_target, split

        kind, path = split(self.spec)
        if kind == "package" and device in RUNS_CODE:
            require_trust(load(path), trust)
        layers = numbers(self.exits, "--exits")
        if not quiet:
            err.print(f"reading {self.spec}", style="dim")
        return open_target(self.spec, layers, self.maps, self.context or 0, "emulator" if device == "auto" else device)


def _serve_target(target: Target, tau: float | None, settings: Settings, where: Where, as_json: bool) -> None:
    """Links to boards alone."""
    from meadow.serve.alone import app_for
    from meadow.serve.listen import listen

    app, rounds = app_for(target, settings, tau)

    def tell(url: str) -> None:
        if as_json:
            emit_json({"url": url, "target": target.name, "boards": f"{_link(url)}/v1/speculate"})
            sys.stdout.flush()
            return
        err.print(_about(target), style="dim")
        err.print(f"{_link(url)} (boards: meadowc run PACKAGE --target {_link(url)}); Ctrl-C ends it")

    try:
        listen(app, where[0], where[1], tell, rounds.stop, where[2])
    finally:
        rounds.close()


def _serve_package(
    session: Session, target: Target | None, tau: float | None, settings: Settings, where: Where, as_json: bool
) -> None:
    """OpenAI's clients, and boards where there is a target."""
    from meadow.serve.alone import rounds_of
    from meadow.serve.app import app_of
    from meadow.serve.boards import Boards, route
    from meadow.serve.listen import listen

    app = app_of(session, settings)
    server = app.state.server
    rounds = rounds_of(target, server.figures, tau) if target is not None else None
    if rounds is not None:
        route(app, Boards(rounds, settings.key))

    def tell(url: str) -> None:
        if as_json:  # once, as soon as it can be asked
            found = {"device": session.device.name, "emulated": session.device.emulated}
            boards = {} if target is None else {"target": target.name, "boards": f"{_link(url)}/v1/speculate"}
            emit_json({"url": url, "api": f"{url}/v1", "model": settings.model, **found, **boards})
            sys.stdout.flush()
            return
        err.print(header(session), style="dim")
        if target is not None:
            err.print(f"{_about(target)}; {_link(url)} (boards)", style="dim")
        err.print(f"{url} (chat), {url}/v1 (API); Ctrl-C ends it")

    def stop() -> None:
        server.worker.stop()
        if rounds is not None:
            rounds.stop()

    try:
        listen(app, where[0], where[1], tell, stop, where[2])
    finally:
        if rounds is not None:
            rounds.close()


def _link(url: str) -> str:
    """Where boards find a server."""
    return url.replace("http", "ws", 1)


def _about(target: Target) -> str:
    told = f", tells early after {', '.join(map(str, target.exits))} of {target.layers} layers" if target.exits else ""
    return f"{target.name} verifies drafts, context {target.context}{told}"
