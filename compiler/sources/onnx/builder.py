# SPDX-License-Identifier: Apache-2.0
"""The nodes and initializers of an ONNX graph under construction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper


@dataclass
class Builder:
    """The nodes and initializers of an ONNX graph under construction.  Methods return the name of their output.

    taken  names of values that initializers must not have
    """

    taken: set[str] = field(default_factory=set)
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)
    made: set[str] = field(default_factory=set)

    def const(self, name: str, value: NDArray[np.generic]) -> str:
        """An initializer, made once."""
        while name in self.taken:
            name += "'"
        if name not in self.made:
            self.made.add(name)
            self.tensors.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def scalar(self, value: float) -> str:
        """A constant number, named after it."""
        return self.const(f"float_{np.float32(value)!s}", np.array(value, np.float32))

    def ints(self, *values: int) -> str:
        name = "ints_" + "_".join(str(v).replace("-", "m") for v in values)
        return self.const(name, np.array(values, np.int64))

    def node(self, op: str, *inputs: str, name: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, domain=domain, **attributes))
        return name

    def once(self, op: str, *inputs: str, name: str, **attributes: Any) -> str:
        """A node that is written once, however often it is asked for."""
        if name in self.made:
            return name
        self.made.add(name)
        return self.node(op, *inputs, name=name, **attributes)
