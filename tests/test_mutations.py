# SPDX-License-Identifier: Apache-2.0
"""Faults planted in the Python and the C++, one at a time: the test named for each must notice.  `make mutations` runs these.

A fault that none notices and that is none (it changes nothing that is promised) is listed in SURVIVORS with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = sorted({p.parent.name for p in ROOT.glob("*/__init__.py")} - {"api", "tests"})


@dataclass(frozen=True)
class Fault:
    """`old` becomes `new` in `file`; `caught_by` is a test file below tests/, and an expression for pytest -k."""

    what: str
    file: str
    old: str
    new: str
    caught_by: str


LIMITS, CPP, EXTREMES = "test_limits.py", "hls/test_cpp.py", "hls/test_extremes.py"
CONFIRM, FOLDER, EXTENTS, VERIFY = (
    "compiler/test_confirm.py",
    "machine/test_folder.py",
    "machine/test_extents.py",
    "evidence/test_verify.py",
)
SPARSE, MASKS = "compiler/test_sparse.py", "compiler/test_masks.py"
AHEAD, SOLVER, PRUNE = "runtime/test_ahead.py", "compiler/test_solver.py", "compiler/test_prune.py"
INTERRUPTS, BUILT, CONTROL = "runtime/test_interrupts.py", "runtime/test_built.py", "runtime/test_control_tokens.py"
DRAFTS, ROUNDS, TARGETS = "runtime/test_drafts.py", "speculate/test_rounds.py", "targets/test_targets.py"
COLUMNS, LADDER = "machine/test_columns.py", "test_ladder.py"
FAULTS = (
    # Weights column by column.
    Fault(
        "columns of negative codes are not read",
        "hls/sim/columns.hpp",
        "codes[static_cast<std::size_t>(k)] != 0) columns",
        "codes[static_cast<std::size_t>(k)] > 0) columns",
        f"{SPARSE} -k thresholds_are_the_same_bits",
    ),
    Fault(
        "the last group of a list is not read",
        "hls/sim/columns.hpp",
        "pieces(live, kColumnPorts);",
        "live / kColumnPorts;",
        f"{SPARSE} -k thresholds_are_the_same_bits",
    ),
    Fault(
        "the last group of a list is not predicted",
        "machine/storage/columns.py",
        "-(-int(np.count_nonzero(codes)) // self.ports)",
        "int(np.count_nonzero(codes)) // self.ports",
        f"{COLUMNS} -k live_columns",
    ),
    Fault(
        "the upper half of 16 rows takes the scales of the lower",
        "hls/columns.hpp",
        "w_scale[row / kColumnSums + (upper ? 1 : 0)]",
        "w_scale[row / kColumnSums]",
        f"{LADDER} -k cpp",
    ),
    Fault(
        "stripes are cut where nobody looks for them",
        "machine/storage/columns.py",
        "cut = STRIPE * BEAT_BYTES",
        "cut = STRIPE",
        f"{COLUMNS} -k columns_come_back",
    ),
    # Speculative decoding.
    Fault(
        "a wrong draft is accepted",
        "runtime/generation.py",
        "if n == len(proposed) or found[-1] != proposed[n] or found[-1] in end_tokens:",
        "if n == len(proposed) or found[-1] in end_tokens:",
        f"{DRAFTS} -k any_drafts",
    ),
    Fault(
        "the digest counts rows that nobody chose from",
        "runtime/generation.py",
        "session._digest.update(uncounted[n].data)",
        "session._digest.update(uncounted.data)",
        f"{DRAFTS} -k any_drafts",
    ),
    Fault(
        "verified tokens that were not given out are kept",
        "runtime/generation.py",
        "        session.position = start\n",
        "        session.position = start + len(proposed)\n",
        f"{DRAFTS} -k any_drafts or stops_between",
    ),
    Fault(
        "an old round's result is taken for the new one's",
        "speculate/rounds.py",
        "or message.round != self.round:\n            return  # late, or doubled",
        "or message.round > self.round:\n            return  # late, or doubled",
        f"{ROUNDS} -k whatever_the_link",
    ),
    Fault(
        "the server does not look whether it has the board's text",
        "speculate/rounds.py",
        "if self.text is None or message.round != self.round + 1 or message.check != check_of(self.text):",
        "if self.text is None:",
        f"{ROUNDS} -k old_doubled",
    ),
    Fault(
        "what an exit said is taken for the result",
        "speculate/rounds.py",
        "        elif isinstance(message, Early):\n            self._early(message)",
        "        elif isinstance(message, Early):\n            self._commit(Final(message.round, message.accepted, message.token))",
        f"{ROUNDS} -k whatever_the_link",
    ),
    Fault(
        "drafts ahead are kept although the guess was wrong",
        "speculate/rounds.py",
        "hit = g is not None and (g.accepted, g.token) == (message.accepted, message.token)",
        "hit = g is not None",
        "evidence/test_speculate.py -k hides_drafts",
    ),
    Fault(
        "a rejected draft's token comes from the target's whole distribution",
        "speculate/chance.py",
        "rest = np.maximum(q - p, 0)",
        "rest = q",
        f"{ROUNDS} -k keeps_the_targets",
    ),
    Fault(
        "a draft is accepted with the probability of the draft",
        "speculate/chance.py",
        "if uniform(seed, place + n, ACCEPT) * p[x] >= q[x]:",
        "if uniform(seed, place + n, ACCEPT) >= p[x]:",
        f"{ROUNDS} -k keeps_the_targets",
    ),
    Fault(
        "a target keeps keys of drafts that were rejected",
        "targets/graph.py",
        "cache[layer] = cache[layer][:start]",
        "cache[layer] = cache[layer][: start + 1]",
        f"{TARGETS} -k same_bits",
    ),
    Fault(
        "a matrix meets as many rows as there are",
        "targets/graph.py",
        "tile = np.zeros((TILE, x.shape[1]), np.float32)",
        "tile = np.zeros((min(TILE, len(x) - start), x.shape[1]), np.float32)",
        f"{TARGETS} -k same_bits",
    ),
    Fault(
        "a look-up proposes what stood before the match",
        "speculate/lookup.py",
        "return [self.text[start + n % period] for n in range(most)]",
        "return [self.text[start - 1 + n % period] for n in range(most)]",
        "speculate/test_drafting.py -k search_through",
    ),
    # What earlier tests did not notice.
    Fault(
        "auto packs by the slowest scheme",
        "compiler/engines/array.py",
        "best = min(found",
        "best = max(found",
        f"{LIMITS} -k least_time",
    ),
    Fault(
        "fetching takes the fastest port's time",
        "compiler/engines/array.py",
        "return int(self.coded.directory.max(axis=1).sum()) + -(-self",
        "return int(self.coded.directory.min(axis=1).sum()) + -(-self",
        f"{LIMITS} -k slowest_port",
    ),
    Fault(
        "each round takes a pair too few",
        "machine/storage/prefix_code.py",
        "chosen = 2 * (chosen - taken)",
        "chosen = 2 * (chosen - taken) - 2",
        f"{LIMITS} -k best_that",
    ),
    Fault(
        "the dataflow is chosen for an empty cache",
        "compiler/program/nodes/attention.py",
        "position = max(0, min(p.design.context, 512) - tokens)",
        "position = 0",
        f"{LIMITS} -k reason_names",
    ),
    Fault(
        "rows of logits are not padded",
        "compiler/program/nodes/linear.py",
        "stride = padded(p.graph.model.vocab, 4)",
        "stride = p.graph.model.vocab",
        f"{LIMITS} -k group_of_three",
    ),
    Fault(
        "large rows are clamped early",
        "machine/instructions/norm.py",
        "NORM_EXPONENTS = (-45, 60)",
        "NORM_EXPONENTS = (-45, 40)",
        f"{LIMITS} -k exponents",
    ),
    Fault(
        "the smallest normal number is flushed",
        "machine/arithmetic/int8.py",
        "subnormal = bits < np.uint32(0x00FFFFFF)",
        "subnormal = bits <= np.uint32(0x00FFFFFF)",
        f"{LIMITS} -k smallest_normal",
    ),
    Fault(
        "the largest scale decides about flushing",
        "machine/arithmetic/int8.py",
        "return np.min(magnitude, where=magnitude > 0, initial=np.float32(1))",
        "return np.max(magnitude, initial=np.float32(0))",
        f"{LIMITS} -k rescaling",
    ),
    Fault(
        "nobody looks whose conversation it is",
        "runtime/session.py",
        "if conversation != self._conversation:",
        "if False:",
        f"{INTERRUPTS} -k streams_of_several",
    ),
    Fault(
        "broken characters are held for long",
        "runtime/text/tokenizer.py",
        "held < HOLD_TOKENS",
        "held < 2 * HOLD_TOKENS",
        f"{LIMITS} -k eight_tokens",
    ),
    Fault(
        "text begins with two tokens of beginning",
        "runtime/text/tokenizer.py",
        "if begin is not None and (not ids or ids[0] != begin):",
        "if begin is not None:",
        f"{LIMITS} -k beginning",
    ),
    Fault(
        "an answer is decoded with one token of context",
        "runtime/text/tokenizer.py",
        "self.ids = self.ids[-2 * HOLD_TOKENS :]",
        "self.ids = self.ids[-1:]",
        f"{LIMITS} -k tokens_of_context",
    ),
    Fault(
        "small rows are clamped early in C++",
        "hls/norm.hpp",
        "return clamp(exponent_of(peak), kNormLowest, kNormHighest);",
        "return clamp(exponent_of(peak), kNormLowest + 5, kNormHighest);",
        f"{CPP} -k every_exponent",
    ),
    Fault(
        "large rows are clamped early in C++",
        "hls/norm.hpp",
        "return clamp(exponent_of(peak), kNormLowest, kNormHighest);",
        "return clamp(exponent_of(peak), kNormLowest, kNormHighest - 10);",
        f"{CPP} -k every_exponent",
    ),
    Fault(
        "a damaged directory is believed",
        "hls/array.hpp",
        "found < static_cast<uint32_t>(most) ? static_cast<int>(found) : most",
        "static_cast<int>(found)",
        f"{LIMITS} -k damaged_directory",
    ),
    Fault(
        "a run may pass the end of the context",
        "hls/sequencer.hpp",
        "position > kContext - tokens",
        "position > kContext",
        f"{LIMITS} -k end_of_the_context",
    ),
    Fault(
        "the end of a row of floats is not zero",
        "hls/memory.hpp",
        "four.word[k] = n * kFloatsInBeat + k < count ? as_bits(in[n * kFloatsInBeat + k]) : 0;",
        "four.word[k] = as_bits(in[n * kFloatsInBeat + k < count ? n * kFloatsInBeat + k : 0]);",
        f"{LIMITS} -k same_memory",
    ),
    Fault(
        "the end of a quantized row is not zero",
        "hls/norm.hpp",
        "levels.inverse) : static_cast<int8_t>(0);",
        "levels.inverse) : static_cast<int8_t>(1);",
        f"{LIMITS} -k same_memory",
    ),
    Fault(
        "what lies before a row in its beat is lost in C++",
        "hls/memory.hpp",
        "set_word(beat, k, k < offset ? both[k] :",
        "set_word(beat, k, k < offset ? both[0] :",
        f"{CPP} -k stored_row",
    ),
    Fault(
        "heads of the next group attend too",
        "hls/steps.hpp",
        "const int some = left < turns.together ? left : turns.together;",
        "const int some = turns.together;",
        f"{LIMITS} -k group_of_three",
    ),
    # Reading and confirming.
    Fault(
        "a bias is read from the next tile",
        "machine/instructions/options.py",
        'table = m.array(f["bias"], np.float32, tiles, width)[first:, :tile_rows]',
        'table = m.array(f["bias"], np.float32, tiles, width)[::-1][first:, :tile_rows]',
        "test_features.py -k biases-int8",
    ),
    Fault(
        "a window is one key wider in C++",
        "hls/attention.hpp",
        "const int first = until - g.window;",
        "const int first = until - g.window - 1;",
        "test_features.py -k window-int8",
    ),
    Fault(
        "the cap on scores is the table's alone in C++",
        "hls/arithmetic.hpp",
        "const float t = z < kCapSmall ? small : (one - p) / (one + p);",
        "const float t = (one - p) / (one + p);",
        "test_features.py -k capped",
    ),
    Fault(
        "a layer norm does not subtract the mean",
        "machine/instructions/norm.py",
        'x = centred(x) if f["kind"] & CENTRED else x',
        "x = x",
        "test_features.py -k layer",
    ),
    Fault(
        "a window is one token wider",
        "compiler/sources/onnx/lift/positions.py",
        "width = width or int(distance[hidden].min())",
        "width = width or int(distance[hidden].min()) + 1",
        f"{CONFIRM} -k sliding_window",
    ),
    Fault(
        "only the first positions are looked at",
        "compiler/sources/onnx/lift/positions.py",
        "while power < context:",
        "while power < 4:",
        f"{CONFIRM} -k one_token_at_one_position",
    ),
    Fault(
        "any angle is the right one",
        "compiler/sources/onnx/lift/positions.py",
        "<= max(tolerance, place * 2.0**-22)",
        "<= 10.0",
        f"{CONFIRM} -k rotary_factors",
    ),
    Fault(
        "a length of the cache is taken on trust",
        "compiler/sources/onnx/contrib.py",
        "if seqlens is not None and",
        "if False and",
        "compiler/test_normalize.py -k taken_on_trust",
    ),
    Fault(
        "options of an attention operator are passed over",
        "compiler/sources/onnx/lift/fused.py",
        "strange = sorted(k for k in a if k not in GROUPED)",
        "strange = sorted(k for k in a if k in ())",
        "compiler/test_normalize.py -k nothing_computes",
    ),
    Fault(
        "external data of Constants has no part in the digest",
        "compiler/sources/onnx/file.py",
        'if attribute.HasField("t"):',
        "if False:",
        "compiler/test_normalize.py -k digest",
    ),
    Fault(
        "any difference is tolerated",
        "compiler/sources/onnx/confirm.py",
        "if not worst <= tolerance * max(largest, 1e-6):",
        "if not worst <= 1e9 * max(largest, 1e-6):",
        f"{CONFIRM} -k confirmed_by_numbers",
    ),
    Fault(
        "packed codes are read from the other end",
        "compiler/sources/onnx/packed.py",
        'bitorder="little"',
        'bitorder="big"',
        f"{VERIFY} -k onnxruntimes_quantizer",
    ),
    Fault(
        "gains that are alike are one",
        "compiler/sources/onnx/lift/tensors.py",
        "while name in self.vectors:",
        "while False:",
        f"{CONFIRM} -k share_an_initializer",
    ),
    Fault(
        "a softcap is not kept",
        "compiler/sources/onnx/lift/settle.py",
        "made = replace(base, scale=base.scale * slope * cap, cap=cap)",
        "made = replace(base, scale=base.scale * slope * cap)",
        f"{CONFIRM} -k softcap_of_the_attention",
    ),
    Fault(
        "features keep their order whatever moves them",
        "compiler/sources/onnx/lift/form.py",
        "inverse[order] = place",
        "inverse[...] = place",
        f"{CONFIRM} -k shuffled",
    ),
    Fault(
        "rows of a fused matrix are taken from its begin",
        "compiler/sources/onnx/lift/tensors.py",
        "at: Any = slice(first, last) if straight else rows",
        "at: Any = slice(0, last - first) if straight else rows",
        "compiler/test_spellings.py -k fused",
    ),
    Fault(
        "a norm may read any value",
        "compiler/program/residual.py",
        "and not _post(node, by_name)\n            and node.inputs[0] != running",
        "and not _post(node, by_name)\n            and False",
        f"{CONFIRM} -k parallel_block",
    ),
    Fault(
        "gains that are stored less one are taken as they are",
        "compiler/sources/hugging_face/read.py",
        "return values + np.float32(family.offset) if",
        "return values if",
        "compiler/test_folders.py -k folder_of_every_family",
    ),
    Fault(
        "heads of a fused matrix are cut in a row",
        "compiler/sources/hugging_face/read.py",
        "if not self.decoder.family.by_head:",
        "if True:",
        "compiler/test_folders.py -k folder_of_every_family",
    ),
    Fault(
        "zero points of GPTQ are one too small",
        "compiler/sources/hugging_face/packed.py",
        '0 if second or method == "awq" else 1',
        "0",
        "compiler/test_folders.py -k gptq_folder",
    ),
    Fault(
        "a file outside of the folder is opened",
        "compiler/sources/hugging_face/checkpoint.py",
        "if Path(name).name != name:",
        "if False:",
        "compiler/test_folders.py -k hostile",
    ),
    Fault(
        "a tensor that nothing reads is passed over",
        "compiler/sources/hugging_face/read.py",
        "        self._check_rest(used)\n",
        "",
        "compiler/test_folders.py -k true_cause",
    ),
    Fault(
        "a norm of a sum is added to the sum",
        "compiler/program/nodes/norm.py",
        "_step(p, node, rows, 0)",
        "_step(p, node, rows, ADDED)",
        "test_features.py -k sums",
    ),
    Fault(
        "what is computed last is added first",
        "compiler/graph/passes/one_residual.py",
        "sorted((t for t in parts if t != first[0]), key=order.__getitem__)",
        "[t for t in parts if t != first[0]]",
        "test_features.py -k behind",
    ),
    Fault(
        "learned positions are no place to cut a graph",
        "compiler/sources/onnx/lift/positions.py",
        "own = bool(value.shape[-1] == base.width and",
        "own = bool(value.shape[-1] < base.width and",
        "compiler/test_spellings.py -k Gemms",
    ),
    Fault(
        "a layer that the logits do not read passes",
        "compiler/sources/onnx/read.py",
        "        if idle:\n",
        "        if False:\n",
        "compiler/test_causes.py -k layer_that",
    ),
    Fault(
        "what a file loses by its roundings is not judged",
        "compiler/sources/onnx/read.py",
        "if not noise <= MOST_NOISE:",
        "if False:",
        "compiler/test_rounding.py -k another_function",
    ),
    Fault(
        "scales of integer products are forgotten",
        "compiler/sources/onnx/rounding.py",
        "[node.input[1], self._flat(weight_scale), *(self._flat(z) for z in zero)]",
        "[node.input[1], self.scales[node.input[0]], *(self._flat(z) for z in zero)]",
        "compiler/test_rounding.py -k dynamic",
    ),
    Fault(
        "rows of a matrix that is deferred come in the stored order",
        "machine/types.py",
        "lambda some: self.some_codes(order[some])",
        "self.some_codes",
        "compiler/test_memory.py -k deferred",
    ),
    Fault(
        "what waits on the disk is written over",
        "compiler/emit/spool.py",
        "start = self._end",
        "start = 0",
        "compiler/test_memory.py -k disk",
    ),
    Fault(
        "YaRN's ramp is turned round",
        "compiler/sources/families/rotary.py",
        "found / factor * ramp + found * (1 - ramp)",
        "found / factor * (1 - ramp) + found * ramp",
        "compiler/test_folders.py -k YaRN",
    ),
    Fault(
        "a board that is too small is not told what would fit",
        "compiler/size/memory.py",
        "if memory.total(context) <= room:",
        "if True:",
        "cli/test_cli.py -k boards_say",
    ),
    Fault(
        "a window of GGUF is not kept",
        "compiler/sources/gguf/file.py",
        'window = int(keys.number("attention.sliding_window", 0))',
        'window = int(keys.number("attention.sliding_window", 0)) * 0',
        "compiler/test_convert.py -k window_of_the_file",
    ),
    Fault(
        "the first of a chain is forgotten",
        "compiler/models.py",
        "first = (file.parent / path).resolve() if path and digest else file.resolve()",
        "first = file.resolve()",
        f"{VERIFY} -k chain",
    ),
    Fault(
        "codes are rounded again",
        "compiler/quantize/recipe.py",
        "elif weight.elem.group and weight.elem.bits <= bits:",
        "elif False:",
        f"{VERIFY} -k keep_their_codes",
    ),
    Fault(
        "rung 0 rounds activations",
        "compiler/sources/onnx/file.py",
        "and a.i > FP32_ACCURACY]",
        "and a.i > 9]",
        f"{VERIFY} -k computes_in_full",
    ),
    Fault(
        "rung 0 is the rewritten file",
        "evidence/ladder/reference.py",
        "reference_model(package, None, prefer_origin=True), source)",
        "source, source)",
        f"{VERIFY} -k another_function",
    ),
    Fault(
        "foreign errors pass the guard",
        "machine/guard.py",
        "except BaseException as found:",
        "except ValueError as found:",
        "compiler/test_hostile.py -k guard_names",
    ),
    # Folders and packages.
    Fault(
        "unknown files are replaced",
        "machine/folder.py",
        "if name not in files or path.is_symlink():",
        "if path.is_symlink():",
        f"{FOLDER} -k does_not_know",
    ),
    Fault(
        "what was moved away is not put back",
        "machine/folder.py",
        'if (left / "old").is_dir() and not real.exists():',
        "if False:",
        f"{FOLDER} -k between",
    ),
    Fault(
        "a failed rename loses the folder",
        "machine/folder.py",
        '            (away / "old").rename(real)\n            raise',
        "            raise",
        f"{FOLDER} -k failure_at",
    ),
    Fault(
        "companions count by their name",
        "compiler/pipeline.py",
        'f"{name}:{hashlib.sha256(text).hexdigest()}"',
        "name",
        f"{FOLDER} -k companion",
    ),
    Fault(
        "a damaged package is current",
        "compiler/pipeline.py",
        'package.manifest["inputs"] == inputs) and not package.verify_files()',
        'package.manifest["inputs"] == inputs)',
        f"{FOLDER} -k damaged_package",
    ),
    Fault(
        "boards are no sources",
        "compiler/emit/save.py",
        'for name in ("boards", "compiler", "hls", "machine", "rtl"):',
        'for name in ("compiler", "hls", "rtl"):',
        f"{FOLDER} -k sees_every_source",
    ),
    Fault(
        "gains may lie anywhere",
        "machine/instructions/norm.py",
        'Extent("gain", float_rows(1, cols), CONSTANTS)',
        'Extent("gain", float_rows(1, cols), CONSTANTS + ("weights",))',
        f"{EXTENTS} -k gain",
    ),
    Fault(
        "a step may write over what it reads",
        "machine/package/check.py",
        "extent.written\n                and other is not extent",
        "False\n                and other is not extent",
        f"{EXTENTS} -k write_over",
    ),
    Fault(
        "weights may be read otherwise than packed",
        "machine/package/check.py",
        "if found != value:",
        "if False:",
        f"{EXTENTS} -k fewer or later",
    ),
    Fault(
        "a stream's damage is not noticed",
        "machine/package/read.py",
        'if zlib.crc32(sums) != row["crc32"]:',
        "if False:",
        "machine/test_package.py -k checksum",
    ),
    # The runtime.
    Fault(
        "any thread may go on",
        "runtime/session.py",
        "elif self._owner != threading.get_ident():",
        "elif False:",
        f"{INTERRUPTS} -k second_thread",
    ),
    Fault(
        "the simulation's memory is written while it runs",
        "runtime/devices/csim.py",
        'until then it is the engine\'s."""\n        self.engine.settle()',
        'until then it is the engine\'s."""',
        f"{INTERRUPTS} -k nothing_is_written",
    ),
    Fault(
        "the board's memory is written while it runs",
        "runtime/devices/control.py",
        "        if self.running:\n            if not self.settled():",
        "        if False:\n            if not self.settled():",
        f"{INTERRUPTS} -k nothing_is_written",
    ),
    Fault(
        "uploaded memory is not compared",
        "runtime/loaded.py",
        "if different.size:",
        "if False:",
        f"{INTERRUPTS} -k differs_from_the_package",
    ),
    Fault(
        "a message's special tokens count",
        "runtime/text/tokenizer.py",
        "pieces.append((back[part], False)",
        "pieces.append((back[part], True)",
        f"{CONTROL} -k end_its_turn",
    ),
    Fault(
        "only special tokens are control tokens",
        "runtime/text/tokenizer.py",
        "(t.special or re.fullmatch(",
        "(t.special or False and re.fullmatch(",
        f"{CONTROL} -k written_like",
    ),
    Fault(
        "templates may say anything long",
        "runtime/text/template_worker.py",
        "if len(text) > LONGEST:",
        "if False:",
        f"{CONTROL} -k without_bound",
    ),
    Fault(
        "links among sources are followed",
        "machine/package/read.py",
        "if path.is_symlink() or (not",
        "if (not",
        f"{BUILT} -k link",
    ),
    Fault(
        "damaged libraries are loaded",
        "runtime/devices/built.py",
        "_note(path).read_text() == sha256(path)",
        "_note(path).is_file()",
        f"{BUILT} -k damaged_library",
    ),
    Fault(
        "libraries are found by base names",
        "runtime/devices/built.py",
        'digest.update(f"\\0{name}\\0',
        'digest.update(f"\\0{name.rpartition(chr(47))[2]}\\0',
        f"{BUILT} -k depends_on_paths",
    ),
    Fault(
        "foreign code needs no word", "cli/trust.py", "    if different:", "    if False:", f"{BUILT} -k did_not_emit"
    ),
    Fault(
        "a token does not see itself",
        "machine/instructions/heads.py",
        "(distance < window) if window else distance >= 0",
        "(distance < window) if window else distance >= 1",
        f"{LIMITS} -k onnxruntime_computes",
    ),
    Fault(
        "minus infinity is the largest number",
        "machine/arithmetic/int8.py",
        "np.where(found == -np.inf, -LARGEST,",
        "np.where(found == -np.inf, LARGEST,",
        f"{EXTREMES} -k numbers_only",
    ),
    Fault(
        "scores overflow in numpy",
        "machine/arithmetic/int8.py",
        "y = saturate(products * flush(",
        "y = (products * flush(",
        f"{EXTREMES} -k same_bits",
    ),
    # The C++.
    Fault(
        "overflow in C++ is always positive",
        "hls/arithmetic.hpp",
        "(nan ? 0u : bits & kSignBit) | kLargestBits",
        "kLargestBits",
        f"{EXTREMES} -k same_bits",
    ),
    Fault(
        "ties round up in C++",
        "hls/arithmetic.hpp",
        "(more || (whole & 1u) != 0)",
        "(more || true)",
        f"{CPP} -k every_tie",
    ),
    Fault(
        "quiet rows begin higher in C++",
        "hls/arithmetic.hpp",
        "peak < kQuiet;",
        "peak < 4.0f * kQuiet;",
        f"{CPP} -k quiet",
    ),
    Fault(
        "exponents are one off in C++",
        "hls/arithmetic.hpp",
        "return field == 0 ? 0 : field - 126;",
        "return field == 0 ? 0 : field - 127;",
        f"{CPP} -k norms",
    ),
    Fault(
        "the rotation goes the other way in C++",
        "hls/arithmetic.hpp",
        "flush(high * c + low * s)",
        "flush(high * c - low * s)",
        f"{CPP} -k rotation",
    ),
    Fault(
        "gated rows lie at twice their place in C++",
        "hls/steps.hpp",
        "step.column = half == 2 ? row / 2 : row;",
        "step.column = row;",
        f"{LIMITS} -k group_of_three",
    ),
    Fault(
        "heads of a group share a place in C++",
        "hls/steps.hpp",
        "int column = head * a.head_dim;",
        "int column = kv * a.head_dim;",
        f"{LIMITS} -k group_of_three",
    ),
    Fault(
        "the peak begins at zero in C++",
        "hls/attention.hpp",
        "peak[lane] = INT32_MIN;",
        "peak[lane] = 0;",
        f"{LIMITS} -k group_of_three",
    ),
    Fault(
        "the last of equal logits is taken in C++",
        "hls/next.hpp",
        "const bool more = rank[0] > best;",
        "const bool more = rank[0] >= best;",
        f"{AHEAD} -k equal",
    ),
    Fault(
        "a zero below the other zero in C++",
        "hls/next.hpp",
        "return (bits & ~kSignBit) == 0 ? 0 : order_of(as_float(bits));",
        "return order_of(as_float(bits));",
        f"{AHEAD} -k equal",
    ),
    Fault(
        "no token ends an answer in C++",
        "hls/next.hpp",
        "const bool again = !ended && run.made",
        "const bool again = run.made",
        f"{AHEAD} -k ends_at_an",
    ),
    Fault(
        "the place does not move in C++",
        "hls/next.hpp",
        "    ++run.position;\n",
        "",
        f"{AHEAD} -k one_start",
    ),
    Fault(
        "a table's first part serves for all",
        "hls/next.hpp",
        "i.word[isa::next::table0 + (part & 3u)]",
        "i.word[isa::next::table0]",
        f"{AHEAD} -k in_parts",
    ),
    Fault(
        "codes without a sign are taken for others in C++",
        "hls/next.hpp",
        "static_cast<int>(static_cast<uint8_t>(code))) * scale[g]",
        "static_cast<int>(code)) * scale[g]",
        f"{AHEAD} -k every_form",
    ),
    Fault(
        "a number is told before its token is there",
        "runtime/ahead.py",
        "if int(beat[1]) == self._given + 1 else None",
        "if int(beat[1]) == self._given + 2 else None",
        f"{AHEAD} -k one_start",
    ),
    Fault(
        "what the engine does ahead is not ended by what is asked next",
        "runtime/loaded.py",
        "            self.settle()\n            del self.cached[position:]  # first",
        "            del self.cached[position:]  # first",
        f"{AHEAD} -k in_the_middle",
    ),
    Fault(
        "an error ends with its block",
        "compiler/quantize/solver.py",
        "w[b:] -= upper[a:b, b:].T @ errors",
        "w[b:] -= 0 * (upper[a:b, b:].T @ errors)",
        f"{SOLVER} -k optimum or blocks",
    ),
    Fault(
        "the difference of the streams has the other sign",
        "compiler/quantize/walk.py",
        "c += (target[start : start + CHUNK] - some).T @ some",
        "c += (some - target[start : start + CHUNK]).T @ some",
        f"{SOLVER} -k one_product",
    ),
    Fault(
        "parameters are taken though they are worse",
        "compiler/quantize/grid.py",
        "better = (gain < 0) & (new > 0)",
        "better = (gain < 1e9) & (new > 0)",
        f"{SOLVER} -k polishing",
    ),
    Fault(
        "what is turned is not turned back",
        "compiler/quantize/rotate.py",
        'w[source.weight or ""] = turn.T @ w[source.weight or ""]',
        'w[source.weight or ""] = turn @ w[source.weight or ""]',
        "compiler/test_rotate.py -k same_function",
    ),
    Fault(
        "what another run solved is taken",
        "compiler/quantize/kept.py",
        "same = json.loads((self.folder / MINE).read_text()) == key",
        "same = bool(json.loads((self.folder / MINE).read_text()))",
        "compiler/test_walk.py -k kept",
    ),
    Fault(
        "the device stream keeps the float weights",
        "compiler/quantize/walk.py",
        "weight = self.made.get(op.weight) or self.graph.weights[op.weight]",
        "weight = self.graph.weights[op.weight]",
        "compiler/test_walk.py -k device_stream",
    ),
    Fault(
        "heads that are not alike go in one piece",
        "compiler/program/parts.py",
        "last.heads == some * last.kv_heads",
        "last.heads >= some * last.kv_heads",
        f"{PRUNE} -k alike or same_bits",
    ),
    Fault(
        "a piece of heads writes over the first",
        "compiler/program/nodes/attention.py",
        '                "target": p.slot(target).after(some.first * op.head_dim * 4),',
        '                "target": p.slot(target),',
        f"{PRUNE} -k same_bits",
    ),
    Fault(
        "a piece of heads reads the first keys",
        "compiler/program/nodes/attention.py",
        "rows = some.first_kv * capacity",
        "rows = 0 * some.first_kv * capacity",
        f"{PRUNE} -k same_bits",
    ),
    Fault(
        "columns of other heads go",
        "compiler/prune/cut.py",
        "edit.columns(block.o, places(kept, op.head_dim))",
        "edit.columns(block.o, places(kept[::-1], op.head_dim))",
        f"{PRUNE} -k at_zero",
    ),
    Fault(
        "a fit is taken though it is worse",
        "compiler/prune/repair.py",
        "best = int(np.argmin(errors))",
        "best = len(errors) - 1",
        f"{PRUNE} -k held_out",
    ),
    Fault(
        "keys take no part in a derivative",
        "compiler/prune/gradient.py",
        "made[1][:, kv] += ds.T @ q[:, head]",
        "made[1][:, kv] += 0 * (ds.T @ q[:, head])",
        f"{PRUNE} -k small_differences",
    ),
    Fault(
        "a threshold looks at the sign",
        "hls/norm.hpp",
        "magnitude_of(x.value[k]) > threshold",
        "as_bits(x.value[k]) > threshold",
        f"{SPARSE} -k same_bits",
    ),
    Fault(
        "a row is not cut on the way from its norm",
        "compiler/program/nodes/norm.py",
        'made | {"threshold": value}',
        'made | {"threshold": 0 * value}',
        f"{SPARSE} -k same_bits",
    ),
    Fault(
        "a price is looked for on the wrong side",
        "compiler/sparsify/shape.py",
        "        if found[1] < share:\n            low, below = price, found",
        "        if found[1] > share:\n            low, below = price, found",
        f"{SPARSE} -k costs_decide",
    ),
    Fault(
        "the weights that matter most go",
        "compiler/prune/masks.py",
        'kept[np.argsort(score, axis=None, kind="stable")[:gone]] = False',
        'kept[np.argsort(-score, axis=None, kind="stable")[:gone]] = False',
        f"{MASKS} -k made_good",
    ),
    Fault(
        "what a threshold takes away is not made good",
        "compiler/prune/masks.py",
        'gram_of(x, target if rule == "duogpt" else x)',
        "gram_of(x, x)",
        f"{MASKS} -k activations_that_are_cut",
    ),
)
SURVIVORS: dict[str, str] = {
    "templates may say anything long": "a prompt of more than 8 MB does not come through the pipe in the time that a template has",
}
"""Faults of FAULTS that nothing notices, with the reason why they are none.  At most a tenth."""


