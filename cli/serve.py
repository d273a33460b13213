# SPDX-License-Identifier: Apache-2.0
"""serve: a package behind an OpenAI-compatible server with a chat page."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path

import click

from meadow.cli.output import emit_json, err, json_option
from meadow.cli.run import device_option, header, opened
from meadow.cli.trust import trust_option
from meadow.machine.errors import UsageError


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@click.command("serve")
@click.argument("package", type=click.Path(path_type=Path))
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
@trust_option
@json_option
def serve_command(
    package: Path,
    device: str,
    host: str,
    port: int,
    api_key: str,
    name: str,
    max_tokens: int,
    max_body: int,
    allow_host: tuple[str, ...],
    trust: bool,
    as_json: bool,
) -> None:
    """Answer OpenAI's clients with PACKAGE: /v1/chat/completions, /v1/completions, /v1/models; a chat page at /.

    Greedy unless a request names a temperature, with the tokens of `meadowc run`.  One answer at a time; the others wait in turn.

    \b
    Examples:
      meadowc serve build/smollm2
      meadowc serve build/smollm2 --host 0.0.0.0 --api-key "$KEY" --allow-host board.local
    """
    if not is_loopback(host) and not api_key:
        raise UsageError(
            f"--host {host} is reached by others, who could all use it; give --api-key, or listen on 127.0.0.1"
        )
    from meadow.serve.app import Settings, app_of
    from meadow.serve.listen import listen

    with opened(package, device, as_json, trust) as session:
        hosts = (*allow_host, host) if is_loopback(host) or allow_host else ("*",)
        settings = Settings(name or session.package.name, api_key, max_body, max_tokens, hosts)
        name = settings.model

        def tell(url: str) -> None:
            if as_json:  # once, as soon as it can be asked
                where = {"device": session.device.name, "emulated": session.device.emulated}
                emit_json({"url": url, "api": f"{url}/v1", "model": name, **where})
                sys.stdout.flush()
                return
            err.print(header(session), style="dim")
            err.print(f"{url} (chat), {url}/v1 (API); Ctrl-C ends it")

        listen(app_of(session, settings), host, port, tell)
