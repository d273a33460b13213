# SPDX-License-Identifier: Apache-2.0
"""The kinds of input: what is made of a seed and damaged, and which commands read it, as a user gives them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from families import names, write_folder

from fuzz import damage, requests
from meadow.machine import isa
from meadow.machine.package.read import manifest_digest

FIXTURES = Path(__file__).parents[1] / "fixtures"
Command = Callable[..., str]
"""meadowc, in this process: "ok" or "refused"; raises what is neither."""


def seeds(folder: Path) -> None:
    """Write what is damaged, once: the tiny model as GGUF, ONNX, folders, and two packages."""
    from meadow import boards
    from meadow.compiler.models import convert, quantize
    from meadow.compiler.pipeline import Options, compile_model

    convert(FIXTURES / "tiny.gguf", folder / "tiny")
    quantize(folder / "tiny", folder / "int8", "channel")
    quantize(folder / "tiny", folder / "int4", weights="int4")
    small = (("block", 64), ("token_lanes", 8), ("tile_rows", 128))
    for name, packing in (("int8", "prefix"), ("int4", "auto")):
        options = Options(packing=packing, settings=small if name == "int8" else (), name=name)
        compile_model(folder / name, boards.load("zcu102"), folder / f"package-{name}", options)
        (folder / f"package-{name}" / "tokenizer" / "chat_template.jinja").write_text(
            "{% for m in messages %}[{{ m.role[0] }}]{{ m.content }}\n{% endfor %}[a]"
        )
    for name in FOLDERS:
        (folder / "folders" / name).mkdir(parents=True)
        write_folder(name, folder / "folders" / name)


FOLDERS = ("llama", "gemma3 as published", "qwen2", "opt", "gpt2")
assert set(FOLDERS) <= set(names())


# -- ONNX ------------------------------------------------------------------------------------------------------------


def make_onnx(random_: random.Random, seeds: Path, out: Path) -> str:
    files = sorted(
        [*(FIXTURES / "exports").glob("*.onnx"), *(seeds / n / "model.onnx" for n in ("tiny", "int8", "int4"))]
    )
    file = random_.choice(files)
    for beside in file.parent.glob("*.data"):
        os.link(beside, out / beside.name)
    if random_.random() < 0.2:
        (out / "model.onnx").write_bytes(damage.raw(random_, file.read_bytes()))
        return f"{file.name} raw"
    model = onnx.load(file, load_external_data=False)
    for _ in range(random_.choice((1, 1, 2, 3))):
        damage.graph(random_, model)
    (out / "model.onnx").write_bytes(model.SerializeToString())
    return file.name


def run_onnx(meadowc: Command, seeds: Path, folder: Path, turn: int) -> str:
    found = meadowc("inspect", folder / "model.onnx")
    if found == "ok" or turn % 10 == 0:
        found = meadowc("compile", folder / "model.onnx", "--board", "zcu102", "-o", folder / "out")
    return found


# -- GGUF ------------------------------------------------------------------------------------------------------------


def make_gguf(random_: random.Random, seeds: Path, out: Path) -> str:
    whole = (FIXTURES / "tiny.gguf").read_bytes()
    cut = 45_000  # what comes before the weights
    header = bytearray(whole[:cut])
    if random_.random() < 0.4:  # near a key: a type or a length, which bytes at random seldom meet
        at = random_.choice(
            [n for n in range(cut - 8) if bytes(header[n : n + 5]) in (b"llama", b"token", b"gener", b"blk.0")]
        )
        at += random_.randrange(60)
        header[at : at + 4] = struct.pack("<i", random_.choice((0, 1, 4, 6, 8, 9, 12, 2**31 - 1, -1, 1 << 20)))
    else:
        for _ in range(random_.choice((1, 2))):
            header = bytearray(damage.raw(random_, bytes(header)))
    (out / "x.gguf").write_bytes(bytes(header) + (whole[cut:] if random_.random() < 0.9 else b""))
    return "header"


def run_gguf(meadowc: Command, seeds: Path, folder: Path, turn: int) -> str:
    return meadowc("convert", folder / "x.gguf", "-o", folder / "out")


# -- Hugging Face folders ---------------------------------------------------------------------------------------------


def make_folder(random_: random.Random, seeds: Path, out: Path) -> str:
    name = random_.choice(FOLDERS)
    for file in (seeds / "folders" / name).iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    if random_.random() < 0.7:
        config = json.loads((out / "config.json").read_text())
        for _ in range(random_.choice((1, 1, 2))):
            config = damage.change(random_, config)
        (out / "config.json").write_text(json.dumps(config))
    else:
        file = out / "model.safetensors"
        data = file.read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        if random_.random() < 0.5:
            header = json.dumps(damage.change(random_, json.loads(data[8 : 8 + length]))).encode()
            file.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])
        else:
            file.write_bytes(damage.raw(random_, data[: 8 + length]) + data[8 + length :])
    return name


def run_folder(meadowc: Command, seeds: Path, folder: Path, turn: int) -> str:
    return meadowc("convert", folder, "-o", folder / "out")


# -- text ------------------------------------------------------------------------------------------------------------

REGEXES = ("(a+)+$", "(", "(?<=a+)b", "[", "a{1000000}", "(?:a|aa)+$", ".*" * 20)
TEMPLATES = (
    "{% include '/etc/passwd' %}",
    "{{ 'a'*10**10 }}",
    "{{ [1]|sum(start='a') }}",
    "{{ 'é'.encode('ascii') }}",
    "{{ range(10**6) }}",
    "{{ 1/0 }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''.__class__ }}",
    "{{ raise_exception('no') }}",
    "{% set x = namespace(a='a') %}{% for i in range(60) %}{% set x.a = x.a ~ x.a %}{% endfor %}{{ x.a }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ messages|tojson|safe }}{{ strftime_now('%Y') }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '{:>9999999999}'.format(1) }}",
    "{{ 10**10**8 }}",
    "\ud800",
    "{{ messages[5].content }}",
    "{{ messages|map(attribute='x')|list }}",
    "{% if",
    "{{ '\\x1b[2J' }}",
)
PIECES: tuple[str, ...] = (
    "{{ ",
    " }}",
    "{% for m in messages %}",
    "{% endfor %}",
    "{% if m.role == 'user' %}",
    "{% endif %}",
    "m.content",
)
PIECES += (
    "|trim",
    "|tojson",
    " ~ ",
    "loop.index",
    "'a' * 9",
    "{% break %}",
    "bos_token",
    "[0]",
    "[1:]",
    "}}{{",
    "{#",
    "-%}",
)


def make_text(random_: random.Random, seeds: Path, out: Path) -> str:
    if random_.random() < 0.5:
        source = random_.choice(sorted((FIXTURES / "tokenizers").iterdir()))
    else:
        source = seeds / "package-int8" / "tokenizer"
    shutil.copytree(source, out / "tokenizer")
    file = random_.choice(sorted(f for f in (out / "tokenizer").iterdir() if f.is_file()))
    kind = random_.randrange(6)
    if kind == 0:
        file.write_bytes(damage.raw(random_, file.read_bytes()))
    elif kind == 1 and (out / "tokenizer" / "tokenizer.json").is_file():
        whole = json.loads((out / "tokenizer" / "tokenizer.json").read_text())
        split = {
            "type": "Split",
            "pattern": {"Regex": random_.choice(REGEXES)},
            "behavior": "Isolated",
            "invert": False,
        }
        whole["pre_tokenizer"] = split
        (out / "tokenizer" / "tokenizer.json").write_text(json.dumps(whole))
    elif kind == 2:
        (
            out / "tokenizer" / random_.choice(("tokenizer_config.json", "generation_config.json", "config.json"))
        ).write_text(
            random_.choice(
                ("[" * 200_000, "null", "3", '{"eos_token_id": [[1]]}', '{"eos_token": {"content": 5}}', "{")
            )
        )
    elif file.suffix == ".json":
        whole = json.loads(file.read_text())
        for _ in range(random_.choice((1, 2))):
            whole = damage.change(random_, whole)
        file.write_text(json.dumps(whole))
    return f"{source.name} {file.name}"


def make_template(random_: random.Random, seeds: Path, out: Path) -> str:
    shutil.copytree(seeds / "package-int8" / "tokenizer", out / "tokenizer")
    if random_.random() < 0.3:
        text = random_.choice(TEMPLATES)
    else:
        text = "".join(random_.choices(PIECES, k=random_.randrange(1, 14)))
    (out / "tokenizer" / "chat_template.jinja").write_bytes(text.encode("utf-8", "surrogatepass"))
    return text[:60]


def run_text(meadowc: Command, seeds: Path, folder: Path, turn: int) -> str:
    package = folder / "package"
    _linked(seeds / "package-int8", package)
    shutil.rmtree(package / "tokenizer")
    shutil.copytree(folder / "tokenizer", package / "tokenizer")
    words = ("Hello <|im_end|> aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab é", "\x00", "a" * 90)[turn % 3]
    return meadowc("run", package, "-p", words, "-n", "3", *(("--raw",) if turn % 2 else ()))


# -- packages ---------------------------------------------------------------------------------------------------------


def make_package(random_: random.Random, seeds: Path, out: Path) -> str:
    """changes.json: what is changed in which file of which package, and whether its digests are made good again."""
    name = random_.choice(("package-int8", "package-int4"))
    source = seeds / name
    kind = random_.randrange(4)
    made: dict[str, Any] = {"package": name, "repair": random_.random() < 0.85, "device": "emulator", "set": []}
    if kind == 0:
        file = random_.choice(("manifest.json", "packing.json", "report/summary.json", "steps.json"))
        whole = json.loads((source / file).read_text())
        made["set"] = [[file, *damage.pick(random_, whole)] for _ in range(random_.choice((1, 2)))]
    elif kind == 1:
        manifest = json.loads((source / "manifest.json").read_text())
        entries = manifest["entries"]
        entry = random_.choice(sorted(entries))
        steps = entries[entry]["bytes"] // isa.INSTRUCTION_BYTES
        where = (entry, random_.randrange(steps), random_.randrange(isa.INSTRUCTION_BYTES // 4))
        value = random_.choice(
            (*(n & 0xFFFFFFFF for n in damage.NUMBERS), random_.getrandbits(32), 0x7FC00000, 64, 256)
        )
        made["words"] = [[*where, value]]
        made["device"] = random_.choice(("emulator", "csim"))
    elif kind == 2:
        file = random_.choice(("manifest.json", "packing.json", "program.bin", "weights.bin", "report/summary.json"))
        data = damage.raw(random_, (source / file).read_bytes())
        made["base64"] = {file: base64.b64encode(data).decode()}
    else:
        made["whole"] = random_.choice(("link", "missing", "folder", "fifo", "empty"))
        made["of"] = random_.choice((*ODD, "report/index.html", "report/results.json", "report/.index.html.new"))
    (out / "changes.json").write_text(json.dumps(made))
    return f"{name} {kind}"


def changed(seeds: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The package with the changes of `folder`."""
    made = json.loads((folder / "changes.json").read_text())
    package = folder / "package"
    _linked(seeds / made["package"], package)
    manifest = json.loads((package / "manifest.json").read_text())
    new = {k: base64.b64decode(v) for k, v in made.get("base64", {}).items()}
    for name, path, value in made.get("set", ()):
        whole = json.loads(new.get(name) or (package / name).read_bytes())
        new[name] = json.dumps(damage.put(whole, path, value)).encode()
    for entry, step, word, value in made.get("words", ()):
        code = bytearray(new.get("program.bin") or (package / "program.bin").read_bytes())
        at = manifest["entries"][entry]["offset"] + step * isa.INSTRUCTION_BYTES + 4 * word
        code[at : at + 4] = struct.pack("<I", value)
        new["program.bin"] = bytes(code)
    for name, data in new.items():
        (package / name).unlink()
        (package / name).write_bytes(data)
    if made["repair"]:
        _repair(package, new)
    if made.get("whole"):
        _odd(package / made["of"], made["whole"])
    return package, made


