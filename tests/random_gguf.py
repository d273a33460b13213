# SPDX-License-Identifier: Apache-2.0
"""Random two-layer models in GGUF, of any stored type and shape.  Not a test."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

TYPES = {
    "F32": gguf.GGMLQuantizationType.F32,
    "F16": gguf.GGMLQuantizationType.F16,
    "Q8_0": gguf.GGMLQuantizationType.Q8_0,
    "Q4_0": gguf.GGMLQuantizationType.Q4_0,
    "Q4_1": gguf.GGMLQuantizationType.Q4_1,
}


def write_gguf(
    path: Path,
    kind: str = "Q4_1",
    embedding: str = "Q8_0",
    heads: int = 4,
    dim: int = 64,
    seed: int = 0,
    **changes: object,
) -> dict[str, NDArray[np.float32]]:
    """A random two-layer model in GGUF; returns the matrices as they dequantize, [N, K], and the biases.

    biases  of `changes`: the linears that have one, by GGUF's names, such as "attn_q"
    """
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), str(changes.get("architecture", "llama")))
    kv = int(str(changes.get("kv_heads", heads // 2)))
    ffn, vocab = int(str(changes.get("ffn", 96))), int(str(changes.get("vocab", 64)))
    writer.add_context_length(64)
    writer.add_embedding_length(dim)
    writer.add_block_count(2)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in (changes.get("fields") or {}).items():  # type: ignore[attr-defined]
        if key in writer.kv_data[0]:
            del writer.kv_data[0][key]
        kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        kinds[type(value)](key, value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([f"t{i}" for i in range(vocab)])
    writer.add_token_types([1] * vocab)
    writer.add_token_merges([])
    writer.add_eos_token_id(0)
    found = {}

    def matrix(name: str, rows: int, cols: int, stored: str) -> None:
        w = random.normal(0, 0.2, (rows, cols)).astype(np.float32)
        if stored == "Q4_1":
            w[0, :32] = 0.25  # a group of one value: scale 0, minimum 0.25
        data = gguf.quantize(w, TYPES[stored])
        writer.add_tensor(name, data, raw_dtype=TYPES[stored])
        found[name] = gguf.dequantize(data, TYPES[stored]).reshape(rows, cols)

    matrix("token_embd.weight", vocab, dim, embedding)
    writer.add_tensor("output_norm.weight", np.ones(dim, np.float32))
    d = dim // heads
    for layer in range(2):
        p = f"blk.{layer}."
        for name, rows, cols in (
            ("attn_q", heads * d, dim),
            ("attn_k", kv * d, dim),
            ("attn_v", kv * d, dim),
            ("attn_output", dim, heads * d),
            ("ffn_gate", ffn, dim),
            ("ffn_up", ffn, dim),
            ("ffn_down", dim, ffn),
        ):
            matrix(f"{p}{name}.weight", rows, cols, kind)
            if name in changes.get("biases", ()):  # type: ignore[operator]
                found[f"{p}{name}.bias"] = random.normal(0, 0.5, rows).astype(np.float32)
                writer.add_tensor(f"{p}{name}.bias", found[f"{p}{name}.bias"])
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{p}{name}.weight", random.uniform(0.5, 1.5, dim).astype(np.float32))
    if changes.get("extra"):
        writer.add_tensor(str(changes["extra"]), np.ones(dim, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return found
