# SPDX-License-Identifier: Apache-2.0
"""The tokenizer inside a GGUF file as a Hugging Face tokenizer.json, with its configuration files.

Knows GGUF's tokenizer fields only; encoding and decoding are the `tokenizers` library's work.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from meadow.compiler.sources.gguf.file import GgufFile
from meadow.machine.errors import UnsupportedModel, UsageError

CONTROL, USER_DEFINED = 3, 4
"""Token types of GGUF's tokenizer.ggml.token_type (gguf-py, TokenType)."""

LLAMA3_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

SPLITS = {
    "llama-bpe": LLAMA3_SPLIT,
    "qwen2": LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}"),
}
"""Patterns of tokenizer.ggml.pre by which text is cut before pairs of bytes are merged."""
WHOLE_WORDS = ("llama-bpe",)
"""Those that look a word up before they merge its bytes, and add the token of the begin (llama.cpp, llama-vocab.cpp)."""
COMPOSED = ("qwen2",)
"""Those that compose characters first (Unicode NFC)."""


def tokenizer(fields: dict[str, Any]) -> Tokenizer:
    """Build the tokenizer that `fields` describe.  Raises UnsupportedModel for a kind not known here."""
    kind = fields.get("tokenizer.ggml.model")
    tokens = fields.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise UnsupportedModel("the GGUF file has no tokenizer.ggml.tokens, so no text could be made of its tokens")
    twice = [t for t, n in Counter(tokens).items() if n > 1]
    if twice:
        raise UnsupportedModel(
            f"{len(twice)} texts of the file's tokens have two numbers ({twice[0]!r}): which is which cannot be told"
        )
    if kind == "gpt2":
        made = _byte_level(fields, tokens)
    elif kind == "llama":
        made = _sentencepiece(fields, tokens)
    else:
        raise UnsupportedModel(f"tokenizer.ggml.model is {kind!r}; known are 'gpt2' (byte-level BPE) and 'llama'")
    types = fields.get("tokenizer.ggml.token_type") or []
    special = [
        AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types, strict=False) if k == CONTROL
    ]
    if special:
        made.add_special_tokens(special)
    plain = [AddedToken(t, normalized=False) for t, k in zip(tokens, types, strict=False) if k == USER_DEFINED]
    if plain:
        made.add_tokens(plain)
    return made


def _bpe(vocab: dict[str, int], merges: list[tuple[str, ...]], **how: Any) -> Tokenizer:
    """A tokenizer of byte pairs.  Raises UsageError for merges that are no pairs of tokens, or make none."""
    wrong = [pair for pair in merges if len(pair) != 2 or not {*pair, "".join(pair)} <= vocab.keys()]
    if wrong:
        shown = ", ".join(repr(" ".join(pair)) for pair in wrong[:3])
        raise UsageError(
            f"{len(wrong)} of the file's {len(merges)} merges do not make a token of two tokens ({shown}); the file is damaged: "
            "get it again, or convert the model to GGUF again"
        )
    return Tokenizer(models.BPE(vocab, [(left, right) for left, right in merges], **how))


def _byte_level(fields: dict[str, Any], tokens: list[str]) -> Tokenizer:
    merges = [tuple(m.split(" ", 1)) for m in fields.get("tokenizer.ggml.merges") or []]
    whole = fields.get("tokenizer.ggml.pre") in WHOLE_WORDS
    made = _bpe({t: i for i, t in enumerate(tokens)}, merges, fuse_unk=False, ignore_merges=whole)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=bool(fields.get("tokenizer.ggml.add_space_prefix", False)))
    pre = fields.get("tokenizer.ggml.pre", "default")
    if pre == "smollm":
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    elif pre in ("gpt-2", "default"):
        made.pre_tokenizer = byte_level
    elif pre in SPLITS:
        if pre in COMPOSED:
            made.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(SPLITS[pre]), behavior="isolated")
        plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.pre_tokenizer = pre_tokenizers.Sequence([split, plain])
    else:
        raise UnsupportedModel(f"tokenizer.ggml.pre is {pre!r}; known are smollm, gpt-2, default, {', '.join(SPLITS)}")
    made.decoder = decoders.ByteLevel()
    return made


def _sentencepiece(fields: dict[str, Any], tokens: list[str]) -> Tokenizer:
    vocab = {t: i for i, t in enumerate(tokens)}
    merges = fields.get("tokenizer.ggml.merges")
    if merges:
        pairs = [tuple(m.split(" ", 1)) for m in merges]
    else:
        scores = fields.get("tokenizer.ggml.scores")
        if not isinstance(scores, list) or len(scores) < len(tokens):
            raise UnsupportedModel("the file's tokenizer has neither scores nor merges: text cannot be cut into tokens")
        pairs = _merges_from_scores(vocab, scores)
    unknown = tokens[int(fields.get("tokenizer.ggml.unknown_token_id", 0))]
    bytes_too = "<0x00>" in vocab
    made = _bpe(vocab, pairs, unk_token=unknown, fuse_unk=bytes_too, byte_fallback=bytes_too)
    steps = [normalizers.Replace(" ", "▁")]
    prefix = bool(fields.get("tokenizer.ggml.add_space_prefix", True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *steps] if prefix else steps)
    made.pre_tokenizer = pre_tokenizers.Split("\n", behavior="isolated")
    back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*back, decoders.Strip(content=" ", left=1)] if prefix else back)
    return made


def _merges_from_scores(vocab: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """SentencePiece files keep a score per token and no merges: every split of a token into two tokens is a merge, the
    best-scored token first (what SentencePiece's own BPE does at run time)."""
    found = []
    for token, index in vocab.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocab and right in vocab:
                found.append((-scores[index], vocab[left], vocab[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def adds_bos(fields: dict[str, Any]) -> bool:
    """Whether text begins with the token of the begin where the file does not say: llama.cpp's rule by the kind of tokenizer."""
    return fields.get("tokenizer.ggml.model") == "llama" or fields.get("tokenizer.ggml.pre") in WHOLE_WORDS


def config_files(file: GgufFile, tied: bool, tokens: list[str]) -> dict[str, dict[str, Any]]:
    """config.json, generation_config.json and tokenizer_config.json, in Hugging Face's vocabulary."""
    fields, model, family = file.fields, file.decoder.model, file.decoder.family
    bos, eos = fields.get("tokenizer.ggml.bos_token_id"), fields.get("tokenizer.ggml.eos_token_id")
    base = float(fields.get(f"{family.name}.rope.freq_base", 10000.0))
    ids = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": fields.get("tokenizer.ggml.padding_token_id")}
    known = {k: int(v) for k, v in ids.items() if v is not None}
    named = {k.replace("_id", ""): tokens[v] for k, v in known.items() if v < len(tokens)}
    config = {
        "architectures": [family.hugging_face],
        "model_type": family.name,
        "hidden_act": family.activation,
        "hidden_size": model.dim,
        "intermediate_size": model.ffn,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "vocab_size": model.vocab,
        "max_position_embeddings": model.context,
        "rms_norm_eps": file.decoder.eps,
        "rope_theta": base,
        "tie_word_embeddings": tied,
        **known,
    }
    tokenizer_config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": bool(fields.get("tokenizer.ggml.add_bos_token", adds_bos(fields))),
        "model_max_length": model.context,
        **named,
    }
    template = fields.get("tokenizer.chat_template")
    if isinstance(template, str):
        tokenizer_config["chat_template"] = template
    return {"config.json": config, "generation_config.json": known, "tokenizer_config.json": tokenizer_config}