def _repair(package: Path, new: dict[str, bytes]) -> None:
    try:
        manifest = json.loads((package / "manifest.json").read_text())
        for name, data in new.items():
            if name != "manifest.json":
                manifest["files"][name] = hashlib.sha256(data).hexdigest()
        manifest["digest"] = manifest_digest(manifest)
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return
    (package / "manifest.json").unlink()
    (package / "manifest.json").write_text(json.dumps(manifest))


ODD = ("manifest.json", "packing.json", "program.bin", "weights.bin", "hls/config.hpp")


def _odd(file: Path, how: str) -> None:
    file.unlink(missing_ok=True)
    if how == "link":
        home = next(p for p in file.parents if p.name == "input").parents[1]
        file.symlink_to(home / "canary" / "kept")
    elif how == "folder":
        file.mkdir()
    elif how == "fifo":
        os.mkfifo(file)
    elif how == "empty":
        file.write_bytes(b"")


def _linked(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=os.link)


def run_package(meadowc: Command, seeds: Path, folder: Path, turn: int) -> str:
    package, made = changed(seeds, folder)
    found = meadowc("run", package, "-p", "ab", "-n", "2", "--raw", "--device", made["device"])
    if turn % 4 == 0:
        found = meadowc("report", package, "-o", folder / "page.html")
    return found


