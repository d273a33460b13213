# SPDX-License-Identifier: Apache-2.0
"""Overflow has one meaning: numpy and C++ saturate alike, and no NaN is ever kept."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from meadow import boards
from meadow.compiler.pipeline import Options, compile_model
from meadow.compiler.sources.onnx.read import read
from meadow.machine.arithmetic import fp16 as pacq
from meadow.machine.arithmetic import int8 as ar
from meadow.machine.errors import DeviceError, UnsupportedModel
from meadow.machine.instructions.table import decode
from meadow.machine.isa import INSTRUCTION_BYTES, Opcode, unpack_slot
from meadow.machine.package.read import load, manifest_digest
from meadow.runtime.session import Session

PROMPT = [5, 9, 200, 31, 7, 44, 18]
SMALL = (("context", 64), ("block", 16), ("token_lanes", 4))
GAINS = {
    "gains of 1e20": {1: 1e20},
    "gains of 1e38": {2: 3e38, 5: -3e38},
    "gains of 1e-40": {0: 1e-40},
    "a last gain of 1e38": {8: 3e38},
    "gains that are not finite": {0: np.nan, 3: np.inf, 6: -np.inf},
}
"""By the number of the norm."""


def with_gains(folder: Path, gains: dict[int, float]) -> None:
    """Write other gains into a package, and repair its digests."""
    package = load(folder)
    norms = [fields for opcode, fields in decode(package.program("prefill")) if opcode is Opcode.NORM]
    data = bytearray((folder / "weights.bin").read_bytes())
    for number, value in gains.items():
        chunk, offset = unpack_slot(int(norms[number]["gain"]))
        at = package.manifest["chunks"][chunk]["file_offset"] + offset
        cols = int(norms[number]["cols"])
        data[at : at + 4 * cols] = np.full(cols, value, np.float32).tobytes()
    (folder / "weights.bin").write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["weights.bin"] = hashlib.sha256(data).hexdigest()
    manifest["digest"] = manifest_digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.csim
@pytest.mark.parametrize("dataflow", ["tphs", "gemm"])
@pytest.mark.parametrize("model", ["tiny_int8", "tiny_int4"])
def test_values_that_overflow_have_the_same_bits_in_numpy_and_cpp(
    model: str, dataflow: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = request.getfixturevalue(model)
    compile_model(source, boards.load("zcu102"), tmp_path / "p", Options(dataflow=dataflow, settings=SMALL))
    for gains in GAINS.values():
        package = Path(shutil.copytree(tmp_path / "p", tmp_path / "q", dirs_exist_ok=True))
        with_gains(package, gains)
        found = {}
        for device in ("emulator", "csim"):
            with Session(package, device) as session:
                rows = session.prefill(PROMPT, logits="all")
                session.step(3)
                found[device] = session.digest
                assert np.isfinite(rows).all()
        assert found["emulator"] == found["csim"]


def test_a_model_that_overflows_is_refused_with_that_cause(tiny_int8: Path, tmp_path: Path) -> None:
    proto = onnx.load(tiny_int8 / "model.onnx")
    gain = next(t for t in proto.graph.initializer if t.name == "blk.0.ffn_norm.weight")
    gain.CopyFrom(numpy_helper.from_array(np.full(gain.dims, 1e20, np.float32), gain.name))
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(UnsupportedModel, match=r"the model could not be checked: values overflow FP32"):
        read(tmp_path / "model.onnx")


def test_flush_keeps_numbers_only() -> None:
    x = np.array([np.inf, -np.inf, np.nan, 1e-40, -1e-40, 1.5, 3.4e38], np.float32)
    assert (
        ar.flush(x) == np.array([ar.LARGEST, -ar.LARGEST, ar.LARGEST, 0, -0.0, 1.5, np.float32(3.4e38)], np.float32)
    ).all()
    assert np.signbit(ar.flush(x)[4]) and not np.signbit(ar.flush(x)[3])


def test_a_rescaled_sum_saturates_on_both_paths_of_numpy() -> None:
    sums = np.array([[2.0**30, -(2.0**30), 1]], np.float32)
    a, w = np.array([3e30], np.float32), np.array([1e4, 1e4, 1e-4], np.float32)
    assert (ar.rescale(sums, a, w)[0, :2] == [ar.LARGEST, -ar.LARGEST]).all()
    assert ar.rescale(sums, a, w)[0, 2] == np.float32(np.float32(3e30) * np.float32(1e-4))


def test_a_half_of_nan_is_the_largest_and_its_limbs_end() -> None:
    held = pacq.half(np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32))
    assert np.abs(held[0, 0]) == 65504 and (held[0, 1:] == [65504, -65504, 1]).all()
    assert pacq.limbs(held.astype(np.float32), 8)


@pytest.mark.csim
@pytest.mark.parametrize("word", [1 << 17, 3, 1 | 3 << 8, 1 << 24, 0x100], ids=hex)
@pytest.mark.parametrize("device", ["emulator", "csim"])
def test_a_format_that_no_engine_of_the_design_takes_ends_the_run(word: int, device: str, tiny_package: Path) -> None:
    """A wrong format must not be read as raw weights."""
    package = load(tiny_package)
    code = np.frombuffer(package.program("prefill"), np.uint8).copy()
    steps = decode(code.tobytes())
    number = next(n for n, (opcode, _) in enumerate(steps) if opcode is Opcode.LINEAR)
    at = number * INSTRUCTION_BYTES + 4 * (1 + list(steps[number][1]).index("format"))
    code[at : at + 4] = np.array([word], np.uint32).view(np.uint8)
    with Session(tiny_package, device) as session, pytest.raises(DeviceError, match="no engine|not known|does not fit"):
        session.loaded.run_code(code[: (number + 1) * INSTRUCTION_BYTES], [5, 9])
