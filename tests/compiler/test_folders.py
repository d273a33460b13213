# SPDX-License-Identifier: Apache-2.0
"""Hugging Face folders: every family against transformers, GPTQ and AWQ against their own libraries, and what is refused.

The references were computed once with those libraries (tests/fixtures/make_families.py, NOTICE.md).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from families import TOKENS, config_of, logits_of, names, tensors_of, write_folder
from numpy.typing import NDArray
from safetensors.numpy import save_file

from meadow import boards
from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.graph.ops import Attention, Head
from meadow.compiler.models import convert, quantize
from meadow.compiler.pipeline import Options, compile_model
from meadow.compiler.sources.families import families, model_types
from meadow.compiler.sources.hugging_face.checkpoint import Checkpoint
from meadow.compiler.sources.hugging_face.packed import Packing, weight
from meadow.compiler.sources.source import digest_of, find_source, read_source
from meadow.evidence.ladder.reference import OnnxModel
from meadow.machine.errors import MeadowError, UnsupportedModel, UsageError

FIXTURES = Path(__file__).parents[1] / "fixtures"
TOLERANCE = 3e-6
"""Of the largest logit: FP32 sums in another order."""


def logits(path: Path) -> NDArray[np.float32]:
    graph = read_source(path)
    return np.asarray(Evaluator(graph, quantized=False).run(np.array(TOKENS), State()))


def same(found: NDArray[np.float32], wanted: NDArray[np.float32], tolerance: float = TOLERANCE) -> bool:
    return bool(np.abs(found[-len(wanted) :] - wanted).max() <= tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("name", names())
def test_a_folder_of_every_family_computes_what_transformers_does(name: str, tmp_path: Path) -> None:
    assert same(logits(write_folder(name, tmp_path)), logits_of(name))


def test_every_family_with_a_model_type_is_tried() -> None:
    assert set(model_types()) - {"ministral"} == {str(config_of(name)["model_type"]) for name in names()}


# -- the same models as GGUF: names by the gguf package, values as llama.cpp's converter stores them ----------------------

ARCHITECTURES = {
    "llama": "LLAMA",
    "llama with biases, tied": "LLAMA",
    "qwen2": "QWEN2",
    "qwen3": "QWEN3",
    "smollm3": "SMOLLM3",
    "gemma": "GEMMA",
    "gemma2 as published": "GEMMA2",
    "gemma3 as published": "GEMMA3",
    "phi3": "PHI3",
    "phi": "PHI2",
    "gpt2": "GPT2",
    "gpt_neox": "GPTNEOX",
    "gpt_neox one after the other": "GPTNEOX",
    "stablelm": "STABLELM",
    "stablelm side by side": "STABLELM",
    "olmo": "OLMO",
    "olmo2": "OLMO2",
    "granite": "GRANITE",
    "cohere": "COMMAND_R",
    "starcoder2": "STARCODER2",
    "arcee": "ARCEE",
    "nemotron": "NEMOTRON",
}
TURNED = ("LLAMA", "SMOLLM3", "OLMO", "GRANITE", "ARCEE")
"""Architectures whose q and k llama.cpp's converter stores with rotary pairs as neighbours."""
PLUS_ONE = ("GEMMA", "GEMMA2", "GEMMA3", "NEMOTRON")
KEYS: dict[str, dict[str, Any]] = {
    "mistral": {"attention.sliding_window": 8},
    "gemma2 as published": {
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "attention.sliding_window": 8,
    },
    "gemma3 as published": {"attention.sliding_window": 8},
    "phi3": {"attention.sliding_window": 9},
    "phi": {"rope.dimension_count": 4},
    "gpt_neox": {"rope.dimension_count": 2, "use_parallel_residual": True},
    "gpt_neox one after the other": {"rope.dimension_count": 4, "use_parallel_residual": False},
    "stablelm": {"rope.dimension_count": 2, "use_parallel_residual": False},
    "stablelm side by side": {"rope.dimension_count": 2, "use_parallel_residual": True},
    "granite": {"embedding_scale": 6.0, "attention.scale": 0.2, "residual_scale": 0.4, "logit_scale": 3.0},
    "cohere": {"logit_scale": 0.0625},
    "starcoder2": {"attention.sliding_window": 8},
    "nemotron": {"rope.dimension_count": 4},
}