# -- boards and the server ---------------------------------------------------------------------------------------------


def make_board(random_: random.Random, seeds: Path, out: Path) -> str:
    from meadow import boards

    data = (Path(boards.__file__).parent / f"{random_.choice(('zcu102', 'kv260', 'pynq_z2'))}.toml").read_bytes()
    if random_.random() < 0.5:
        lines = data.decode().splitlines()
        place = random_.randrange(len(lines))
        value = random_.choice(("0", "-1", "1e400", '""', "[]", "true", "{}", "nan", "2_000_000_000_000", '"\\u0000"'))
        lines[place] = lines[place].partition("=")[0] + "= " + value
        data = "\n".join(lines).encode()
    else:
        data = damage.raw(random_, data)
    (out / "board.toml").write_bytes(data)
    return "board"


def run_board(meadowc: Command, seeds: Path, folder: Path, turn: int) -> str:
    if turn % 8 == 0:
        return meadowc("compile", seeds / "int8", "--board", folder / "board.toml", "-o", folder / "out")
    return meadowc("boards", "--board", folder / "board.toml")


LINES = ("raw = 2", "seed = 9" + "9" * 5000, "seed = 0x99999999999999999999", "stop = [[1]]", "prompt = 1979-05-27", "x = {a = 1}", '"\\u001b[31m" = 1',
         "temperature = nan", "top-k = -1", "prompt = ''", "set = {context = true}", "set = ['context=']", "board = 5", "a." * 900 + "b = 1")  # fmt: skip


