# SPDX-License-Identifier: Apache-2.0
"""All rules, by importing the modules that have them."""

from meadow.compiler.sources.onnx.lift import attention, elementwise, fused, products, quantized, views

MODULES = (attention, elementwise, fused, products, quantized, views)
