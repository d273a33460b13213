# SPDX-License-Identifier: Apache-2.0
"""The rungs side by side: onnxruntime, graph, emulator, C simulation, Verilog."""
