# SPDX-License-Identifier: Apache-2.0
"""Rules that compilers check: AMD's own headers (from the hls4ml wheel, Apache-2.0, used and not kept), both compilers, the names in
pragmas as expressions, and bursts as LLVM's scalar evolution sees them (UG1448 214-229, 214-230)."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from rules.source import Finding, Source

WHEEL = "hls4ml==1.3.0"
ADAPTED = """#pragma once
// AMD's stream with the depth as a parameter, which Vitis 2020.2 and later have.
#define stream stream_of_amd
#include "{header}"
#undef stream
namespace hls {{
template <typename T, int kDepth = 2>
class stream : public stream_of_amd<T> {{
  public:
    using stream_of_amd<T>::stream_of_amd;
}};
}}  // namespace hls
"""
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-label")
PORT = re.compile(r"%(\w*port\w*|constants|memory|weights\d)\b")


@lru_cache
def amd_headers() -> Path:
    """The folder of AMD's headers, with the stream adapted; from the wheel, which pip fetches."""
    folder = Path(tempfile.gettempdir()) / f"meadow-{WHEEL.replace('==', '-')}"
    types = folder / "hls4ml" / "templates" / "vivado" / "ap_types"
    if not (folder / "hls_stream.h").is_file():
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as work:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-qq",
                "--no-deps",
                "--disable-pip-version-check",
                WHEEL,
            ]
            subprocess.run([*command, "-d", work], check=True, capture_output=True)
            with zipfile.ZipFile(next(Path(work).glob("*.whl"))) as wheel:
                wheel.extractall(folder, [n for n in wheel.namelist() if "/ap_types/" in n])
        (folder / "hls_stream.h").write_text(ADAPTED.format(header=types / "hls_stream.h"))
    return folder


def _run(command: list[str], cwd: Path) -> str:
    """What a compiler says first, or nothing."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if not done.returncode:
        return ""
    lines = [line for line in done.stderr.splitlines() if "error" in line]
    return (lines or done.stderr.splitlines() or [f"exit code {done.returncode}"])[0]


def amd(source: Source) -> Iterator[Finding]:
    """The top and its test bench pass with AMD's headers, by g++ and clang; the top compiles as synthesis sees it."""
    headers = amd_headers()
    folder = source.folder
    with tempfile.TemporaryDirectory() as work:
        shim = Path(work) / "shim"
        shim.mkdir()
        shutil.copyfile(folder / "sim" / "hls_math.h", shim / "hls_math.h")  # the wheel's has no root of a float
        # AMD's headers refuse __SYNTHESIS__, which here is for the code behind them.
        seen = Path(work) / "synthesized.cpp"
        seen.write_text('#include <ap_int.h>\n#include <hls_stream.h>\n#define __SYNTHESIS__\n#include "top.cpp"\n')
        include = [f"-I{shim}", f"-I{headers}", f"-I{headers / 'hls4ml/templates/vivado/ap_types'}", f"-I{folder}"]
        for compiler in ("g++", "clang++"):
            common = [compiler, "-std=c++17", "-ffp-contract=off", "-w", *include]
            said = _run([*common, "-fsyntax-only", str(seen)], folder)
            if said:
                yield Finding("AMD headers", f"{compiler} -D__SYNTHESIS__", said)
            bench = folder.parent / "vitis" / "testbench.cpp"
            said = _run([*common, "-O1", str(bench), str(folder / "top.cpp"), "-o", f"{work}/bench"], bench.parent)
            if said:
                yield Finding("AMD headers", compiler, said)
                continue
            done = subprocess.run([f"{work}/bench"], capture_output=True, text=True, check=False, timeout=600)
            if not done.stdout.startswith("PASSED"):
                yield Finding("AMD headers", compiler, f"the test bench says {done.stdout.strip()[:120]!r}")


def warnings(source: Source) -> Iterator[Finding]:
    """Nothing is said by g++ and clang with every warning, as synthesis sees the code and as the simulation does."""
    folder = source.folder
    for compiler in ("g++", "clang++"):
        for flag in ("-D__SYNTHESIS__", "-DMEADOW_PLAIN_LANES"):
            extra = ["-Wno-unused-parameter"] if flag == "-D__SYNTHESIS__" else []
            command = [
                compiler,
                "-std=c++17",
                *WARNINGS,
                *extra,
                flag,
                f"-I{folder / 'sim'}",
                f"-I{folder}",
                "-fsyntax-only",
            ]
            said = _run([*command, str(folder / "top.cpp")], folder)
            if said:
                yield Finding("warnings", f"{compiler} {flag}", said)


