# SPDX-License-Identifier: Apache-2.0
"""Rung 0: a model's ONNX file in onnxruntime, with its KV cache.  Runs what is given; compares nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.errors import ToolMissing, UsageError
from meadow.compiler.package import Package

Logits = NDArray[np.float32]


def reference_model(package: Package, override: Path | None, prefer_origin: bool = False) -> Path:
    """The ONNX file behind a package: `override`, or the one its manifest names, its digest checked.

    prefer_origin  the unquantized model that the source was quantized from, when the manifest names one
    Raises UsageError when the file is gone or has changed.
    """
    from meadow.compiler.onnx_file import find_model, load_model
    from meadow.compiler.read import source_digest

    if override is not None:
        file = find_model(override)
        load_model(file)
        return file
    entry = package.manifest["source"]
    if prefer_origin and package.manifest.get("origin"):
        entry = package.manifest["origin"]
    path = (package.folder.resolve() / entry["path"]).resolve()
    if not path.is_file():
        raise UsageError(f"the package's source {path} is gone; name it with --reference")
    if source_digest(path) != entry["sha256"]:
        raise UsageError(
            f"{path} has changed since the package was compiled; compile again, or name the file with --reference"
        )
    return path


class OnnxModel:
    """An onnxruntime session over a decoder with past_key_values.  Raises ToolMissing without onnxruntime.

    exact  the file's own meaning; else what onnxruntime does by default, which may round activations to 8 bits
    """

    def __init__(self, path: Path, exact: bool = True):
        try:
            import onnxruntime
        except ImportError:
            raise ToolMissing("rung 0 needs onnxruntime: pip install 'meadow[reference]'") from None
        self.path = path
        options = onnxruntime.SessionOptions()
        # onnxruntime may fuse DequantizeLinear and MatMul into a kernel that rounds activations to 8 bits; rung 0 is the
        # file's own meaning, with float activations (1: compute in FP32).
        if exact:
            options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has exception classes of its own for every stage
            raise UsageError(f"onnxruntime cannot run {path}: {str(error).splitlines()[0][:200]}") from None
        self.inputs = {i.name: i for i in self.session.get_inputs()}
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.reset()

    def reset(self) -> None:
        """An empty cache."""
        self.position = 0
        self.past: dict[str, NDArray[np.float32]] = {}
        for name, value in self.inputs.items():
            if name.startswith("past_key_values"):
                _, heads, _, dim = value.shape
                self.past[name] = np.zeros((1, heads, 0, dim), np.float32)

    def prefill(self, tokens: list[int]) -> Logits:
        """Logits [T, vocab] of a prompt from an empty cache."""
        self.reset()
        return self.step(tokens)

    def step(self, tokens: list[int]) -> Logits:
        """Logits [T, vocab] of the next tokens."""
        count = len(tokens)
        feeds = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, self.position + count), np.int64),
            "position_ids": np.arange(self.position, self.position + count, dtype=np.int64)[None],
            **self.past,
        }
        found = dict(
            zip(self.outputs, self.session.run(None, {k: v for k, v in feeds.items() if k in self.inputs}), strict=True)
        )
        for name in self.past:
            self.past[name] = found[name.replace("past_key_values", "present")]
        self.position += count
        logits: Logits = found["logits"][0]
        return logits