def stored(key: str, values: NDArray[np.float32], architecture: str, heads: int, kv_heads: int) -> NDArray[np.float32]:
    """A tensor of a checkpoint as llama.cpp's converter writes it."""
    if architecture in PLUS_ONE and values.ndim == 1 and key.endswith("weight"):
        return values + 1
    if architecture in TURNED and (found := re.search(r"\.(q|k)_proj\.", key)):
        count = heads if found[1] == "q" else kv_heads
        shape = values.shape
        return values.reshape(count, 2, shape[0] // count // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
    if architecture == "GPT2" and values.ndim == 2 and "wte" not in key and "wpe" not in key:
        return np.ascontiguousarray(values.T)
    if architecture == "GPTNEOX" and "query_key_value" in key:
        parts = values.reshape(heads, 3, -1, *values.shape[1:])
        return np.concatenate([parts[:, n].reshape(-1, *values.shape[1:]) for n in range(3)])
    return values


def write_gguf(name: str, path: Path) -> None:
    architecture, config = ARCHITECTURES[name], config_of(name)
    arch = getattr(gguf.MODEL_ARCH, architecture)

    def number(*keys: str) -> Any:
        return next((config[key] for key in keys if config.get(key) is not None), None)

    layers, heads = number("num_hidden_layers", "n_layer"), number("num_attention_heads", "n_head")
    kv_heads = number("num_key_value_heads") or heads
    writer = gguf.GGUFWriter(str(path), gguf.MODEL_ARCH_NAMES[arch])
    writer.add_context_length(number("max_position_embeddings", "n_positions"))
    writer.add_embedding_length(number("hidden_size", "n_embd"))
    writer.add_block_count(layers)
    writer.add_feed_forward_length(number("intermediate_size", "n_inner"))
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    if number("head_dim"):
        writer.add_key_length(number("head_dim"))
        writer.add_value_length(number("head_dim"))
    eps = number("layer_norm_eps", "norm_epsilon", "norm_eps", "layer_norm_epsilon")
    if eps is not None or architecture == "OLMO":
        writer.add_layer_norm_eps(eps or 1e-5)
    else:
        writer.add_layer_norm_rms_eps(number("rms_norm_eps"))
    if "rope_theta" in config:
        writer.add_rope_freq_base(number("rope_theta"))
    for key, value in KEYS.get(name, {}).items():
        add = {int: writer.add_uint32, float: writer.add_float32, bool: writer.add_bool}[type(value)]
        add(f"{gguf.MODEL_ARCH_NAMES[arch]}.{key}", value)
    table = gguf.get_tensor_name_map(arch, layers)
    for key, values in tensors_of(name).items():
        called = table.get_name(key, try_suffixes=(".weight", ".bias"))
        assert called is not None, key
        writer.add_tensor(called, stored(key, values, architecture, heads, kv_heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_gguf_file_of_every_family_computes_the_same(name: str, tmp_path: Path) -> None:
    write_gguf(name, tmp_path / "m.gguf")
    assert same(logits(tmp_path / "m.gguf"), logits_of(name))


def test_every_architecture_is_tried() -> None:
    tried = {gguf.MODEL_ARCH_NAMES[getattr(gguf.MODEL_ARCH, a)] for a in ARCHITECTURES.values()}
    assert set(families()) == tried


# -- how a checkpoint is laid out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "opt with norms after the sums", "granite", "gemma3", "phi3", "cohere"])
def test_the_onnx_file_that_is_written_of_a_folder_computes_the_same(name: str, tmp_path: Path) -> None:
    convert(write_folder(name, tmp_path / "a"), tmp_path / "b")
    assert same(OnnxModel(tmp_path / "b" / "model.onnx").prefill(TOKENS), logits_of(name), 1e-5)


def save_bf16(tensors: dict[str, NDArray[np.float32]], path: Path) -> None:
    """A safetensors file, byte by byte: its writer for numpy has no BF16."""
    header: dict[str, Any] = {}
    data = b""
    for name, values in tensors.items():
        part = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        header[name] = {"dtype": "BF16", "shape": values.shape, "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_bf16_and_two_files_change_nothing(tmp_path: Path) -> None:
    write_folder("qwen3", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    tensors = tensors_of("qwen3")
    halves = list(tensors)[::2], list(tensors)[1::2]
    for number, half in enumerate(halves):
        save_bf16({name: tensors[name] for name in half}, tmp_path / f"model-{number}.safetensors")
    where = {name: f"model-{number}.safetensors" for number, half in enumerate(halves) for name in half}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert same(logits(tmp_path), logits_of("qwen3"))
    before = digest_of(find_source(tmp_path))
    changed = bytearray((tmp_path / "model-1.safetensors").read_bytes())
    changed[-1] ^= 1
    (tmp_path / "model-1.safetensors").write_bytes(changed)
    assert digest_of(find_source(tmp_path)) != before


def test_a_checkpoint_without_the_head_and_with_old_buffers_is_read(tmp_path: Path) -> None:
    """As the first GPT-2 files are: no prefix, and the causal mask beside the weights."""
    write_folder("gpt2", tmp_path)
    tensors = {name.removeprefix("transformer."): value for name, value in tensors_of("gpt2").items()}
    tensors["h.0.attn.bias"] = np.tril(np.ones((1, 1, 64, 64), np.float32))
    save_file(tensors, tmp_path / "model.safetensors")
    assert same(logits(tmp_path), logits_of("gpt2"))


def test_rotary_positions_as_transformers_5_writes_them(tmp_path: Path) -> None:
    config = config_of("gemma3")
    parameters = {
        "full_attention": {"rope_type": "default", "rope_theta": config["rope_theta"]},
        "sliding_attention": {"rope_type": "default", "rope_theta": config["rope_local_base_freq"]},
    }
    old = {"rope_theta": None, "rope_scaling": None, "rope_local_base_freq": None}
    folder = write_folder("gemma3", tmp_path, rope_parameters=parameters, **old)
    assert same(logits(folder), logits_of("gemma3"))


def test_a_head_of_its_own_that_is_the_embedding_again_is_read_and_another_refused(tmp_path: Path) -> None:
    write_folder("gemma", tmp_path)
    tensors = tensors_of("gemma")
    save_file(
        {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].copy()}, tmp_path / "model.safetensors"
    )
    assert same(logits(tmp_path), logits_of("gemma"))
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModel, match=r"lm_head.weight: is another matrix than the embedding"):
        read_source(tmp_path)


# -- GPTQ and AWQ --------------------------------------------------------------------------------------------------------


class Arrays(Checkpoint):
    """Tensors in memory."""

    def __init__(self, arrays: dict[str, NDArray[Any]]):
        super().__init__(Path())
        self.handles, self.arrays = dict.fromkeys(arrays), arrays

    def array(self, name: str) -> NDArray[Any]:
        return self.arrays[name]


def packed_fixture(kind: str) -> dict[str, NDArray[Any]]:
    with np.load(FIXTURES / "packed.npz", allow_pickle=False) as found:
        return {key.replace(f"{kind}.", "m."): found[key] for key in found.files if key.startswith(f"{kind}.")}


PACKINGS = {"awq": Packing("awq", 4, 32, 0), **{f"gptq{b}": Packing("gptq", b, 32, 1) for b in (2, 4, 8)}}


@pytest.mark.parametrize("kind", PACKINGS)
def test_codes_of_gptq_and_awq_mean_what_their_own_libraries_compute(kind: str) -> None:
    arrays = packed_fixture(kind)
    found, note = weight(PACKINGS[kind], Arrays(arrays), "m")
    assert found.elem.group == 32 and not note
    assert np.array_equal(found.dequantize(), arrays["m.weight"])


def test_groups_that_are_scattered_are_read_as_floats_with_a_note() -> None:
    arrays = packed_fixture("gptq4")
    order = np.random.default_rng(0).permutation(64)
    plain = weight(PACKINGS["gptq4"], Arrays(arrays), "m")[0].dequantize()
    words = arrays["m.qweight"].view(np.uint32)
    codes = np.stack([(words >> (4 * n)) & 15 for n in range(8)], 1).reshape(64, -1)[order]
    again = np.zeros_like(words)
    for n in range(8):
        again |= codes[n::8] << np.uint32(4 * n)
    shuffled = {**arrays, "m.qweight": again.view(np.int32), "m.g_idx": arrays["m.g_idx"][order]}
    found, note = weight(PACKINGS["gptq4"], Arrays(shuffled), "m")
    assert "act-order" in note and not found.elem.quantized
    assert np.array_equal(found.dequantize(), plain[:, order])


def pack_gptq(values: NDArray[np.float32], group: int) -> dict[str, NDArray[Any]]:
    """W[N, K] in 4 bits as AutoGPTQ packs it, word by word."""
    rows, cols = values.shape
    parts = values.reshape(rows, cols // group, group)
    low, high = parts.min(axis=2), parts.max(axis=2)
    scale = np.maximum((high - low) / 15, 1e-6).astype(np.float16)
    zero = np.clip(np.rint(-low / scale.astype(np.float32)), 1, 15).astype(np.uint32)
    each = np.repeat(scale.astype(np.float32), group, 1), np.repeat(zero, group, 1)
    codes = np.clip(np.rint(values / each[0]) + each[1], 0, 15).astype(np.uint32)
    words = np.zeros((cols // 8, rows), np.uint32)
    for k in range(cols):
        words[k // 8] |= codes[:, k] << np.uint32(4 * (k % 8))
    zeros = np.zeros((cols // group, rows // 8), np.uint32)
    for n in range(rows):
        zeros[:, n // 8] |= (zero[n] - 1) << np.uint32(4 * (n % 8))
    return {"qweight": words.view(np.int32), "qzeros": zeros.view(np.int32), "scales": np.ascontiguousarray(scale.T)}


@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_a_gptq_folder_keeps_its_codes_down_to_the_engine(name: str, tmp_path: Path) -> None:
    """The rest of the model is given 4 bits too; the codes of the file are not touched, fused matrices among them."""
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False}
    write_folder(name, tmp_path / "m", quantization_config=quantization)
    tensors: dict[str, NDArray[Any]] = {}
    for key, values in tensors_of(name).items():
        if values.ndim == 2 and "proj" in key:
            module = key.removesuffix(".weight")
            tensors |= {f"{module}.{part}": array for part, array in pack_gptq(values, 16).items()}
            tensors[f"{module}.bias"] = np.zeros(len(values), np.float16)  # AutoGPTQ writes them
        else:
            tensors[key] = values
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    graph = read_source(tmp_path / "m")
    assert {str(w.elem) for w in graph.weights.values()} == {"i4g16", "f32"}
    o = graph.weight_of(graph.node("o", 1))
    assert o.scale is not None
    original = tensors_of(name)["model.layers.1.self_attn.o_proj.weight"]
    assert np.abs(o.dequantize() - original).max() <= 1.01 * o.scale.max()  # what rounding to nearest costs at the ends
    quantize(tmp_path / "m", tmp_path / "q", weights="int4", head="same")
    again = read_source(tmp_path / "q")
    for node in graph.nodes:
        if node.role in ("q", "gate", "down", "o"):
            ours, theirs = graph.weight_of(node), again.weight_of(node)
            assert np.array_equal(ours.codes, theirs.codes) and np.allclose(ours.dequantize(), theirs.dequantize())


# -- what is refused, and what is said -----------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "a mixture of experts": ({"model_type": "mixtral"}, "a mixture of experts; read are"),
    "Mamba": ({"model_type": "mamba"}, "a state-space model"),
    "no model_type": ({"model_type": None}, "model_type None; read are"),
    "no hidden size": ({"hidden_size": None}, "hidden_size: is None; a number from 0"),
    "another hidden size": (
        {"hidden_size": 64},
        r"has shape \[64, 32\], not \[64, 64\]; config.json and tensors disagree",
    ),
    "heads that do not divide": ({"num_attention_heads": 5}, "5 heads over 2 KV heads"),
    "a million layers": ({"num_hidden_layers": 1000000}, "1000000 layers"),
    "a list for a number": ({"vocab_size": [64]}, r"vocab_size: is \[64\]"),
    "another activation": ({"hidden_act": "mish"}, "hidden_act: is mish; read are"),
    "positions of another kind": ({"rope_scaling": {"rope_type": "spiral"}}, "of type 'spiral'; read are default"),
    "positions that are no object": ({"rope_scaling": "linear"}, "rope_scaling: is linear; an object is expected"),
    "a factor that is text": ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, "factor: is '2'; a number"),
    "bitsandbytes": (
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        "'bitsandbytes'; gptq and awq are read",
    ),
    "GPTQ for another kernel": (
        {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "marlin"}},
        "checkpoint_format 'marlin'; gptq and gptq_v2 are read",
    ),
    "GPTQ of several widths": (
        {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32, "dynamic": {"x": {"bits": 8}}}},
        "bits of their own for some layers",
    ),
    "GPTQ of 3 bits": (
        {"quantization_config": {"quant_method": "gptq", "bits": 3, "group_size": 32}},
        "3 bits in groups",
    ),
    "a fourth layer": ({"num_hidden_layers": 3}, r"model.layers.2.input_layernorm.weight: is missing"),
    "one layer": ({"num_hidden_layers": 1}, r"model.layers.1.\S+: is not a tensor of a LLaMA; it may change"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_folder_is_refused_by_the_true_cause(what: str, tmp_path: Path) -> None:
    changes, said = REFUSED[what]
    folder = write_folder("llama", tmp_path, **changes)
    with pytest.raises(UnsupportedModel, match=said):
        read_source(folder)


def test_kinds_of_layers_that_are_not_known_are_refused(tmp_path: Path) -> None:
    folder = write_folder("qwen2", tmp_path, layer_types=["full_attention", "chunked"], use_sliding_window=True)
    with pytest.raises(UnsupportedModel, match="full_attention and sliding_attention are read"):
        read_source(folder)


def test_null_is_no_softcap_and_an_absent_key_is_the_one_of_the_family(tmp_path: Path) -> None:
    config = config_of("gemma2")
    absent = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    graph = read_source(write_folder("gemma2", tmp_path / "a", **absent))  # left out
    assert [n.op.softcap for n in graph.nodes if isinstance(n.op, (Attention, Head))] == [50.0, 50.0, 30.0]
    (tmp_path / "a" / "config.json").write_text(json.dumps({**config, **absent}))
    graph = read_source(tmp_path / "a")
    assert not any(n.op.softcap for n in graph.nodes if isinstance(n.op, (Attention, Head)))


def test_a_window_counts_in_the_families_that_have_one_alone(tmp_path: Path) -> None:
    def windows(name: str, **changes: object) -> list[int]:
        graph = read_source(write_folder(name, tmp_path / "m", **changes))
        return [n.op.window for n in graph.nodes if isinstance(n.op, Attention)]

    assert windows("llama", sliding_window=8) == [0, 0]
    assert "sliding_window" in read_source(tmp_path / "m").notes[0]
    usual: dict[str, object] = {"sliding_window": 6, "layer_types": None}
    assert (
        windows("qwen2", **usual)
        == [0, 0]
        == windows("qwen2", use_sliding_window=True, max_window_layers=None, **usual)
    )
    assert windows("qwen2", use_sliding_window=True, max_window_layers=1, **usual) == [0, 6]
    assert windows("mistral", sliding_window=None) == [4096, 4096]


def test_a_longer_context_than_the_positions_serve_is_refused(tmp_path: Path) -> None:
    quantize(write_folder("llama with dynamic positions", tmp_path / "m"), tmp_path / "q")
    for source in ("m", "q"):
        with pytest.raises(UnsupportedModel, match="rotary positions are others in texts of more than 64 tokens"):
            compile_model(
                tmp_path / source, boards.load("zcu102"), tmp_path / "p", Options(settings=(("context", 128),))
            )


def test_what_changes_the_function_is_refused(tmp_path: Path) -> None:
    for name, changes, said in (
        ("gemma3", {"use_bidirectional_attention": True}, "tokens that see later ones"),
        ("llama", {"rope_interleaved": True}, "the order of rotary pairs"),
        ("gemma3", {"attn_logit_softcapping": 5.0}, "transformers leaves it out"),
        ("gemma", {"hidden_act": "gelu", "hidden_activation": "relu"}, "hidden_act says 'gelu'"),
        ("gemma", {"hidden_act": "silu", "hidden_activation": "gelu_pytorch_tanh"}, "hidden_act says 'silu'"),
    ):
        with pytest.raises(UnsupportedModel, match=said):
            read_source(write_folder(name, tmp_path / "m", **changes))


def test_gemma_is_read_as_its_published_files_say_it(tmp_path: Path) -> None:
    both: dict[str, object] = {"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}
    assert same(logits(write_folder("gemma", tmp_path, **both)), logits_of("gemma"))


def test_a_key_that_is_not_known_is_named(tmp_path: Path) -> None:
    folder = write_folder("llama", tmp_path, qk_rotation="left", use_new_norm=True, initializer_range=0.1)
    assert read_source(folder).notes == ("config.json: qk_rotation, use_new_norm: not known here, and not read",)
    folder = write_folder("llama", tmp_path, rope_scaling={"type": "linear", "factor": 2.0, "alpha": 3.0})
    assert read_source(folder).notes == ("config.json: rope_scaling.alpha: not known here, and not read",)


def test_a_tokenizer_in_an_older_form_alone_is_said(tmp_path: Path) -> None:
    folder = write_folder("llama", tmp_path)
    (folder / "tokenizer.model").write_bytes(b"x")
    (note,) = read_source(folder).notes
    assert "tokenizer.model is there and tokenizer.json is not" in note and "save_pretrained" in note
    (folder / "tokenizer.json").write_text("{}")
    assert read_source(folder).notes == ()


def test_files_that_are_damaged_or_hostile_end_in_a_sentence(tmp_path: Path) -> None:
    folder = write_folder("llama", tmp_path / "m")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for data, said in (
        (whole[:-10], "not a whole safetensors file"),
        (whole[:5], "not a whole safetensors file"),
        (b"\xff" * 100, "not a whole safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ):
        file.write_bytes(data)
        with pytest.raises(UsageError, match=said):
            read_source(folder)
    file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(UsageError, match="is a pickle, which can run any code"):
        read_source(folder)
    index = folder / "model.safetensors.index.json"
    for where, said in (
        ({"a": "../other.safetensors"}, "which is not a file of its folder"),
        ({"a": "/etc/passwd"}, "which is not a file of its folder"),
        ({"a": "gone.safetensors"}, "gone.safetensors, which is not there"),
        ({}, "names no files"),
    ):
        index.write_text(json.dumps({"weight_map": where}))
        with pytest.raises(UsageError, match=said):
            read_source(folder)
    file.write_bytes(whole)
    for text in ("", "[1]", "{" * 100_000, '{"model_type": ', "\x00"):
        (folder / "config.json").write_text(text)
        with pytest.raises(UsageError, match="is no JSON object"):
            read_source(folder)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    folder = write_folder("llama", tmp_path)
    tensors = tensors_of("llama")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = np.nan
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UnsupportedModel, match=r"layers.1.mlp.up_proj.weight: holds NaN or infinity"):
        read_source(folder)


def test_any_change_of_a_value_in_config_json_is_read_or_refused(tmp_path: Path) -> None:
    """No traceback, whatever stands there."""
    folder = write_folder("gemma3", tmp_path)
    config = config_of("gemma3")
    for key in config:
        for value in (None, -1, 0, 3.5, 10**30, "x", [], {}, [1, "a"], True, {"rope_type": 3}):
            (folder / "config.json").write_text(json.dumps({**config, key: value}))
            try:
                read_source(folder)
            except MeadowError as error:
                assert "Traceback" not in str(error) and "damaged" not in str(error), (key, value, str(error))