def names(source: Source) -> Iterator[Finding]:
    """What a pragma names is an expression where it stands: a tool parses it as one, or ignores it."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "hls"
        shutil.copytree(source.folder, folder)
        for name, lines in source.lines.items():
            made = []
            for number, line in enumerate(lines, 1):
                made.append(line)
                match = re.search(r"#pragma HLS \w+.*?variable=(\S+)", line)
                if match:
                    made.append(
                        f'#line {number} "{name}"\n    (void)sizeof(({match[1]}));\n#line {number + 1} "{name}"'
                    )
            (folder / name).write_text("\n".join(made) + "\n")
        command = [
            "clang++",
            "-std=c++17",
            "-w",
            "-D__SYNTHESIS__",
            f"-I{folder / 'sim'}",
            f"-I{folder}",
            "-fsyntax-only",
        ]
        said = _run([*command, str(folder / "top.cpp")], folder)
        if said:
            yield Finding("pragma names", said.split(": error")[0], said.split("error: ")[-1])


def bursts(source: Source) -> Iterator[Finding]:
    """In every loop a port's address is a beat, and the next one in the next iteration."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "hls"
        shutil.copytree(source.folder, folder)
        for name, lines in source.lines.items():  # inlined as the pragmas say, and nothing else
            text = "\n".join(lines) + "\n"
            text = re.sub(
                r"^(inline [^;{}]*\{\n#pragma HLS INLINE\n)", r"__attribute__((always_inline)) \1", text, flags=re.M
            )
            text = re.sub(
                r"^(template <[^\n]*>\n)(inline [^;{}]*\{\n#pragma HLS INLINE\n)",
                r"\1__attribute__((always_inline)) \2",
                text,
                flags=re.M,
            )
            (folder / name).write_text(text)
        command = [
            "clang++",
            "-std=c++17",
            "-w",
            "-D__SYNTHESIS__",
            "-O1",
            "-fno-inline",
            "-fno-discard-value-names",
            "-S",
            "-emit-llvm",
        ]
        off = ["-fno-unroll-loops", "-fno-vectorize", "-fno-slp-vectorize", "-fno-builtin"]
        made = Path(work) / "top.ll"
        said = _run(
            [*command, *off, f"-I{folder / 'sim'}", f"-I{folder}", str(folder / "top.cpp"), "-o", str(made)], folder
        )
        if said:
            yield Finding("bursts", "clang++", said)
            return
        opt = ["opt", "-passes=print<scalar-evolution>", "-disable-output", str(made)]
        printed = subprocess.run(opt, capture_output=True, text=True, check=False).stderr
    yield from _not_affine(printed)


def _not_affine(printed: str) -> Iterator[Finding]:
    function, found = "", 0
    lines = printed.splitlines()
    for number, line in enumerate(lines):
        match = re.search(
            r"Printing analysis 'Scalar Evolution Analysis' for function '(\w+)'|Classifying expressions for: @(\w+)",
            line,
        )
        if match:
            function = match[1] or match[2]
        if "getelementptr" not in line or not PORT.search(line.split("=", 1)[-1]) or "ap_uint" not in line:
            continue
        said = lines[number + 1].strip()
        if "LoopDispositions" not in said:
            continue  # no loop
        found += 1
        expression = said.split("-->")[-1].split(" U: ")[0].strip()
        if not re.search(r",\+,16\}<", expression) or "/u" in expression:
            yield Finding("bursts", _plain(function), f"the address {expression} is no burst")
    if not found:
        yield Finding("bursts", "top.cpp", "no access of a port was found in any loop")


def _plain(mangled: str) -> str:
    """The function's own name in a mangled one."""
    match = re.match(r"_Z(\d+)(.*)", mangled)
    return match[2][: int(match[1])] if match else mangled


CHECKS = (amd, warnings, names, bursts)
