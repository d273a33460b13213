# SPDX-License-Identifier: Apache-2.0
"""export: a transformers model as an ONNX folder with a KV cache, by torch's own exporter, and proof that both compute the same.

The interface is that of optimum's exports: input_ids, attention_mask, position_ids, past_key_values.N.key/value -> logits, present.N.key/value.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.sources.onnx.read import read
from meadow.compiler.sources.torch.model import load, versions
from meadow.machine.errors import ToolMissing, UnsupportedModel, UsageError
from meadow.machine.folder import beside, refuse_target

OPSET = 20
PAST, TOKENS = 3, 2
"""Cached and new tokens of the example that the exporter follows; both may vary in the file."""
TRIED = 12, 4
"""Tokens of the prompt, and single tokens after it, on which torch and onnxruntime are compared."""
TOLERANCE = 1e-3
"""Of the largest logit."""
Progress = Callable[[str], None]
Ids = NDArray[np.int64]
Logits = NDArray[np.float32]


def export(
    model: Any, tokenizer: Any, folder: str | Path, opset: int = OPSET, progress: Progress = lambda _: None
) -> dict[str, Any]:
    """Write `folder`/ with model.onnx and the tokenizer's files; returns a summary.

    model      a transformers model for causal language modelling, or the path of a Hugging Face folder
    tokenizer  a transformers tokenizer, or None to write none (a folder's own files are copied)

    The model is exported in FP32 with eager attention; the object that was given is not changed.
    Raises ToolMissing without torch, UnsupportedModel for a model that torch cannot export or that meadow reads otherwise.
    """
    text, target = versions(), Path(folder)
    source = Path(model) if isinstance(model, (str, Path)) else None
    refuse_target(target, "model", (source,) if source is not None else ())
    progress(f"loading {source or type(model).__name__}")
    net = load(source) if source is not None else _copy(model)
    with beside(target, "model") as work:
        progress("exporting")
        file = work / "model.onnx"
        _write(net, file, opset)
        _write_texts(net, tokenizer, source, work)
        _say_where(file, source, target)
        progress("comparing")
        difference = _difference(net, file)
        graph = read(file)
    return {
        "folder": str(target),
        "model": str(graph.model),
        "versions": text,
        "opset": opset,
        "difference": {"value": difference, "kind": "measured", "of": "the largest logit"},
        "bytes": sum(p.stat().st_size for p in target.iterdir()),
        "notes": list(graph.notes),
    }


def _copy(model: Any) -> Any:
    """The same model in FP32 with eager attention; the user's own keeps its type and its attention."""
    import copy

    if not hasattr(model, "config") or not hasattr(model, "generate"):
        raise UsageError(f"{type(model).__name__} is no transformers model that generates text")
    net = copy.deepcopy(model).float().cpu().eval()
    if hasattr(net, "set_attn_implementation"):
        net.set_attn_implementation("eager")
    return net


def _sizes(net: Any) -> list[tuple[int, int]]:
    """(KV heads, head_dim) of the cache of each layer, as one token leaves it."""
    import torch
    from transformers import DynamicCache

    with torch.no_grad():
        found = net(input_ids=torch.zeros(1, 1, dtype=torch.long), past_key_values=DynamicCache(), use_cache=True)
    layers = getattr(found.past_key_values, "layers", None)
    if not layers or not all(hasattr(layer, "keys") for layer in layers):
        raise UnsupportedModel(
            f"{type(net).__name__} keeps no keys and values by layer; decoders with a KV cache are exported"
        )
    return [(int(layer.keys.shape[1]), int(layer.keys.shape[3])) for layer in layers]


def _wrapped(net: Any) -> Any:
    """The model with its cache as plain tensors."""
    import torch
    from transformers import DynamicCache

    class WithCache(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, past: Any) -> Any:
            cache = DynamicCache([(key, value) for key, value in past])
            found = self.net(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
            )
            return found.logits, [(layer.keys, layer.values) for layer in found.past_key_values.layers]

    return WithCache()


def _write(net: Any, file: Path, opset: int) -> None:
    import torch

    sizes = _sizes(net)
    past = [tuple(torch.randn(1, heads, PAST, dim) for _ in range(2)) for heads, dim in sizes]
    example = (
        torch.ones(1, TOKENS, dtype=torch.long),
        torch.ones(1, PAST + TOKENS, dtype=torch.long),
        torch.arange(PAST, PAST + TOKENS)[None],
        past,
    )
    free = torch.export.Dim.DYNAMIC
    shapes = ({1: free}, {1: free}, {1: free}, [({2: free}, {2: free})] * len(sizes))
    names = [f"{{}}.{n}.{kind}" for n in range(len(sizes)) for kind in ("key", "value")]
    try:
        with _quiet():
            program = torch.onnx.export(
                _wrapped(net),
                example,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=shapes,
                input_names=[
                    "input_ids",
                    "attention_mask",
                    "position_ids",
                    *(n.format("past_key_values") for n in names),
                ],
                output_names=["logits", *(n.format("present") for n in names)],
                verbose=False,
            )
            assert program is not None
            large = sum(p.numel() for p in net.parameters()) * 4 > 1 << 30
            program.save(str(file), external_data=large)
    except ImportError as missing:
        raise ToolMissing(f"torch's exporter needs {missing.name}: pip install 'meadow-fpga[torch]'") from None
    except Exception as error:  # torch has exception classes of its own for every stage
        cause = error.__cause__ or error
        text = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)[:200]
        raise UnsupportedModel(
            f"torch cannot export {type(net).__name__}: {text}; meadowc convert reads the folder of many families without torch"
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own reports, which are of its stages and not of the model."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _say_where(file: Path, source: Path | None, target: Path) -> None:
    """Metadata of the ONNX file that names the folder it came from, for the rung `torch`."""
    import onnx

    from meadow.compiler.sources.source import digest_of, find_source

    if source is None:
        return
    model = onnx.load_model(file, load_external_data=False)
    for key, value in (
        ("meadow.torch.path", os.path.relpath(source.resolve(), target.resolve())),
        ("meadow.torch.sha256", digest_of(find_source(source))),
    ):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save_model(model, file)


def _write_texts(net: Any, tokenizer: Any, source: Path | None, work: Path) -> None:
    """The configuration and the tokenizer's files."""
    from meadow.machine.package.read import COMPANIONS

    net.config.save_pretrained(work)
    if getattr(net, "generation_config", None) is not None:
        net.generation_config.save_pretrained(work)
    if tokenizer is not None:
        tokenizer.save_pretrained(work)
    for name in COMPANIONS if source is not None else ():
        if (source / name).is_file() and not (work / name).exists():  # type: ignore[operator]
            (work / name).write_bytes((source / name).read_bytes())  # type: ignore[operator]


def _difference(net: Any, file: Path) -> float:
    """Largest difference of onnxruntime's logits on the file from torch's, of the largest logit.  Raises UnsupportedModel above TOLERANCE."""
    import torch
    from transformers import DynamicCache

    prompt, more = TRIED
    ids = np.random.default_rng(0).integers(0, net.config.vocab_size, prompt + more)
    run, cache, worst = _onnxruntime(file, _sizes(net)), DynamicCache(), 0.0
    for part in (ids[:prompt], *ids[prompt:, None]):
        with torch.no_grad():
            given = torch.from_numpy(part[None])
            wanted = net(input_ids=given, past_key_values=cache, use_cache=True).logits[0].numpy()
        worst = max(worst, float(np.abs(run(part) - wanted).max() / np.abs(wanted).max()))
    if not worst <= TOLERANCE:
        raise UnsupportedModel(
            f"onnxruntime computes something else of the exported file than torch: {worst:.1e} of the largest logit"
        )
    return worst


def _onnxruntime(file: Path, sizes: list[tuple[int, int]]) -> Callable[[Ids], Logits]:
    """A function that runs the file on the next tokens and keeps its cache."""
    try:
        import onnxruntime
    except ImportError:
        raise ToolMissing("export compares with onnxruntime: pip install 'meadow-fpga[torch]'") from None
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [f"{n}.{kind}" for n in range(len(sizes)) for kind in ("key", "value")]
    past = [np.zeros((1, heads, 0, dim), np.float32) for heads, dim in sizes for _ in range(2)]

    def run(tokens: Ids) -> Logits:
        seen = past[0].shape[2]
        feeds = {
            "input_ids": tokens[None],
            "attention_mask": np.ones((1, seen + len(tokens)), np.int64),
            "position_ids": np.arange(seen, seen + len(tokens))[None],
            **{f"past_key_values.{name}": value for name, value in zip(names, past, strict=True)},
        }
        known = {i.name for i in session.get_inputs()}  # the exporter leaves out what a model does not use
        logits, *past[:] = session.run(None, {k: v for k, v in feeds.items() if k in known})
        return np.asarray(logits[0], np.float32)

    return run