def test_there_are_enough_faults_in_both_languages() -> None:
    cpp = [f for f in FAULTS if f.file.endswith((".hpp", ".cpp"))]
    assert len(FAULTS) >= 60 and len(cpp) >= 15 and len({f.what for f in FAULTS}) == len(FAULTS)
    assert len(SURVIVORS) <= len(FAULTS) / 10 and set(SURVIVORS) <= {f.what for f in FAULTS}
    for fault in FAULTS:
        text = (ROOT / fault.file).read_text()
        assert text.count(fault.old) == 1, f"{fault.old!r} stands {text.count(fault.old)} times in {fault.file}"


def noticed(fault: Fault | None, caught_by: str, work: Path) -> bool:
    """Whether the tests fail on a copy of the product with the fault in it."""
    site = work / "site" / "meadow"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, site / name, ignore=shutil.ignore_patterns("__pycache__"))
    if fault is not None:
        path = site / fault.file
        path.write_text(path.read_text().replace(fault.old, fault.new))
    files, _, chosen = caught_by.partition(" -k ")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "--timeout=240",
        "-o",
        "addopts=--import-mode=importlib",
        f"--basetemp={work / 'base'}",
        *(f"tests/{f}" for f in files.split()),
        "-k",
        chosen,
    ]
    paths = os.pathsep.join((str(work / "site"), str(ROOT / "tests")))
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths, "XDG_CACHE_HOME": str(work / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), f"pytest ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}"
    return done.returncode == 1


@pytest.mark.mutation
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.what)
def test_a_planted_fault_is_noticed(fault: Fault, tmp_path: Path) -> None:
    found = noticed(fault, fault.caught_by, tmp_path)
    assert found != (fault.what in SURVIVORS), (
        f"{fault.what}: {fault.caught_by} {'noticed' if found else 'did not notice'}"
    )


@pytest.mark.mutation
@pytest.mark.timeout(600)
def test_the_named_tests_pass_without_a_fault(tmp_path: Path) -> None:
    assert not noticed(None, f"{LIMITS} {CONFIRM} {BUILT} -k limits or shuffled or link or eight", tmp_path)
