# SPDX-License-Identifier: Apache-2.0
"""A GGUF file becomes a Graph, as its family is wired; codes, scales and minima stay as they are stored."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.graph import Graph
from meadow.compiler.sources.families.family import Nodes
from meadow.compiler.sources.gguf.file import LARGEST_SIZE, GgufFile, read_gguf
from meadow.compiler.sources.gguf.tokenizer import config_files, tokenizer
from meadow.machine.errors import UsageError
from meadow.machine.guard import guard
from meadow.machine.types import Weight


def read(path: Path) -> Graph:
    """The Graph of the GGUF file `path`.  Raises UsageError for a damaged file, UnsupportedModel for one of no known family."""
    with guard(path, UsageError, "get the file again, or convert the model to GGUF again"):
        return graph_of(read_gguf(path))


def graph_of(file: GgufFile) -> Graph:
    """The Graph of a parsed file, every tensor under its GGUF name."""
    family, model = file.family, file.model
    weights: dict[str, Weight] = {"token_embd.weight": file.weight("token_embd.weight")}
    vectors: dict[str, NDArray[np.float32]] = {}
    nodes = Nodes()
    x = nodes.begin("token_embd.weight", float(np.sqrt(np.float32(model.dim))) if family.scaled else 1.0)
    for nodes.layer in range(model.layers):
        names = {role: family.tensor(nodes.layer, role) for role in family.roles()}
        for role, name in names.items():
            if len(file.tensors[name].shape) == 1:
                vectors[name] = file.role_vector(nodes.layer, role)
            else:
                weights[name] = file.role(nodes.layer, role)
        x = family.block(nodes, file.shape_of(nodes.layer), names, x)
    nodes.layer = None
    vectors["output_norm.weight"] = file.vector("output_norm.weight")
    if file.head not in weights:
        weights[file.head] = file.weight(file.head)
    bias = "output_norm.bias" if "output_norm.bias" in file.tensors else None
    if bias is not None:
        vectors[bias] = file.vector(bias)
    family.ends(nodes, "output_norm.weight", file.shape.eps[0], file.head, x, norm_bias=bias)
    metadata = {"meadow.source": file.path.name, "meadow.context": str(model.context)}
    named = re.sub(r"[^A-Za-z0-9_.-]+", "-", model.name)
    graph = Graph(
        replace(model, name=named), tuple(nodes.made), weights, vectors, str(file.path), metadata, LARGEST_SIZE
    )
    graph.check()
    return graph


def companions(path: Path) -> dict[str, str]:
    """The texts that belong beside the model: tokenizer, configuration and chat template, by file name.

    Raises UsageError for a file that names more tokens than its embedding has rows, UnsupportedModel for another tokenizer.
    """
    with guard(path, UsageError, "get the file again, or convert the model to GGUF again"):
        file = read_gguf(path)
        fields = file.fields
        made = tokenizer(fields)
        tokens = fields["tokenizer.ggml.tokens"]
        if len(tokens) > file.model.vocab:
            raise UsageError(f"{path} names {len(tokens)} tokens for an embedding of {file.model.vocab} rows")
        found = {"tokenizer.json": made.to_str(pretty=False)}
        for name, content in config_files(file, file.head == "token_embd.weight", tokens).items():
            found[name] = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        template = fields.get("tokenizer.chat_template")
        if isinstance(template, str):
            found["chat_template.jinja"] = template
        return found