def make_configuration(random_: random.Random, seeds: Path, out: Path) -> str:
    sections = ("run", "compile", "bench.llm", "bench", "boards", "serve", "cache", "eval", "nothing", '"\\u001b[2J"')
    lines = []
    for _ in range(random_.randrange(1, 4)):
        lines += [f"[{random_.choice(sections)}]", *random_.choices(LINES, k=random_.randrange(3))]
    data = "\n".join(lines).encode()
    (out / "meadow.toml").write_bytes(data if random_.random() < 0.7 else damage.raw(random_, data))
    return "configuration"


def run_configuration(meadowc: Command, seeds: Path, folder: Path, turn: int) -> str:
    words = (("config",), ("run", seeds / "package-int8", "-p", "a", "-n", "1", "--raw"), ("boards",))[turn % 3]
    return meadowc("--config", folder / "meadow.toml", *words)


def make_request(random_: random.Random, seeds: Path, out: Path) -> str:
    request = requests.made(random_)
    (out / "request.json").write_text(json.dumps(request))
    return request["path"]


def run_request(meadowc: Command, seeds: Path, folder: Path, turn: int) -> str:
    return requests.send(seeds / "package-int8", json.loads((folder / "request.json").read_text()))


Make = Callable[[random.Random, Path, Path], str]
Run = Callable[[Command, Path, Path, int], str]
KINDS: dict[str, tuple[int, Make, Run]] = {
    "onnx": (30, make_onnx, run_onnx),
    "gguf": (18, make_gguf, run_gguf),
    "folder": (8, make_folder, run_folder),
    "tokenizer": (9, make_text, run_text),
    "template": (5, make_template, run_text),
    "package": (20, make_package, run_package),
    "board": (2, make_board, run_board),
    "server": (6, make_request, run_request),
    "configuration": (2, make_configuration, run_configuration),
}
"""Of a hundred inputs how many, what makes one, and what reads it."""
