# SPDX-License-Identifier: Apache-2.0
"""Boards that draft for a server's model, over real links: the answer is the model's own, whatever happens to the link, and what is
said wrongly is answered with a sentence."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Served

from meadow.evidence.ladder.reference import OnnxModel
from meadow.machine.errors import DeviceError, UsageError
from meadow.runtime.session import Session
from meadow.runtime.text.sampler import Sampling
from meadow.runtime.text.tokenizer import Tokenizer
from meadow.runtime.text.vocabulary import Vocabulary, difference

websockets = pytest.importorskip("websockets", reason="no websockets: pip install 'meadow-fpga[serve]'")

from meadow.serve.address import PATH, Server  # noqa: E402
from meadow.serve.frames import KINDS, Unreadable, decode, encode  # noqa: E402
from meadow.serve.remote import Remote  # noqa: E402
from meadow.speculate.messages import (  # noqa: E402
    Begin,
    Choice,
    Early,
    Final,
    Hello,
    Lost,
    Propose,
    Refused,
    Welcome,
)

PROMPTS = ([1, 17, 300, 5], [9, 8, 7, 6, 5, 4, 3, 2], [400])
KEY = "a key of this test"


@pytest.fixture(scope="module")
def exits(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from meadow.compiler.sources.source import find_source, read_source
    from meadow.targets.exits import fit, save_exits

    graph = read_source(find_source(tiny))
    windows = [np.array([n, *by_onnxruntime(tiny, [n], 60)]) for n in range(1, 25)]
    path = tmp_path_factory.mktemp("exits") / "exits.safetensors"
    save_exits(fit(graph, windows[2:], windows[:2], (graph.model.layers // 2, graph.model.layers - 1)), graph, path)
    return path


@pytest.fixture(scope="module")
def target(tiny: Path, exits: Path) -> Iterator[Served]:
    layers = ",".join(map(str, _layers(exits)))
    made = Served(
        None,
        "--target",
        f"onnx:{tiny}",
        "--exits",
        layers,
        "--exits-file",
        str(exits),
        "--tau",
        "0.05",
        "--api-key",
        KEY,
    )
    yield made
    made.close()


def _layers(exits: Path) -> list[int]:
    from safetensors import safe_open

    with safe_open(str(exits), "np") as file:
        return sorted(int(name.removeprefix("layer.")) for name in file.keys())  # noqa: SIM118


@pytest.fixture(scope="module")
def session(tiny_package: Path) -> Iterator[Session]:
    with Session(tiny_package, "emulator") as made:
        yield made


def by_onnxruntime(tiny: Path, prompt: list[int], count: int) -> list[int]:
    model = OnnxModel(tiny / "model.onnx")
    row, found = model.prefill(prompt)[-1], list[int]()
    for _ in range(count):
        found.append(int(row.argmax()))
        row = model.step([found[-1]])[-1]
    return found


@pytest.mark.parametrize("ahead", ["none", "own", "exits", "both"])
def test_the_answer_is_the_targets_as_onnxruntime_has_it(
    ahead: str, target: Served, session: Session, tiny: Path
) -> None:
    remote = Remote(session, Server(target.url, KEY), gamma=4, ahead=ahead)
    for prompt in PROMPTS:
        assert list(remote.answer(prompt, 20, frozenset())) == by_onnxruntime(tiny, prompt, 20)
        assert remote.drafter is not None
        c = remote.drafter.counts
        assert c.tokens == 20 and c.accepted > 0 and c.rounds < 20 and c.begun == 1
        assert (c.early > 0) == (ahead in ("exits", "both")) or c.rounds < 4
    remote.close()


def test_a_package_is_a_target_too_and_its_answer_is_its_own_bit_for_bit(
    tiny_package: Path, tiny_int4: Path, session: Session
) -> None:
    made = Served(None, "--target", f"package:{tiny_package}")
    try:
        remote = Remote(session, Server(made.url), gamma=3)
        with Session(tiny_package, "emulator") as alone:
            for prompt in PROMPTS:
                alone.reset()
                assert list(remote.answer(prompt, 16, frozenset())) == list(alone.generate(prompt, 16))
        assert remote.drafter is not None and remote.drafter.counts.acceptance == 1, "it drafts for itself"
        remote.close()
    finally:
        assert made.close() in (0, 130)


def test_run_prints_the_targets_answer_and_what_it_took(target: Served, tiny_package: Path, meadowc: Any) -> None:
    found = meadowc(
        "run", tiny_package, "--raw", "-p", "s 1", "-n", "12", "--target", target.url, "--key", KEY, "--json"
    )
    assert found.code == 0, found.err
    assert found.json["rounds"] >= 1 and found.json["bytes_sent"] > 0 and not found.json["fell_back"]
    spoken = meadowc("run", tiny_package, "--raw", "-p", "s 1", "-n", "12", "--target", target.url, "--key", KEY)
    assert spoken.code == 0 and found.json["text"] in spoken.out and "drafts accepted" in spoken.err


def test_by_chance_the_same_seed_says_the_same_and_another_something_else(target: Served, session: Session) -> None:
    def said(seed: int, gamma: int) -> list[int]:
        remote = Remote(session, Server(target.url, KEY), Sampling(temperature=1.0, seed=seed), gamma)
        found = list(remote.answer([1, 17, 300, 5], 24, frozenset()))
        remote.close()
        return found

    assert said(1, 3) == said(1, 3) != said(2, 3)


# -- the link breaks ----------------------------------------------------------------------------------------------------


class Relay:
    """A port that passes bytes on, and can break every connection."""

    def __init__(self, url: str):
        host, _, port = url.removeprefix("ws://").rpartition(":")
        self.to = (host, int(port))
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"ws://127.0.0.1:{self.server.getsockname()[1]}"
        self.open: list[socket.socket] = []
        self.passed = 0
        self.breaks = 1 << 60  # bytes after which it breaks once
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self.server.accept()
            except OSError:
                return
            there = socket.create_connection(self.to)
            self.open += [here, there]
            for a, b in ((here, there), (there, here)):
                threading.Thread(target=self._pass, args=(a, b), daemon=True).start()

    def _pass(self, a: socket.socket, b: socket.socket) -> None:
        try:
            while data := a.recv(4096):
                self.passed += len(data)
                if self.passed > self.breaks:
                    self.breaks = 1 << 60
                    self.break_all()
                    return
                b.sendall(data)
            b.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        """No more connections."""
        with contextlib.suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        self.break_all()

    def break_all(self) -> None:
        for one in self.open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self.open.clear()


@pytest.mark.parametrize("after", [600, 700, 800])
def test_a_link_that_breaks_in_the_middle_is_made_again_and_the_answer_stays(
    after: int, target: Served, session: Session, tiny: Path
) -> None:
    relay = Relay(target.url)
    remote = Remote(session, Server(relay.url, KEY), gamma=2)
    relay.breaks = after
    assert list(remote.answer([1, 17, 300, 5], 40, frozenset())) == by_onnxruntime(tiny, [1, 17, 300, 5], 40)
    assert remote.drafter is not None and relay.breaks == 1 << 60, "it broke"
    assert remote.drafter.counts.begun >= 2, "and the text was sent again"
    remote.close()


def test_a_server_that_is_started_again_in_the_middle_goes_on_with_the_answer(
    tiny: Path, tiny_package: Path, session: Session
) -> None:
    first = Served(None, "--target", f"onnx:{tiny}")
    remote = Remote(session, Server(first.url, patience=60), gamma=2)
    answer = remote.answer([1, 17, 300, 5], 40, frozenset())
    found = [next(answer) for _ in range(4)]
    assert first.close() in (0, 130)
    again = Served(None, "--target", f"onnx:{tiny}", "--port", first.url.rpartition(":")[2])
    try:
        found += list(answer)
        assert found == by_onnxruntime(tiny, [1, 17, 300, 5], 40)
        assert remote.drafter is not None and remote.drafter.counts.begun == 2 and not remote.fell_back
        remote.close()
    finally:
        again.close()


class Fake:
    """A server that welcomes every board, and does with its first round what `then` says."""

    def __init__(self, then: Callable[[Any], None]):
        from websockets.sync.server import serve

        def link(one: Any) -> None:
            one.recv()
            one.send(encode(Welcome(128, 4, 4)))
            one.recv()
            self.rounds += 1
            then(one)

        self.rounds = 0
        self.server = serve(link, "127.0.0.1", 0, compression=None)
        self.url = f"ws://127.0.0.1:{self.server.socket.getsockname()[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.mark.parametrize("then", ["breaks", "refuses"])
def test_a_server_that_welcomes_and_never_answers_is_given_up(then: str, session: Session) -> None:
    fake = Fake(lambda link: link.close() if then == "breaks" else link.send(encode(Refused("it hurts"))))
    words = "did not come back within 1 s" if then == "breaks" else "refuses: it hurts"
    began = time.monotonic()
    for fallback in ("stop", "draft"):
        remote = Remote(session, Server(fake.url, fallback=fallback, patience=1), gamma=2)
        answer = remote.answer([1, 17, 300, 5], 12, frozenset())
        if fallback == "stop":
            with pytest.raises(DeviceError, match=f"{words}.*--fallback draft"):
                list(answer)
        else:
            assert len(list(answer)) == 12 and remote.fell_back
        remote.close()
    assert time.monotonic() - began < 20 and fake.rounds < 20, "not as fast as it can"
    fake.server.shutdown()


def test_who_pings_and_never_reads_is_cut(target: Served) -> None:
    host, _, port = target.url.removeprefix("ws://").rpartition(":")
    head = (
        f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nAuthorization: Bearer {KEY}\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    ping = b"\x89\xfd" + bytes(4) + bytes(125)  # masked, as long as may be
    with socket.create_connection((host, int(port)), timeout=10) as link:
        link.sendall(head.encode())
        assert b" 101 " in link.recv(4096)
        with pytest.raises(OSError):
            for _ in range(2000):  # 131 MB, of which the server keeps a megabyte
                link.sendall(ping * 500)


def _note(told: list[tuple[str, Any]], name: str, message: Any) -> None:
    told.append((name, message))


def test_a_round_that_fails_takes_no_other_with_it(tiny: Path) -> None:
    from meadow.serve import rounds as module
    from meadow.speculate.rounds import Verifier
    from meadow.targets.target import open_target

    made = open_target(f"onnx:{tiny}")
    real, told = made.verify, list[tuple[str, Any]]()

    def verify(asks: Any, early: Any = None) -> Any:
        if any(13 in ask.text for ask in asks):
            raise ValueError("thirteen")
        return real(asks, early)

    made.verify = verify  # type: ignore[method-assign]
    rounds = module.Rounds(made)
    for name, text in (("good", (1, 2)), ("bad", (13, 2)), ("other", (5, 6))):
        one = module.Board(Hello(1, b""), Verifier(made.context, made.vocab), partial(_note, told, name))
        rounds.joined(one)
        rounds.submit(one, one.verifier.received(Begin(0, text)))  # type: ignore[arg-type]
    ends = time.monotonic() + 30
    while len(told) < 3 and time.monotonic() < ends:
        time.sleep(0.01)
    rounds.close()
    assert {(name, type(m)) for name, m in told} == {("good", Final), ("bad", Refused), ("other", Final)}


def test_without_the_server_it_stops_with_a_sentence_or_goes_on_alone(
    target: Served, session: Session, tiny_package: Path
) -> None:
    for fallback in ("stop", "draft"):
        relay = Relay(target.url)
        remote = Remote(session, Server(relay.url, KEY, fallback=fallback, patience=0.5), gamma=2)
        answer = remote.answer([1, 17, 300, 5], 40, frozenset())
        first = [next(answer) for _ in range(4)]
        relay.close()
        if fallback == "stop":
            with pytest.raises(DeviceError, match="the server is gone after .* tokens.*--fallback draft"):
                list(answer)
        else:
            rest = list(answer)
            assert len(first) + len(rest) == 40 and remote.fell_back
            with pytest.raises(DeviceError):
                remote.server = Server(relay.url, KEY, patience=0.2)
                list(remote.answer([1, 17], 4, frozenset()))
            assert not remote.fell_back, "each answer begins with the server"
        remote.close()


# -- what is said wrongly -----------------------------------------------------------------------------------------------


def speak(target: Served, *frames: bytes | str, key: str = KEY) -> list[Any]:
    """What the server answers to frames, until it closes the link or says nothing for a second."""
    from websockets.sync.client import connect

    heard = []
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with connect(target.url + PATH, additional_headers=headers, compression=None, proxy=None) as link:
        try:
            for frame in frames:
                link.send(frame)
            while True:
                data = link.recv(timeout=1)
                assert isinstance(data, bytes)
                heard.append(decode(data))
        except (websockets.exceptions.ConnectionClosed, TimeoutError):
            return heard


def hello(target_package: Session, **changed: Any) -> Hello:
    vocab = int(target_package.package.model["vocab"])
    facts: dict[str, Any] = {"version": 1, "vocabulary": Vocabulary.of(target_package.tokenizer, vocab).digest}
    return Hello(**(facts | changed))


def test_wrong_words_are_refused_with_a_sentence(target: Served, session: Session) -> None:
    good = encode(hello(session))
    for frames, words in (
        ((b"\xc1",), "no msgpack"),
        ((b"\x93\x00\x01\x02",), "Hello.vocabulary is not what is expected"),
        (("text",), "frames are binary"),
        ((encode(Lost(1)),), "a board does not say Lost"),
        ((encode(Propose(1, 2, (3,))),), "a board says Hello first"),
        ((encode(hello(session, version=7)),), "version 7 of the messages"),
        ((encode(hello(session, top_p=9.0)),), "top_p is 9"),
        ((good, good), "Hello is said once"),
        ((good, encode(Begin(0, (1, 99999)))), "token 99999 is outside"),
        ((good, encode(Begin(0, ()))), "the text is empty"),
        ((good, encode(Begin(0, (1,) * 4000))), "the target's context holds"),
    ):
        heard = speak(target, *frames)
        assert isinstance(heard[-1], Refused) and words in heard[-1].words, heard
    assert speak(target, good, encode(Propose(5, 2, (3,))))[-1] == Lost(5)
    assert isinstance(speak(target, good)[0], Welcome), "the others are served as before"


def test_a_board_that_begins_again_and_again_hurts_nobody(target: Served, session: Session, tiny: Path) -> None:
    frames = [encode(hello(session)), *(encode(Begin(n, (1, 2, 3), (5, 6))) for n in range(150))]
    threads = [threading.Thread(target=speak, args=(target, *frames)) for _ in range(3)]
    for thread in threads:
        thread.start()
    remote = Remote(session, Server(target.url, KEY), gamma=2)
    for _ in range(3):
        assert list(remote.answer([1, 17, 300, 5], 20, frozenset())) == by_onnxruntime(tiny, [1, 17, 300, 5], 20)
    remote.close()
    for thread in threads:
        thread.join(60)


def test_addresses_and_settings_that_cannot_be_are_told(session: Session, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for server, words in (
        (Server("ws://h:99999"), "is no address"),
        (Server("ws://[::1"), "is no address"),
        (Server("ws://exa..mple:1"), "is no address"),
        (Server("ws://localhost:1/v1/other"), "HOST:PORT"),
        (Server("ws://localhost:1", "k\n"), "printable ASCII"),
    ):
        with pytest.raises(UsageError, match=words):
            server.check()
    with pytest.raises(UsageError, match="has no certificates"):
        Server("wss://localhost:1", ca=tmp_path / "ca.pem").trusted()
    with pytest.raises(UsageError, match="a seed below"):
        Remote(session, Server("ws://localhost:1"), Sampling(temperature=1.0, seed=1 << 70))


def test_a_page_in_a_browser_is_no_board(target: Served) -> None:
    from websockets.sync.client import connect
    from websockets.typing import Origin

    headers = {"Authorization": f"Bearer {KEY}"}
    with pytest.raises(websockets.exceptions.InvalidStatus):
        connect(
            target.url + PATH, additional_headers=headers, origin=Origin("http://localhost"), proxy=None
        ).__enter__()


def test_a_long_text_is_computed_in_pieces_between_the_rounds_of_others(tiny: Path) -> None:
    from meadow.serve import rounds as module
    from meadow.speculate.rounds import Verifier, Work
    from meadow.targets.target import open_target

    made = open_target(f"onnx:{tiny}")
    told: list[tuple[str, Any]] = []
    rounds = module.Rounds(made)
    text = tuple(int(n) for n in np.random.default_rng(0).integers(0, 1000, 100))

    def board(name: str) -> Any:
        one = module.Board(Hello(1, b""), Verifier(made.context, made.vocab), lambda m: told.append((name, m)))
        rounds.joined(one)
        return one

    module.PIECE, before = 8, module.PIECE
    try:
        long, short = board("long"), board("short")
        for one, tokens in ((long, text), (short, text[:3])):
            work = one.verifier.received(Begin(0, tokens, (5,)))
            assert isinstance(work, Work)
            rounds.submit(one, work)
        ends = time.monotonic() + 60
        while len(told) < 2 and time.monotonic() < ends:
            time.sleep(0.01)
    finally:
        module.PIECE = before
        rounds.close()
    results = [(name, m) for name, m in told if isinstance(m, Final)]
    assert [name for name, _ in results] == ["short", "long"]
    fresh = open_target(f"onnx:{tiny}")
    from meadow.targets.target import Ask, Kept

    wanted = fresh.verify([Ask(Kept(), text, (5,))])[0]
    final = results[-1][1]
    assert final.token == int(wanted[final.accepted].argmax())


def test_a_frame_that_is_too_large_ends_the_link_alone(target: Served, session: Session) -> None:
    assert len(speak(target, encode(hello(session)), b"\x00" * (3 << 20))) <= 1
    assert isinstance(speak(target, encode(hello(session)))[0], Welcome)


def test_who_has_no_key_or_a_wrong_one_is_told_so(target: Served, session: Session) -> None:
    for key in ("", "wrong"):
        with pytest.raises(UsageError, match="no key, or a wrong one"):
            Remote(session, Server(target.url, key))
    with pytest.raises(UsageError, match="would carry the key in clear text"):
        Server("ws://example.org:1", "secret").check()
    with pytest.raises(UsageError, match="ws://HOST:PORT"):
        Server("http://localhost:1").check()
    with pytest.raises(DeviceError, match="does not answer"):
        Remote(session, Server("ws://127.0.0.1:9"))


def test_another_tokenizer_is_refused_by_its_first_token(target: Served, session: Session, tmp_path: Path) -> None:
    import json
    import shutil

    folder = tmp_path / "other"
    shutil.copytree(session.package.folder / "tokenizer", folder)
    whole = json.loads((folder / "tokenizer.json").read_text())
    vocab = whole["model"]["vocab"]
    by_id = {number: name for name, number in vocab.items()}
    vocab[by_id[500]], vocab[by_id[501]] = 501, 500
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    mine, other = Vocabulary.of(session.tokenizer, 1024), Vocabulary.of(Tokenizer(folder), 1024)
    assert difference(mine, other) == (500, by_id[500], by_id[501])
    before = session.tokenizer
    session._tokenizer = Tokenizer(folder)
    try:
        with pytest.raises(UsageError, match="another tokenizer: token 500 is"):
            Remote(session, Server(target.url, KEY))
    finally:
        session._tokenizer = before


def test_a_board_that_says_nothing_does_not_keep_others_waiting(target: Served, session: Session) -> None:
    host, _, port = target.url.removeprefix("ws://").rpartition(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(40)]
    try:
        began = time.monotonic()
        remote = Remote(session, Server(target.url, KEY), gamma=2)
        assert len(list(remote.answer([5, 6], 6, frozenset()))) == 6
        assert time.monotonic() - began < 20
        remote.close()
    finally:
        for one in silent:
            one.close()


def test_many_boards_at_once_get_each_its_own_answer(target: Served, tiny: Path, tiny_package: Path) -> None:
    found: dict[int, list[int]] = {}

    def one(number: int) -> None:
        with Session(tiny_package, "emulator") as mine:
            remote = Remote(mine, Server(target.url, KEY), gamma=3)
            found[number] = list(remote.answer([number + 1, 17, 5], 12, frozenset()))
            remote.close()

    threads = [threading.Thread(target=one, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == {n: by_onnxruntime(tiny, [n + 1, 17, 5], 12) for n in range(6)}


def test_over_tls_with_a_certificate_of_ones_own(tiny_package: Path, session: Session, tmp_path: Path) -> None:
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        cwd=tmp_path, capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("no openssl")
    cert = tmp_path / "cert.pem"
    served = Served(None, "--target", f"package:{tiny_package}", "--tls-cert", str(cert), "--tls-key", str(tmp_path / "key.pem"))  # fmt: skip
    try:
        assert served.url.startswith("wss://")
        with pytest.raises(UsageError, match="certificate is not trusted.*--ca"):
            Remote(session, Server(served.url))
        remote = Remote(session, Server(served.url, ca=cert))
        assert len(list(remote.answer([5, 6], 6, frozenset()))) == 6
        remote.close()
    finally:
        served.close()


def test_commands_refuse_options_that_do_not_go_together(tiny: Path, tiny_package: Path, meadowc: Any) -> None:
    for command, words in (
        (("serve",), "there is nothing to serve"),
        (("serve", tiny_package, "--exits", "3"), "add --target"),
        (("serve", "--target", f"onnx:{tiny}", "--tau", "0.5"), "add --exits"),
        (("serve", "--target", "tiny"), "a kind and a path are expected"),
        (("serve", "--target", f"gguf:{tiny}"), "say onnx:"),
        (("serve", "--target", f"onnx:{tiny}", "--exits", "x"), "no number of a layer"),
        (("serve", "--target", f"onnx:{tiny}", "--exits", "2"), "meadowc exits fit MODEL makes it"),
        (("serve", "--target", f"package:{tiny_package}", "--exits", "2"), "a package has no exits"),
        (("serve", "--target", f"onnx:{tiny}", "--tls-cert", "x"), "go together"),
        (("run", tiny_package, "-p", "x", "--fallback", "draft"), "name it with --target"),
        (("run", tiny_package, "-p", "x", "--target", "ws://localhost:1", "--draft", "lookup"), "drop one of them"),
    ):
        found = meadowc(*command)
        assert found.code == 2 and words in found.err, found.err


# -- frames -------------------------------------------------------------------------------------------------------------

MESSAGES = (
    Hello(1, b"12345678"),
    Hello(1, b"12345678", 0.5, 3, 0.9, 0.1, 1 << 63, False),
    Welcome(8192, 32, 30, (24, 27)),
    Begin(0, (1, 2, 3)),
    Begin(7, (1, 2, 3), (4,), (Choice((4, 5), b"\0<\0<"),)),
    Propose(300, 0xFFFFFFFF, (1, 49151), (Choice((1,), b"\0<"), Choice((49151,), b"\0<"))),
    Early(3, 24, 2, 99),
    Final(3, 2, 99, True),
    Lost(4),
    Refused("no", b"\1\2"),
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_comes_out_as_it_went_in(message: Any) -> None:
    assert decode(encode(message)) == message
    assert {type(m) for m in MESSAGES} == set(KINDS)


def test_damaged_frames_are_unreadable_and_nothing_else() -> None:
    random = np.random.default_rng(0)
    for message in MESSAGES:
        whole = bytearray(encode(message))
        for _ in range(300):
            damaged = bytearray(whole)
            for _ in range(random.integers(1, 4)):
                damaged[random.integers(len(damaged))] = random.integers(256)
            with contextlib.suppress(Unreadable):
                decode(bytes(damaged[: random.integers(1, len(damaged) + 1)]))


def test_a_round_of_three_drafts_is_small(session: Session) -> None:
    sizes = [len(encode(m)) for m in (Propose(9, 0xFFFFFFFF, (49151,) * 3), Final(9, 2, 49151))]
    assert sum(sizes) <= 30
