# SPDX-License-Identifier: Apache-2.0
"""The server with OpenAI's own client: the tokens of a session, streams, stops, probabilities, errors, bounds and clients that leave."""

from __future__ import annotations

import asyncio
import concurrent.futures
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serving import Served

from meadow.runtime import Session
from meadow.serve.queue import MOST_OF_ONE, Full, Job, Worker

openai = pytest.importorskip("openai", reason="no openai: pip install openai")
USER = [{"role": "user", "content": "s 1"}]
KEY = {"content-type": "application/json"}


def ask(url: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """(status, JSON) of a request as bytes or an object."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {**KEY, **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            raw = answer.read()
            return answer.status, json.loads(raw) if raw.startswith((b"{", b"[")) else raw.decode()
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


# -- answers ---------------------------------------------------------------------------------------------------------


def test_an_answer_has_the_tokens_of_a_session(client: Any, talkative: Path) -> None:
    made = client.chat.completions.create(model="tiny", messages=USER, max_tokens=8)
    with Session(talkative) as session:
        wanted = session.chat(USER, 8)
        assert made.choices[0].message.content == wanted.read()
    assert made.choices[0].finish_reason == wanted.finish_reason
    assert made.usage.prompt_tokens == wanted.prompt_tokens and made.usage.completion_tokens == len(wanted.tokens)
    assert made.system_fingerprint.startswith("meadow-")


def test_a_stream_is_the_same_text_in_pieces(client: Any) -> None:
    whole = client.chat.completions.create(model="tiny", messages=USER, max_tokens=8)
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=USER, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content and len(chunks) > 3
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens and not chunks[-1].choices


def test_text_completions_stop_and_tell_probabilities(client: Any) -> None:
    whole = client.completions.create(model="tiny", prompt="The", max_tokens=8, logprobs=2)
    text, told = whole.choices[0].text, whole.choices[0].logprobs
    assert len(told.tokens) == len(told.token_logprobs) == 8 and "".join(told.tokens) == text
    assert told.text_offset == [len("".join(told.tokens[:n])) for n in range(8)]
    assert all(
        max(top.values()) == pytest.approx(own) for top, own in zip(told.top_logprobs, told.token_logprobs, strict=True)
    )
    stopped = client.completions.create(model="tiny", prompt="The", max_tokens=8, stop=text[3:6])
    assert stopped.choices[0].text == text[: text.find(text[3:6])] and stopped.choices[0].finish_reason == "stop"
    streamed = list(client.completions.create(model="tiny", prompt="The", max_tokens=8, logprobs=0, stream=True))
    tokens = [t for c in streamed if c.choices[0].logprobs for t in c.choices[0].logprobs.tokens]
    assert tokens == told.tokens and "".join(c.choices[0].text for c in streamed) == text
    ids = client.completions.create(model="tiny", prompt=[[5, 6, 7]], max_tokens=2)
    assert ids.usage.prompt_tokens == 3


def test_chat_tells_probabilities_and_a_seed_repeats(client: Any) -> None:
    made = client.chat.completions.create(model="tiny", messages=USER, max_tokens=3, logprobs=True, top_logprobs=2)
    tokens = made.choices[0].logprobs.content
    assert len(tokens) == 3 and all(len(t.top_logprobs) == 2 and t.bytes for t in tokens)
    assert tokens[0].top_logprobs[0].logprob == pytest.approx(tokens[0].logprob) and tokens[0].logprob < 0

    def by_chance(seed: int | None) -> str:
        made = client.chat.completions.create(model="tiny", messages=USER, max_tokens=12, temperature=2.0, seed=seed)
        return str(made.choices[0].message.content)

    assert by_chance(3) == by_chance(3)
    assert len({by_chance(None) for _ in range(4)} | {by_chance(4)}) > 1


def test_a_prefix_that_the_cache_holds_is_not_computed_again(client: Any, served: Served) -> None:
    shared = [{"role": "system", "content": "a b c d e f g"}]
    first = client.chat.completions.create(model="tiny", messages=[*shared, *USER], max_tokens=2)
    before = figure(served, "meadow_prompt_tokens_total")
    for n in range(10):
        made = client.chat.completions.create(
            model="tiny", messages=[*shared, {"role": "user", "content": f"s {n}"}], max_tokens=2
        )
        cached = made.usage.prompt_tokens_details.cached_tokens
        after = figure(served, "meadow_prompt_tokens_total")
        assert cached >= first.usage.prompt_tokens - 8 and after - before == made.usage.prompt_tokens - cached
        before = after


def figure(served: Served, name: str) -> float:
    _, text = ask(served.url, "/metrics")
    return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[1])


def answered(served: Served) -> float:
    """Completions that were answered whole."""
    _, text = ask(served.url, "/metrics")
    label = 'meadow_requests_total{path="/v1/completions",status="200"}'
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(label))


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "the body is not JSON"),
        (b"[]", 400, "the body is no object"),
        ({"messages": []}, 400, "messages: List should have at least 1"),
        ({"messages": [{"role": "user"}], "n": 2, "tool": 1}, 400, "n: 2 is asked for; this server takes 1 alone"),
        ({"messages": [{"role": "user"}], "n": 2, "tool": 1}, 400, "messages.0.content: Field required"),
        ({"messages": [{"role": "user"}], "n": 2, "tool": 1}, 400, "tool: this server does not know that field"),
        ({"messages": USER, "temperature": -1}, 400, "temperature: Input should be greater"),
        ({"messages": USER, "top_logprobs": 2}, 400, "only with logprobs: true"),
        ({"messages": USER, "model": "gpt"}, 404, "model 'gpt' is not here; tiny is"),
        ({"messages": [{"role": "user", "content": "w " * 400}]}, 400, "the context of this package holds 128"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            400,
            "messages.0.content",
        ),
        (b"[" * 100000, 400, "the body is not JSON"),
        (b'{"messages": ' + b"[" * 400 + b"]" * 400 + b"}", 400, "messages"),
    ],
)
def test_a_request_that_is_wrong_is_told_everything(body: Any, status: int, said: str, served: Served) -> None:
    found, answer = ask(served.url, "/v1/chat/completions", body)
    assert found == status and said in answer["error"]["message"]
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert ask(served.url, "/health")[1]["status"] == "ok"


def test_neutral_fields_are_taken(served: Served) -> None:
    extra = {
        "n": 1,
        "frequency_penalty": 0,
        "tools": [],
        "response_format": {"type": "text"},
        "logit_bias": {},
        "user": "me",
    }
    assert ask(served.url, "/v1/chat/completions", {"messages": USER, "max_tokens": 1, **extra})[0] == 200


def test_openai_raises_its_own_errors(client: Any) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=USER)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="tiny", messages=USER, temperature=-1)
    assert [m.id for m in client.models.list()] == ["tiny"] and client.models.retrieve("tiny").id == "tiny"


def test_other_paths_methods_kinds_and_hosts_are_refused(served: Served) -> None:
    assert ask(served.url, "/v2")[0] == 404 and ask(served.url, "/v1/models", {})[0] == 405
    assert ask(served.url, "/v1/chat/completions", {"messages": USER}, {"content-type": "text/plain"})[0] == 415
    status, _ = asked_as(served, "evil.example")
    assert status == 400
    assert asked_as(served, "localhost")[0] == 200


def asked_as(served: Served, host: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=20)
    connection.request("GET", "/health", headers={"Host": host})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_bodies_are_bounded(served: Served) -> None:
    status, answer = ask(served.url, "/v1/chat/completions", b"x" * ((1 << 20) + 1))
    assert status == 413 and "more than 1048576 bytes" in answer["error"]["message"]
    far = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=20)
    far.request("POST", "/v1/completions", headers={**KEY, "Content-Length": str(1 << 40)})
    assert far.getresponse().status == 413  # at once, without its body
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=20)
    connection.request(
        "POST",
        "/v1/completions",
        iter([b"y" * 65536] * 40),
        {**KEY, "Transfer-Encoding": "chunked"},
        encode_chunked=True,
    )
    assert connection.getresponse().status == 413


def test_a_head_that_does_not_come_is_not_waited_for(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-")
        began = time.monotonic()
        while slow.recv(4096):
            pass
        assert 5 < time.monotonic() - began < 25
    assert ask(served.url, "/health")[0] == 200


def test_a_key_is_asked_for_where_there_is_one(talkative: Path) -> None:
    made = Served(talkative, "--api-key", "sesame")
    try:
        assert ask(made.url, "/v1/models")[0] == 401
        assert ask(made.url, "/v1/models", headers={"Authorization": "Bearer sesam"})[0] == 401
        assert ask(made.url, "/v1/models", headers={"Authorization": "Bearer sesame"})[0] == 200
        assert ask(made.url, "/health")[0] == 200 and ask(made.url, "/metrics")[0] == 401
    finally:
        assert made.close() in (0, 130)


def test_others_are_not_served_without_a_key(talkative: Path, meadowc: Any) -> None:
    result = meadowc("serve", talkative, "--host", "0.0.0.0")
    assert result.code == 2 and "give --api-key" in result.err


def test_a_script_is_told_the_address_as_json(talkative: Path) -> None:
    command = [sys.executable, "-m", "meadow", "serve", str(talkative), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        text = ""
        while not text.rstrip().endswith("}"):
            text += process.stdout.readline()
        told = json.loads(text)
        assert told["emulated"] and ask(told["url"], "/v1/models")[1]["data"][0]["id"] == told["model"] == "tiny"
    finally:
        process.kill()
        process.wait()


def test_a_port_that_is_taken_is_named(talkative: Path, served: Served, meadowc: Any) -> None:
    port = served.url.rpartition(":")[2]
    result = meadowc("serve", talkative, "--port", port)
    assert result.code == 2 and f"port {port} cannot be listened on" in result.err


# -- many ------------------------------------------------------------------------------------------------------------


def test_fifty_clients_of_whom_half_leave_lose_nothing(served: Served, client: Any) -> None:
    wanted = {
        n: client.completions.create(model="tiny", prompt=[n + 1, 2, 3], max_tokens=6).choices[0].text for n in range(5)
    }
    cancelled = figure(served, "meadow_cancelled_total")

    def one(number: int) -> str | None:
        body = {
            "prompt": [number % 5 + 1, 2, 3],
            "max_tokens": 6 if number % 2 else 100,
            "stream": True,
            "user": f"u{number}",
        }
        connection = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=120)
        connection.request("POST", "/v1/completions", json.dumps(body), KEY)
        answer = connection.getresponse()
        assert answer.status == 200
        if number % 2 == 0:  # leaves at once
            answer.read(1)
            connection.close()
            return None
        lines = [line for line in answer.read().decode().split("\n\n") if line.startswith("data: {")]
        return "".join(json.loads(line[6:])["choices"][0]["text"] for line in lines)

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        found = list(pool.map(one, range(50)))
    assert all(found[n] == wanted[n % 5] for n in range(1, 50, 2))
    ends = time.monotonic() + 30
    while ask(served.url, "/health")[1]["status"] != "ok" and time.monotonic() < ends:
        time.sleep(0.1)
    health = ask(served.url, "/health")[1]
    assert health["status"] == "ok" and health["waiting"] == 0
    assert figure(served, "meadow_cancelled_total") > cancelled


def test_a_client_that_leaves_a_whole_answer_frees_its_place(served: Served) -> None:
    def ended() -> float:
        return answered(served) + figure(served, "meadow_cancelled_total")

    before, cancelled = ended(), figure(served, "meadow_cancelled_total")
    body = json.dumps({"prompt": [1, 2, 3], "max_tokens": 100})
    connections = []
    for _ in range(20):
        connection = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=60)
        connection.request("POST", "/v1/completions", body, KEY)
        connections.append(connection)
    ends = time.monotonic() + 30
    while ended() + figure(served, "meadow_waiting") < before + 19 and time.monotonic() < ends:  # one is under way
        time.sleep(0.01)
    for connection in connections:
        connection.close()
    while ended() < before + 20 and time.monotonic() < ends:
        time.sleep(0.1)
    assert ended() == before + 20  # a fast machine answers some; none is lost or counted twice
    assert figure(served, "meadow_cancelled_total") > cancelled
    health = ask(served.url, "/health")[1]
    assert health["status"] == "ok" and health["waiting"] == 0


def test_the_second_head_of_a_connection_is_not_waited_for_either(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        slow.recv(65536)
        slow.sendall(b"G")
        began = time.monotonic()
        while slow.recv(4096):
            pass
        assert time.monotonic() - began < 25


def test_a_server_that_ends_says_so_and_nothing_else(talkative: Path) -> None:
    command = [sys.executable, "-m", "meadow", "serve", str(talkative), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    text = ""
    while not text.rstrip().endswith("}"):
        text += process.stdout.readline()
    url = json.loads(text)["url"]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        body = {"prompt": [1, 2, 3], "max_tokens": 120, "temperature": 1.0}
        asked = [pool.submit(ask, url, "/v1/completions", body) for _ in range(12)]
        time.sleep(0.5)
        process.terminate()
        statuses = {one.result()[0] for one in asked if one.exception() is None}
    _, said = process.communicate(timeout=30)
    assert "Traceback" not in said and statuses <= {200, 503}


def test_an_error_is_short_however_much_is_wrong(served: Served) -> None:
    for body in (
        {"prompt": [-1] * 100_000},
        {"prompt": [1, *({} for _ in range(50_000))]},
        {f"x{n}": n for n in range(20_000)},
        {"messages": [{"role": "user"}] * 3000},
    ):
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        status, answer = ask(served.url, path, body)
        assert status == 400 and len(json.dumps(answer)) < 4000


def test_a_prompt_that_cannot_run_is_refused_before_a_stream_begins(served: Served) -> None:
    for prompt, said in (("", "no tokens"), ([5000], "outside of the vocabulary"), ([1] * 200, "holds 128")):
        status, answer = ask(served.url, "/v1/completions", {"prompt": prompt, "stream": True})
        assert status == 400 and said in answer["error"]["message"]
    status, answer = ask(served.url, "/v1/completions", {"prompt": "a", "repeat_penalty": 1e-320, "temperature": 1})
    assert status == 400 and "repeat_penalty" in answer["error"]["message"]


class Slow:
    """A session whose answers say nothing and take until they are let go."""

    class stats:
        prefill_tokens = reused_tokens = 0
        prefill_seconds = decode_seconds = 0.0


class Nothing:
    tokens: tuple[int, ...] = ()

    def __iter__(self) -> Any:
        return iter(())


def until(happened: Callable[[], bool]) -> None:
    ends = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_clients_take_turns_and_the_queue_is_bounded() -> None:
    loop = asyncio.new_event_loop()
    order: list[str] = []
    go = threading.Event()

    def job(client: str, user: str) -> Job:
        def begin(session: Any) -> Any:
            go.wait(10)
            order.append(client + user)
            return Nothing()

        return Job(client, user, begin, loop)

    worker = Worker(Slow())  # type: ignore[arg-type]
    worker.submit(job("first", ""))
    until(lambda: worker.running is not None)
    for client, user in (("a", "1"), ("a", "1"), ("a", "2"), ("b", "1"), ("a", "1"), ("b", "1")):
        worker.submit(job(client, user))
    for _ in range(MOST_OF_ONE):
        worker.submit(job("c", ""))
    with pytest.raises(Full, match="of this client"):
        worker.submit(job("c", "another user"))
    go.set()
    until(lambda: not worker.waiting and worker.running is None)
    assert order[:9] == ["first", "a1", "b1", "c", "a2", "b1", "c", "a1", "c"] and order.index("c", 9)
    worker.close()
    with pytest.raises(Full, match="the server ends"):
        worker.submit(job("d", ""))
    loop.close()


def test_a_server_that_drafts_answers_the_same(talkative: Path) -> None:
    made = Served(talkative, "--draft", "lookup")
    try:
        own = openai.OpenAI(base_url=f"{made.url}/v1", api_key="none", max_retries=0, timeout=60)
        found = own.chat.completions.create(model="tiny", messages=USER, max_tokens=16, logprobs=True)
        with Session(talkative) as session:
            wanted = session.chat(USER, 16, logprobs=0)
            assert found.choices[0].message.content == wanted.read()
        assert len(found.choices[0].logprobs.content) == len(wanted.tokens)
    finally:
        made.close()
