# SPDX-License-Identifier: Apache-2.0
"""make exports: small random models of every family by the exporters that people use, into build/exports.  Needs torch; not a test.

    build/torch/bin/python tests/exports.py FOLDER

By meadow export (torch's exporter, opset 20), torch's exporter with fused attention (opset 23), optimum-onnx (TorchScript, opset 18) and
onnxruntime-genai's builder; each in floats, as onnxruntime's 4-bit quantizer writes it, and with INT8 weights behind DequantizeLinear.
What an exporter cannot write is listed in left_out.txt, with its own words.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import onnx
from families import drawn, names, write_folder
from onnx import helper, numpy_helper

os.environ["HF_HUB_OFFLINE"] = "1"


def meadow20(folder: Path, target: Path) -> None:
    from meadow import export

    export(folder, None, target / "out")
    shutil.move(target / "out" / "model.onnx", target / "model.onnx")


def torch23(folder: Path, target: Path) -> None:
    """As a user of torch writes it: fused attention, the exporter's newest opset, the cache as it comes."""
    import transformers

    from meadow.compiler.sources.torch.export import _write

    kind = "eager" if "gptj" in folder.name or "gemma2" in folder.name else "sdpa"
    net = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32", attn_implementation=kind)
    _write(net.eval(), target / "model.onnx", 23)


def optimum(folder: Path, target: Path) -> None:
    from optimum.exporters.onnx import main_export

    main_export(
        str(folder),
        target / "out",
        task="text-generation-with-past",
        opset=18,
        do_validation=False,
        no_post_process=True,
    )
    shutil.move(target / "out" / "model.onnx", target / "model.onnx")


def genai(folder: Path, target: Path) -> None:
    from onnxruntime_genai.models.builder import create_model

    create_model("model", str(folder), str(target / "out"), "fp32", "cpu", str(target / "cache"), exclude_embeds=False)
    model = onnx.load(target / "out" / "model.onnx")
    onnx.save(model, target / "model.onnx")


WIDER = {"vocab_size": 96, "hidden_size": 128, "intermediate_size": 160, "head_dim": 32, "query_pre_attn_scalar": 24}
"""For genai's builder, whose operators take heads of 16, 32, ... elements, and which takes every linear of as many rows as there are
tokens for the head."""


def wider(folder: Path) -> None:
    """The model of a folder, larger: tensors drawn by name, as those of the small one are."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    for key, value in WIDER.items():
        if hasattr(config, key):
            setattr(config, key, value)
    scaling = getattr(config, "rope_scaling", None)
    if scaling and "short_factor" in scaling:
        config.rope_scaling = {**scaling, **{key: scaling[key] * 4 for key in ("short_factor", "long_factor")}}
    net = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_(torch.from_numpy(drawn(name, list(p.shape), config.model_type)))
    net.save_pretrained(folder)


def refuse_broken(file: Path) -> None:
    """Raise what onnxruntime says of a file that it cannot run: the exporter's fault."""
    from meadow.evidence.ladder.reference import OnnxModel

    OnnxModel(file).prefill([int(i) for i in np.random.default_rng(0).integers(0, 64, 20)])


EXPORTERS: dict[str, Callable[[Path, Path], None]] = {
    "meadow20": meadow20,
    "torch23": torch23,
    "optimum18": optimum,
    "genai": genai,
}


def nbits(model: onnx.ModelProto) -> onnx.ModelProto:
    """onnxruntime's 4-bit quantizer, groups of 32."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    made = MatMulNBitsQuantizer(model, bits=4, block_size=32, is_symmetric=True)
    made.process()
    return made.model.model


def int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every matrix that MatMul reads as INT8 codes with a scale per column, through DequantizeLinear."""
    known = {t.name: t for t in model.graph.initializer}
    done: dict[str, str] = {}
    nodes = []
    for node in model.graph.node:
        name = node.input[1] if node.op_type == "MatMul" else ""
        if name in known and len(known[name].dims) == 2:
            if name not in done:
                w = numpy_helper.to_array(known[name])
                scale = (np.abs(w).max(axis=0) / 127).astype(np.float32)
                codes = np.rint(w / scale).astype(np.int8)
                model.graph.initializer.append(numpy_helper.from_array(codes, f"{name}.codes"))
                model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
                done[name] = f"{name}.whole"
                nodes.append(
                    helper.make_node("DequantizeLinear", [f"{name}.codes", f"{name}.scale"], [done[name]], axis=1)
                )
            node.input[1] = done[name]
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {i for node in nodes for i in node.input}
    kept = [t for t in model.graph.initializer if t.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


QUANTIZERS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "float": lambda m: m,
    "nbits4": nbits,
    "int8": int8,
}


def made(job: tuple[str, str, str]) -> str:
    """One model by one exporter, in every format; why not, or nothing."""
    name, exporter, target = job
    called = name.replace(" ", "-").replace(",", "")
    files = {kind: Path(target) / f"{exporter}_{called}_{kind}.onnx" for kind in QUANTIZERS}
    if all(file.exists() for file in files.values()):
        return ""
    with tempfile.TemporaryDirectory() as work:
        folder = write_folder(name, Path(work) / called)
        tokens = {f"t{n}": n for n in range(64)}
        model = {"type": "WordLevel", "vocab": tokens, "unk_token": "t0"}
        (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
        try:
            if exporter == "genai":
                wider(folder)
            EXPORTERS[exporter](folder, Path(work))
            refuse_broken(Path(work) / "model.onnx")
            for kind, file in files.items():
                onnx.save(QUANTIZERS[kind](onnx.load(Path(work) / "model.onnx")), file)
        except (Exception, SystemExit) as error:
            return f"{exporter} {name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return ""


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    jobs = [(name, exporter, str(out)) for exporter in EXPORTERS for name in names()]
    with ProcessPoolExecutor(2) as pool:
        left = [text for text in pool.map(made, jobs) if text]
    (out / "left_out.txt").write_text("\n".join(left) + "\n")
    print(f"{len(list(out.glob('*.onnx')))} files in {out}; {len(left)} of {len(jobs)} that an exporter cannot write")
