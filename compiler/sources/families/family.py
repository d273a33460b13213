# SPDX-License-Identifier: Apache-2.0
"""What a family of decoders is: how a block is wired, which roles its tensors have, and what files call them.

The readers of files and the benchmarks build their graphs with it, so that a block is written down once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from meadow.compiler.graph.graph import Node, name_of
from meadow.compiler.graph.ops import Activation, Add, Attention, Embedding, Head, Linear, Norm, Op, Rotary

if TYPE_CHECKING:
    from meadow.compiler.sources.families.decoder import Decoder

LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
NORMS = ("attn_norm", "ffn_norm", "q_norm", "k_norm", "attn_post_norm", "ffn_post_norm")
FUSED = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}
"""Matrices that some files hold as one: by the name of the whole, its parts in the order of their rows."""

GGUF = {
    "embed": "token_embd",
    "positions": "position_embd",
    "attn_norm": "blk.{}.attn_norm",
    "q": "blk.{}.attn_q",
    "k": "blk.{}.attn_k",
    "v": "blk.{}.attn_v",
    "qkv": "blk.{}.attn_qkv",
    "o": "blk.{}.attn_output",
    "ffn_norm": "blk.{}.ffn_norm",
    "gate": "blk.{}.ffn_gate",
    "up": "blk.{}.ffn_up",
    "gate_up": "blk.{}.ffn_up",
    "down": "blk.{}.ffn_down",
    "q_norm": "blk.{}.attn_q_norm",
    "k_norm": "blk.{}.attn_k_norm",
    "attn_post_norm": "blk.{}.post_attention_norm",
    "ffn_post_norm": "blk.{}.post_ffw_norm",
    "norm": "output_norm",
    "head": "output",
}
"""What GGUF calls the tensors by role; {} is the layer (the names of gguf.TensorNameMap)."""

HUGGING_FACE = {
    "embed": "model.embed_tokens",
    "attn_norm": "model.layers.{}.input_layernorm",
    "q": "model.layers.{}.self_attn.q_proj",
    "k": "model.layers.{}.self_attn.k_proj",
    "v": "model.layers.{}.self_attn.v_proj",
    "o": "model.layers.{}.self_attn.o_proj",
    "ffn_norm": "model.layers.{}.post_attention_layernorm",
    "gate": "model.layers.{}.mlp.gate_proj",
    "up": "model.layers.{}.mlp.up_proj",
    "down": "model.layers.{}.mlp.down_proj",
    "q_norm": "model.layers.{}.self_attn.q_norm",
    "k_norm": "model.layers.{}.self_attn.k_norm",
    "norm": "model.norm",
    "head": "lm_head",
}
"""What the checkpoints of most families call them; a family has its own where they differ."""


@dataclass(frozen=True)
class Shape:
    """The numbers of one layer's block that are not in its tensors."""

    heads: int
    kv_heads: int
    head_dim: int
    eps: tuple[float, float]
    """Of the attention's and the MLP's norm."""
    frequencies: tuple[float, ...]
    """Radians per position of each pair that turns; none is no rotary position."""
    scale: float = 0.0
    """Of the scores; 0 stands for 1 / sqrt(head_dim)."""
    window: int = 0
    """Tokens that one sees at most; 0 is all."""
    rotary_factor: float = 1.0
    """Of cosine and sine."""
    softcap: float = 0.0
    """Scores become softcap * tanh(score / softcap); 0 is no cap."""


def same(decoder: Decoder, keys: Any) -> Decoder:
    """A family that says nothing more than the keys that all families have."""
    return decoder


