# SPDX-License-Identifier: Apache-2.0
"""What a family of decoders is: how a block is wired, which roles its tensors have, and what files call them.

The readers of files and the benchmarks build their graphs with it, so that a block is written down once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from meadow.compiler.graph.graph import Node, name_of
from meadow.compiler.graph.ops import Activation, Add, Attention, Embedding, Head, Linear, Norm, Op, Rotary

LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
GGUF = {
    "attn_norm": "attn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "ffn_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "attn_post_norm": "post_attention_norm",
    "ffn_post_norm": "post_ffw_norm",
}
SOMETIMES = {"head_norms": ("q_norm", "k_norm"), "post_norms": ("attn_post_norm", "ffn_post_norm")}
"""Roles that a family has where a field says so."""
"""What GGUF calls the tensors of a layer, by role (the names of gguf.TensorNameMap)."""


@dataclass(frozen=True)
class Shape:
    """The numbers of one layer's block that are not in its tensors."""

    heads: int
    kv_heads: int
    head_dim: int
    eps: tuple[float, float]
    """Of the attention's and the MLP's norm."""
    frequencies: tuple[float, ...]
    scale: float = 0.0
    """Of the scores; 0 stands for 1 / sqrt(head_dim)."""
    window: int = 0
    """Tokens that one sees at most; 0 is all."""


@dataclass(frozen=True)
class Family:
    """One family.

    name         general.architecture of its GGUF files
    title        the name by which messages call it
    norm         kind of its norms: "rms", or "layer", which have biases
    offset       what is added to the gain of its norms
    biases       roles of the linears that have a bias, of LINEARS: "q", "down"
    activation   of the MLP: "silu", "gelu", ...
    gated        whether the MLP multiplies activation(gate) with up; else it is activation(up)
    interleaved  the graph rotates neighbours (2i, 2i + 1); else halves (i, i + head_dim / 2)
    permuted     the graph rotates halves, and GGUF stores the rows of q and k so that the pairs are neighbours: reading turns them
    hugging_face the class of its models there, for config.json
    head_norms   norms of q and k, head by head, before they turn
    post_norms   norms between o and down and the sums that these go into
    scaled       the embedding is multiplied by sqrt(dim)
    local        (period, theta): all layers but every period-th have the file's window, and turn with this theta
    """

    name: str
    title: str = ""
    hugging_face: str = ""
    norm: str = "rms"
    offset: float = 0.0
    biases: frozenset[str] = field(default_factory=frozenset)
    activation: str = "silu"
    gated: bool = True
    interleaved: bool = False
    permuted: bool = False
    head_norms: bool = False
    post_norms: bool = False
    scaled: bool = False
    local: tuple[int, float] | None = None

    def roles(self) -> tuple[str, ...]:
        """The tensors of a layer: role, and "role.bias" where it has one."""
        absent = {role for field, roles in SOMETIMES.items() if not getattr(self, field) for role in roles}
        matrices = [role for role in GGUF if (role != "gate" or self.gated) and role not in absent]
        norms = [f"{role}.bias" for role in ("attn_norm", "ffn_norm")] if self.norm == "layer" else []
        return (*matrices, *(f"{role}.bias" for role in LINEARS if role in self.biases), *norms)

    @property
    def epsilon_key(self) -> str:
        """GGUF's key of the epsilon of its norms, without the architecture."""
        return f"attention.layer_norm_{'rms_' if self.norm == 'rms' else ''}epsilon"

    def tensor(self, layer: int, role: str) -> str:
        """What GGUF calls the tensor of `role`: blk.3.attn_q.weight, blk.3.attn_q.bias."""
        role, _, kind = role.partition(".")
        return f"blk.{layer}.{GGUF[role]}.{kind or 'weight'}"

    def block(self, nodes: Nodes, shape: Shape, names: Mapping[str, str], x: str) -> str:
        """Append one decoder layer that reads the residual stream %x; returns the stream after it.

        names  of the graph's tensors by role; a bias is there or not, whatever the family says
        """
        heads, kv_heads, head_dim = shape.heads, shape.kv_heads, shape.head_dim

        def norm(role: str, source: str, heads: int = 1) -> str:
            gain, bias = names.get(role), names.get(f"{role}.bias")
            eps = shape.eps[role.startswith("ffn")]
            return nodes.add(role, Norm(gain, eps, self.norm, bias, self.offset, heads), source)

        def post(role: str, source: str) -> str:
            return norm(role, source) if self.post_norms else source

        def linear(role: str, source: str) -> str:
            return nodes.add(role, Linear(names[role], names.get(f"{role}.bias")), source)

        def rope(role: str, source: str, count: int) -> str:
            return nodes.add(role, Rotary(count, head_dim, shape.frequencies, self.interleaved), source)

        normed = norm("attn_norm", x)
        q, k, v = (linear(role, normed) for role in "qkv")
        if self.head_norms:
            q, k = norm("q_norm", q, heads), norm("k_norm", k, kv_heads)
        q, k = rope("q_rope", q, heads), rope("k_rope", k, kv_heads)
        attention = Attention(heads, kv_heads, head_dim, shape.scale or head_dim**-0.5, shape.window)
        attended = nodes.add("attend", attention, q, k, v)
        x = nodes.add("attn_add", Add(), x, post("attn_post_norm", linear("o", attended)))
        normed = norm("ffn_norm", x)
        inputs = [linear(role, normed) for role in (("gate", "up") if self.gated else ("up",))]
        hidden = nodes.add("glu" if self.gated else "act", Activation(self.activation, self.gated), *inputs)
        return nodes.add("ffn_add", Add(), x, post("ffn_post_norm", linear("down", hidden)))

    def ends(
        self,
        nodes: Nodes,
        norm: str | None,
        eps: float,
        head: str,
        x: str,
        bias: str | None = None,
        norm_bias: str | None = None,
    ) -> None:
        """Append the final norm, with its bias, and the head, with its `bias`."""
        x = nodes.add("norm", Norm(norm, eps, self.norm, norm_bias, self.offset), x)
        nodes.add("logits", Head(head, bias), x)


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

    def begin(self, weight: str, factor: float = 1.0) -> str:
        """The embedding: the first node."""
        return self.add("embed", Embedding(weight, factor))
