# SPDX-License-Identifier: Apache-2.0
"""Does a manifest hold together: sizes, entries, steps and addresses of hardware.  Part of read.py, asked when a package is opened."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from meadow.machine.engines.table import engines
from meadow.machine.errors import DeviceError
from meadow.machine.instructions.next import layout_of
from meadow.machine.instructions.table import decode
from meadow.machine.isa import Opcode, unpack_slot
from meadow.machine.package.check import check_program, check_slot
from meadow.machine.storage.rows import padded
from meadow.machine.units import LARGEST_CLOCK_MHZ

if TYPE_CHECKING:
    from meadow.machine.package.read import Package

FABRIC = (0xA000_0000, 0xB000_0000)
"""What M_AXI_HPM0_FPD reaches (UG1085)."""
PORT_REGISTERS = (0xFD36_0000, 0xFD3C_0000)
"""AFIFM of the memory ports (UG1087)."""


def check_sizes(package: Package) -> None:
    size = package.file("weights.bin").stat().st_size
    for entry in package.manifest["chunks"]:
        offset = entry["file_offset"]
        if offset is not None and not 0 <= offset <= offset + entry["bytes"] <= size:
            raise DeviceError(
                f"{package.folder}/weights.bin has {size} bytes and chunk {entry['index']} ends beyond: it is truncated; compile the model again"
            )
    program = package.file("program.bin").stat().st_size
    for name, entry in package.entries.items():
        if entry.offset + entry.bytes > program:
            raise DeviceError(
                f"{package.folder}/program.bin has {program} bytes and {name} ends beyond: it is truncated; compile the model again"
            )
        check_program(package, name)
        _check_places(package, name)
    _check_entries(package)


def _check_entries(package: Package) -> None:
    """Raise ValueError unless the host's tensors lie in memory, and the model's are there."""
    model, widths = package.model, {}
    for entry in package.entries.values():
        if not 1 <= entry.most_tokens <= package.design.block:
            raise ValueError(f"{entry.name} takes {entry.most_tokens} tokens and the design {package.design.block}")
        for tensor in (*entry.inputs, *entry.outputs):
            if tensor.stride != padded(tensor.width, 4):
                raise ValueError(f"{tensor.name} has rows of {tensor.width} at a stride of {tensor.stride}")
            assert isinstance(tensor.slot.space, int)
            length = entry.most_tokens * tensor.stride * 4
            check_slot(package, tensor.slot.space, tensor.slot.offset, length, tensor.name)
            widths[tensor.name] = tensor.width
    if widths.get("x") != model["dim"] or widths.get("logits") != model["vocab"]:
        raise ValueError(f"the entries take {widths}, and the model has {model['dim']} and {model['vocab']}")
    _check_ahead(package)
    named = sorted(n for row in package.manifest["regions"].values() for n in row["chunks"])
    if named != sorted(c.index for c in package.chunks):
        raise ValueError("the regions are not those of the chunks")


def _check_ahead(package: Package) -> None:
    """Raise ValueError unless what the host gives and takes lies where the step that chooses tokens has it, which is a program's last."""
    told, model = package.manifest["ahead"], package.model
    found = 0
    for name in package.entries:
        steps = decode(package.program(name))
        for number, (opcode, f) in enumerate(steps):
            if opcode is not Opcode.NEXT:
                continue
            found += 1
            if number != len(steps) - 1 or name != "decode":
                raise ValueError(f"step {number} of {name} chooses a token and is not the last of decode")
            if (f["vocab"], f["dim"], f["places"]) != (model["vocab"], model["dim"], package.design.context):
                raise ValueError(f"the step that chooses tokens is for another model: {f}")
            table = package.manifest["embedding"].get("places", [])
            wanted = {"x": _at(package, "x"), "logits": _at(package, "logits")}
            wanted |= {key: tuple(told.get(key, ())[:2]) for key in ("ring", "ends")}
            wanted |= {f"table{n}": tuple(place[:2]) for n, place in enumerate(table)}
            for key, place in wanted.items():
                if unpack_slot(int(f[key])) != place:
                    raise ValueError(f"{key} of the step that chooses tokens is not where the host has it")
            whole = layout_of(f)
            read = tuple(package.manifest["embedding"].get(key) for key in ("group", "form", "shift"))
            if [place[2] for place in table] != whole.lengths() or (f["group"], f["form"], f["shift"]) != read:
                raise ValueError("the table of embeddings is read otherwise than it lies in memory")
    if found != int("host" not in told):
        raise ValueError(f"{found} steps choose tokens, and the manifest says {told}")


def _at(package: Package, name: str) -> tuple[int, int]:
    slot = package.tensor(name).slot
    assert isinstance(slot.space, int)
    return slot.space, slot.offset


def _check_places(package: Package, name: str) -> None:
    """Raise ValueError unless steps.json has one whole row for each step, and every layer has steps in order."""
    try:
        rows = json.loads(package.file("steps.json").read_text())[name]
    except (ValueError, KeyError, RecursionError):
        raise ValueError("steps.json is not whole") from None
    count, layers = package.entries[name].steps, int(package.model["layers"])
    whole = isinstance(rows, list) and len(rows) == count and all(isinstance(r, list) and len(r) == 3 for r in rows)
    if not whole or not all(
        isinstance(role, str) and all(n is None or (type(n) is int and n >= 0) for n in (layer, part))
        for layer, role, part in rows
    ):
        raise ValueError(f"steps.json does not name the {count} steps of {name}")
    seen = [layer for layer, _, _ in rows if layer is not None]
    if sorted(seen) != seen or set(seen) != set(range(layers)):
        raise ValueError(f"the steps of {name} are not those of {layers} layers")


def check_hardware(hardware: dict[str, Any]) -> None:
    """Raise ValueError unless the addresses by which a board is driven are addresses of what they say."""
    blocks, widths = hardware["blocks"], hardware["widths"]
    own = {"meadow_engine", "meadow_identity"}
    if not own <= set(blocks) or len(set(blocks) - own) > 1 or set(blocks) - own - {e.name for e in engines()}:
        raise ValueError(f"hardware has the blocks {', '.join(blocks)}")
    first, last = FABRIC
    if any(not first <= at < last or at % 0x10000 for at in blocks.values()):
        raise ValueError("a block of registers lies outside of the fabric")
    if any(not PORT_REGISTERS[0] <= at < PORT_REGISTERS[1] for at in widths.values()):
        raise ValueError("the width of a port lies outside of the ports' registers")
    if not hardware["clocks_mhz"] or any(not 0 < mhz <= LARGEST_CLOCK_MHZ for mhz in hardware["clocks_mhz"]):
        raise ValueError(f"clocks of {hardware['clocks_mhz']} MHz")
    if not 0 < hardware["source_mhz"] <= LARGEST_CLOCK_MHZ:
        raise ValueError(f"a clock of {hardware['source_mhz']} MHz for the MMCM")
    if not 0 < hardware["interrupt"] < 1 << 10:
        raise ValueError(f"interrupt {hardware['interrupt']}")
    if not hardware["ddr"] or any(at < 0 or length <= 0 or at + length > 1 << 40 for at, length in hardware["ddr"]):
        raise ValueError("the DRAM lies outside of the address map")
