# SPDX-License-Identifier: Apache-2.0
"""Rung 0: onnxruntime on the ONNX files behind a package.  Runs what it is given; compares nothing."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.machine.errors import ToolMissing, UsageError
from meadow.machine.package.read import Package

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Sources:
    """The ONNX files behind a package.

    user    the user's own file, rung 0
    source  the file that was compiled: another one where `quantize` wrote it of the user's
    """

    user: Path
    source: Path

    @property
    def rewritten(self) -> bool:
        return self.user != self.source


def reference_model(package: Package, override: Path | None, prefer_origin: bool = False) -> Path:
    """The ONNX file behind a package: `override`, or the one its manifest names, its digest checked.

    prefer_origin  the user's own model that the source was quantized from, when the manifest names one
    Raises UsageError when the file is gone or has changed.
    """
    from meadow.compiler.sources.onnx.file import load_model
    from meadow.compiler.sources.source import digest_of, find_source, format_of

    if override is not None:
        file = find_source(override)
        if format_of(file) == "ONNX":
            load_model(file)
        return file
    entry, what = package.manifest["source"], "source"
    if prefer_origin and package.manifest.get("origin"):
        entry, what = package.manifest["origin"], "source was quantized from"
    path = (package.folder.resolve() / entry["path"]).resolve()
    named = (
        f"{path}, which the package's source was quantized from,"
        if what != "source"
        else f"the package's source {path}"
    )
    if not path.is_file():
        raise UsageError(f"{named} is gone; name it with --reference")
    if digest_of(path) != entry["sha256"]:
        raise UsageError(
            f"{named} has changed since the package was compiled; compile again, or name the file with --reference"
        )
    return path


def sources(package: Package, override: Path | None) -> Sources:
    """Both files; `override` is the user's own where it is not the file that was compiled, moved to another place.

    Raises UsageError when a file is gone or has changed.
    """
    if override is None:
        source = reference_model(package, None)
        return Sources(reference_model(package, None, prefer_origin=True), source)
    from meadow.compiler.sources.source import digest_of

    user = reference_model(package, override)
    if digest_of(user) == package.manifest["source"]["sha256"]:
        return Sources(user, user)
    return Sources(user, reference_model(package, None))


def torch_folder(user: Path) -> Path:
    """The Hugging Face folder behind the user's own file: itself, or the one that `meadowc export` wrote it of.

    Raises UsageError where there is none, or where it has changed.
    """
    from meadow.compiler.sources.onnx.file import load_model
    from meadow.compiler.sources.source import digest_of, find_source, format_of, is_hugging_face

    if is_hugging_face(user):
        return user.parent
    found = {}
    if format_of(user) == "ONNX":
        found = {entry.key: entry.value for entry in load_model(user).metadata_props}
    if "meadow.torch.path" not in found:
        raise UsageError(
            f"{user} does not say which Hugging Face folder it was exported from, so the rung torch has no model; "
            "name the folder with --reference"
        )
    folder = (user.parent / found["meadow.torch.path"]).resolve()
    if not folder.is_dir():
        raise UsageError(f"{folder}, which {user} was exported from, is gone; name it with --reference")
    if digest_of(find_source(folder)) != found.get("meadow.torch.sha256"):
        raise UsageError(f"{folder} has changed since {user} was exported from it; export it again")
    return folder


def written(path: Path, folder: Path) -> Path:
    """The ONNX file that the graph of the model file `path` is written as, in `folder`."""
    from meadow.compiler.sources.onnx.file import save_model
    from meadow.compiler.sources.onnx.write import write
    from meadow.compiler.sources.source import read_source

    graph = read_source(path)
    return save_model(write(graph, graph.metadata), folder)


class OnnxModel:
    """An onnxruntime session over a decoder with past_key_values.  Raises ToolMissing without onnxruntime.

    exact  the file's own meaning; else what onnxruntime does by default, which may round activations to 8 bits
    """

    def __init__(self, path: Path, exact: bool = True):
        from meadow.compiler.sources.onnx.file import FP32_ACCURACY, in_full
        from meadow.compiler.sources.onnx.interface import number_of
        from meadow.compiler.sources.source import format_of

        try:
            import onnxruntime
        except ImportError:
            raise ToolMissing("rung 0 needs onnxruntime: pip install 'meadow-fpga[reference]'") from None
        self.path = path
        if format_of(path) != "ONNX":  # onnxruntime runs what convert writes of it
            self._folder = tempfile.TemporaryDirectory(prefix="meadow-reference-")
            path = written(path, Path(self._folder.name))
        options = onnxruntime.SessionOptions()
        file: str | bytes = str(path)
        if exact:
            options.enable_mem_reuse = (
                False  # its plan of buffers fails on graphs of 16-bit floats that share cache heads
            )
            # onnxruntime may fuse DequantizeLinear and MatMul into a kernel that rounds activations to 8 bits; rung 0 is the
            # file's own meaning, with float activations.
            options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", str(FP32_ACCURACY))
            full = in_full(path)
            if full is not None:
                file = full
                options.add_session_config_entry(
                    "session.model_external_initializers_file_folder_path", str(path.parent.resolve())
                )
        try:
            self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has exception classes of its own for every stage
            raise UsageError(f"onnxruntime cannot run {path}: {str(error).splitlines()[0][:200]}") from None
        self.inputs = {i.name: i for i in self.session.get_inputs()}
        results = self.session.get_outputs()
        self.outputs = [o.name for o in results]
        caches = {number_of(o.name): o for o in results if len(o.shape) == 4}
        pairs = {name: caches.get(number_of(name)) for name, i in self.inputs.items() if len(i.shape) == 4}
        if None in pairs.values():
            lacking = next(name for name, o in pairs.items() if o is None)
            raise UsageError(f"{path} gives back no cache for {lacking!r}")
        self.kept = {name: o.name for name, o in pairs.items() if o is not None}
        self.sizes = self._sizes({n: (self.inputs[n].shape, o.shape) for n, o in pairs.items() if o is not None})
        others = [o.name for o in results if len(o.shape) != 4]
        self.logits = "logits" if "logits" in others else others[0]
        self.reset()

    def _sizes(self, shapes: dict[str, tuple[Any, Any]]) -> dict[str, tuple[int, int]]:
        """(KV heads, head_dim) of each cache, as its input or output states them; else as the model is read."""
        from meadow.compiler.graph.ops import Attention
        from meadow.compiler.sources.onnx.interface import number_of
        from meadow.compiler.sources.source import read_source

        found: dict[str, tuple[int, int]] = {}
        read: list[Attention] = []
        layers = sorted({number_of(name)[0] for name in shapes})
        for name, both in shapes.items():
            stated = [next((s[n] for s in both if isinstance(s[n], int)), None) for n in (1, 3)]
            if None in stated and not read:
                read = [n.op for n in read_source(self.path).nodes if isinstance(n.op, Attention)]
            op = read[layers.index(number_of(name)[0])] if read else None
            known = (0, 0) if op is None else (op.kv_heads, op.head_dim)
            found[name] = tuple(k if n is None else n for n, k in zip(stated, known, strict=True))  # type: ignore[assignment]
        return found

    def _type(self, name: str) -> Any:
        """The numpy type of an input."""
        kind = str(self.inputs[name].type).removeprefix("tensor(").removesuffix(")")
        known = {"float": np.float32, "double": np.float64}
        return known.get(kind) or np.dtype(kind)

    def reset(self) -> None:
        """An empty cache."""
        self.position = 0
        self.past: dict[str, NDArray[Any]] = {}
        for name, value in self.inputs.items():
            if len(value.shape) == 4:
                heads, dim = self.sizes[name]
                self.past[name] = np.zeros((1, heads, 0, dim), self._type(name))

    def prefill(self, tokens: list[int]) -> Logits:
        """Logits [T, vocab] of a prompt from an empty cache."""
        self.reset()
        return self.step(tokens)

    def step(self, tokens: list[int]) -> Logits:
        """Logits [T, vocab] of the next tokens."""
        from meadow.compiler.sources.onnx.interface import plain_input

        count = len(tokens)
        feeds: dict[str, Any] = dict(self.past)
        for name, value in self.inputs.items():
            if name not in feeds:
                rank = len(value.shape)
                made = np.array([tokens]) if name == "input_ids" else plain_input(name, rank, self.position, count)
                if made is None:
                    raise UsageError(f"{self.path} has an input {name!r} that is not known")
                feeds[name] = made.astype(self._type(name))
        try:
            found = dict(zip(self.outputs, self.session.run(None, feeds), strict=True))
        except Exception as error:  # as above
            raise UsageError(f"onnxruntime stopped in {self.path}: {str(error).splitlines()[0][:200]}") from None
        for name in self.past:
            self.past[name] = found[self.kept[name]]
        self.position += count
        logits: Logits = found[self.logits].reshape(-1, found[self.logits].shape[-1]).astype(np.float32)
        return logits
