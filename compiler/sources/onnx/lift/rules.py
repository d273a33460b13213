# SPDX-License-Identifier: Apache-2.0
"""All rules, by importing the modules that have them."""

from meadow.compiler.sources.onnx.lift import attention, elementwise, fused, norms, products, quantized, views  # noqa: F401