@dataclass(frozen=True)
class Family:
    """One family.

    name         general.architecture of its GGUF files; "" where there are none
    title        the name by which messages call it
    hugging_face the class of its models there, for config.json
    model_types  model_type of its config.json
    norm         kind of its norms: "rms" or "layer"
    norm_gain    its norms have a gain
    norm_bias    its layer norms have a bias
    offset       what checkpoints leave out of the gains; GGUF files have it in
    pre_norms    norms before attention and MLP
    post_norms   norms between o and down and the sums that these go into
    after_norms  norms of these sums, called attn_norm and ffn_norm, and no norm before the head
    parallel     "": the MLP reads the sum after attention; "one norm" and "two norms": both read the same x
    head_norms   norms of q and k: "" none, "heads" head by head, "row" over all heads
    biases       roles of the linears that have a bias, of LINEARS and "head"
    may_bias     roles that have a bias in some files
    activation   of the MLP: "silu", "gelu", ...
    gated        whether the MLP multiplies activation(gate) with up; else it is activation(up)
    interleaved  the graph rotates neighbours (2i, 2i + 1); else halves (i, i + head_dim / 2)
    permuted     the graph rotates halves, and GGUF stores the rows of q and k so that the pairs are neighbours: reading turns them
    fused        matrices that its files hold as one, of FUSED
    by_head      checkpoints interleave the rows of a fused qkv head by head
    transposed   checkpoints hold the linears as [K, N]
    scaled       the embedding is multiplied by sqrt(dim)
    turned       part of a head that turns where config.json does not say
    positions    learned positions, the first at this row; None: none
    tied         the head is the embedding where config.json does not say
    tensors      what checkpoints call the tensors, where not as HUGGING_FACE has it
    gguf         the same of GGUF
    keys         what config.json calls a number, where not as most do
    defaults     what a key of config.json means where it is absent (null is another thing), as transformers' class of the family has it
    windowed     config.json may say a window: sliding_window, layer_types
    configure    what its config.json says besides: (decoder, keys) -> decoder
    describe     the same of its GGUF keys
    """

    name: str
    title: str = ""
    hugging_face: str = ""
    model_types: tuple[str, ...] = ()
    norm: str = "rms"
    norm_gain: bool = True
    norm_bias: bool = True
    offset: float = 0.0
    pre_norms: bool = True
    post_norms: bool = False
    after_norms: bool = False
    parallel: str = ""
    head_norms: str = ""
    biases: frozenset[str] = field(default_factory=frozenset)
    may_bias: frozenset[str] = field(default_factory=frozenset)
    activation: str = "silu"
    gated: bool = True
    interleaved: bool = False
    permuted: bool = False
    fused: frozenset[str] = field(default_factory=frozenset)
    by_head: bool = False
    transposed: bool = False
    scaled: bool = False
    turned: float = 1.0
    positions: int | None = None
    tied: bool = False
    tensors: Mapping[str, str] = field(default_factory=dict)
    gguf: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    windowed: bool = False
    configure: Callable[[Decoder, Any], Decoder] = same
    describe: Callable[[Decoder, Any], Decoder] = same

    def roles(self) -> tuple[str, ...]:
        """The tensors of a layer: role, and "role.bias" where it has one."""
        linears = [role for role in LINEARS if role != "gate" or self.gated]
        found = {
            "attn_norm": self.pre_norms or self.after_norms,
            "ffn_norm": (self.pre_norms and self.parallel != "one norm") or self.after_norms,
            **dict.fromkeys(("q_norm", "k_norm"), bool(self.head_norms)),
            **dict.fromkeys(("attn_post_norm", "ffn_post_norm"), self.post_norms),
        }
        norms = [role for role in NORMS if found[role]] if self.norm_gain else []
        biased = [*norms] if self.norm == "layer" and self.norm_bias else []
        biased += [role for role in linears if role in self.biases]
        return (*linears, *norms, *(f"{role}.bias" for role in biased))

    def ends(self) -> tuple[str, ...]:
        """The same of those that are in no layer, but for a head that is the embedding."""
        norms = ["norm"] if self.norm_gain and not self.after_norms else []
        biased = [*norms] if self.norm == "layer" and self.norm_bias else []
        biased += [role for role in ("head",) if role in self.biases]
        return ("embed", *(["positions"] * (self.positions is not None)), *norms, *(f"{role}.bias" for role in biased))

    def whole(self, role: str) -> str:
        """The role of the tensor that holds `role`: itself, or what it is fused into."""
        matrix, _, bias = role.partition(".")
        found = next((whole for whole in self.fused if matrix in FUSED[whole]), matrix)
        return f"{found}.{bias}" if bias else found

    @property
    def epsilon_key(self) -> str:
        """GGUF's key of the epsilon of its norms, without the architecture."""
        return f"attention.layer_norm_{'rms_' if self.norm == 'rms' else ''}epsilon"

    def block(self, nodes: Nodes, shape: Shape, names: Mapping[str, str], x: str, factor: float = 1.0) -> str:
        """Append one decoder layer that reads the residual stream %x; returns the stream after it.

        names   of the graph's tensors by role; a bias is there or not, whatever the family says
        factor  of what attention and MLP add to the stream
        """
        heads, kv_heads, head_dim = shape.heads, shape.kv_heads, shape.head_dim

        def norm(role: str, source: str, heads: int = 1) -> str:
            eps = shape.eps[role.startswith("ffn")]
            return nodes.add(role, Norm(names.get(role), eps, self.norm, names.get(f"{role}.bias"), 0.0, heads), source)

        def before(role: str, source: str) -> str:
            return norm(role, source) if self.pre_norms else source

        def linear(role: str, source: str, factor: float = 1.0) -> str:
            return nodes.add(role, Linear(names[role], names.get(f"{role}.bias"), factor), source)

        def rope(role: str, source: str, count: int) -> str:
            if not shape.frequencies:
                return source
            op = Rotary(count, head_dim, shape.frequencies, self.interleaved, shape.rotary_factor)
            return nodes.add(role, op, source)

        def add(role: str, x: str, change: str, norm_role: str) -> str:
            total = nodes.add(role, Add(), x, norm(norm_role, change) if self.post_norms else change)
            return norm(norm_role.replace("_post", ""), total) if self.after_norms else total

        first = before("attn_norm", x)
        q, k, v = (linear(role, first) for role in "qkv")
        if self.head_norms:
            by_head = self.head_norms == "heads"
            q, k = norm("q_norm", q, heads if by_head else 1), norm("k_norm", k, kv_heads if by_head else 1)
        q, k = rope("q_rope", q, heads), rope("k_rope", k, kv_heads)
        scale = shape.scale or head_dim**-0.5
        attention = Attention(heads, kv_heads, head_dim, scale, shape.window, shape.softcap)
        change = linear("o", nodes.add("attend", attention, q, k, v), factor)
        if not self.parallel:
            x = add("attn_add", x, change, "attn_post_norm")
        second = first if self.parallel == "one norm" else before("ffn_norm", x)
        inputs = [linear(role, second) for role in (("gate", "up") if self.gated else ("up",))]
        hidden = nodes.add("glu" if self.gated else "act", Activation(self.activation, self.gated), *inputs)
        made = linear("down", hidden, factor)
        if self.parallel:
            x = nodes.add("attn_add", Add(), x, change)
        return add("ffn_add", x, made, "ffn_post_norm")


@dataclass
class Nodes:
    """The nodes of a graph under construction; `layer` is the one that is being built."""

    made: list[Node] = field(default_factory=list)
    layer: int | None = None

    def add(self, role: str, op: Op, *inputs: str) -> str:
        """Append a node; returns its name."""
        name = name_of(self.layer, role)
        self.made.append(Node(name, op, inputs, self.layer, role))
        return name

    def begin(self, weight: str, factor: float = 1.0, positions: str | None = None, shift: int = 0) -> str:
        """The embedding: the first node."""
        return self.add("embed", Embedding(weight, factor, positions, shift))

    def end(self, x: str, head: Head, norm: Norm | None) -> None:
        """The final norm and the head: the last nodes."""
        x = x if norm is None else self.add("norm", norm, x)
        self.add("logits", head, x)
