# SPDX-License-Identifier: Apache-2.0
"""Built libraries: one package cannot poison another's, a damaged one is built again, and foreign code needs a word of the user."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from meadow.machine.errors import DeviceError
from meadow.machine.package.read import load, manifest_digest
from meadow.runtime.devices import built
from meadow.runtime.devices.csim import build
from meadow.runtime.session import Session

pytestmark = pytest.mark.csim
PROMPT = [5, 9, 200, 31]


@pytest.fixture
def copy(tiny_package: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_package, tmp_path / "copy"))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "meadow"


def list_in_manifest(package: Path, name: str) -> None:
    """Say that a file belongs to the package, with every digest repaired."""
    manifest = json.loads((package / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256((package / name).read_bytes()).hexdigest()
    manifest["digest"] = manifest_digest(manifest)
    (package / "manifest.json").write_text(json.dumps(manifest))


def test_an_unlisted_header_is_refused_and_not_compiled(copy: Path) -> None:
    (copy / "hls" / "cstdio").write_text("#error it was compiled")
    with pytest.raises(DeviceError, match=r"holds hls/cstdio, which is not in its manifest"):
        build(load(copy))


@pytest.mark.parametrize("where", ["hls/array.hpp", "hls/sim"])
def test_a_link_among_the_sources_is_refused(where: str, copy: Path, tmp_path: Path) -> None:
    (copy / where).rename(tmp_path / "elsewhere")
    (copy / where).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeviceError, match=f"holds {where}, which is a link"):
        load(copy).sources("hls")


def test_the_place_of_a_library_depends_on_paths_lengths_and_contents() -> None:
    places = {
        built.place("csim", how, sources)
        for how, sources in (
            (["a"], {"hls/a.h": b"x", "hls/sim/b.h": b"y"}),
            (["a"], {"hls/sim/a.h": b"x", "hls/b.h": b"y"}),
            (["a"], {"hls/a.h": b"y", "hls/sim/b.h": b"x"}),
            (["b"], {"hls/a.h": b"x", "hls/sim/b.h": b"y"}),
            (["a"], {"hls/a.h": b"x"}),
            (["a"], {"hls/sim/a.h": b"x"}),
            (["a"], {"hls/a.h": b"x\0hls/sim/b.h\0" + b"1\0y"}),
        )
    }
    assert len(places) == 7


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no note"])
def test_a_damaged_library_is_built_again(damage: str, tiny_package: Path, own_cache: Path) -> None:
    library = build(load(tiny_package))
    whole = library.read_bytes()
    if damage == "truncated":
        library.write_bytes(whole[:5000])
    elif damage == "flipped":
        library.write_bytes(whole[:9000] + bytes([whole[9000] ^ 255]) + whole[9001:])
    else:
        library.with_name(library.name + ".sha256").unlink()
    with Session(tiny_package, "csim") as session, Session(tiny_package) as emulator:
        assert built.is_whole(library)
        session.prefill(PROMPT)
        emulator.prefill(PROMPT)
        assert session.digest == emulator.digest


def test_code_that_this_meadow_did_not_emit_needs_a_word(copy: Path, meadowc: Any) -> None:
    source = copy / "hls" / "norm.hpp"
    source.write_text(source.read_text() + "// and something of my own\n")
    list_in_manifest(copy, "hls/norm.hpp")
    for command in (
        ("run", copy, "-p", "The", "-n", 1, "--raw", "--device", "csim"),
        ("selftest", copy, "--device", "emulated-pynq"),
        ("verify", copy, "--limit", 1, "--tokens", 1),
        ("bench", "traffic", copy, "--prompts", "4"),
    ):
        result = meadowc(*command)
        assert result.code == 2 and "hls/norm.hpp is not what this meadow emits for the design" in result.err, command
        assert "add --trust" in result.err
    assert meadowc("run", copy, "-p", "The", "-n", 1, "--raw", "--device", "csim", "--trust").code == 0
    assert meadowc("run", copy, "-p", "The", "-n", 1, "--raw").code == 0  # numpy runs no code of the package


def test_a_listed_file_more_needs_a_word_too(copy: Path, meadowc: Any) -> None:
    (copy / "hls" / "cstdio").write_text("#include_next <cstdio>\n")
    list_in_manifest(copy, "hls/cstdio")
    result = meadowc("run", copy, "-p", "The", "-n", 1, "--raw", "--device", "csim")
    assert result.code == 2 and "hls/cstdio is not what this meadow emits" in result.err


def test_an_installation_without_the_compiler_asks_always(tiny_package: Path) -> None:
    code = (
        "import sys; sys.modules['jinja2'] = None\n"
        "from pathlib import Path\nfrom meadow.cli.trust import require_trust\nfrom meadow.machine.errors import UsageError\n"
        "from meadow.machine.package.read import load\npackage = load(Path(sys.argv[1]))\nrequire_trust(package, True)\n"
        "try:\n    require_trust(package, False)\nexcept UsageError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tiny_package)], capture_output=True, text=True, check=True)
    assert "this installation has no compiler, so it cannot tell" in done.stdout and "add --trust" in done.stdout
