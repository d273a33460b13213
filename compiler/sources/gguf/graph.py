# SPDX-License-Identifier: Apache-2.0
"""A GGUF file becomes a Graph, as its family is wired; codes, scales and minima stay as they are stored."""

from __future__ import annotations

import json
from pathlib import Path

from meadow.compiler.graph.graph import Graph
from meadow.compiler.sources.gguf.file import LARGEST_SIZE, GgufFile, read_gguf
from meadow.compiler.sources.gguf.tokenizer import config_files, tokenizer
from meadow.machine.errors import UsageError
from meadow.machine.guard import guard


def read(path: Path) -> Graph:
    """The Graph of the GGUF file `path`.  Raises UsageError for a damaged file, UnsupportedModel for one of no known family."""
    with guard(path, UsageError, "get the file again, or convert the model to GGUF again"):
        return graph_of(read_gguf(path))


def graph_of(file: GgufFile) -> Graph:
    """The Graph of a parsed file, every tensor under its GGUF name."""
    metadata = {"meadow.source": file.path.name, "meadow.context": str(file.decoder.model.context)}
    return file.decoder.graph(file, str(file.path), metadata, LARGEST_SIZE)


def companions(path: Path) -> dict[str, str]:
    """The texts that belong beside the model: tokenizer, configuration and chat template, by file name.

    Raises UsageError for a file that names more tokens than its embedding has rows, UnsupportedModel for another tokenizer.
    """
    with guard(path, UsageError, "get the file again, or convert the model to GGUF again"):
        file = read_gguf(path)
        fields = file.fields
        made = tokenizer(fields)
        tokens = fields["tokenizer.ggml.tokens"]
        if len(tokens) > file.decoder.model.vocab:
            raise UsageError(f"{path} names {len(tokens)} tokens for an embedding of {file.decoder.model.vocab} rows")
        found = {"tokenizer.json": made.to_str(pretty=False)}
        for name, content in config_files(file, file.decoder.tied, tokens).items():
            found[name] = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        template = fields.get("tokenizer.chat_template")
        if isinstance(template, str):
            found["chat_template.jinja"] = template
        return found
