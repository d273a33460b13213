# SPDX-License-Identifier: Apache-2.0
"""PyTorch models, by transformers: written as ONNX, and run as the top rung of the ladder.  Needs the extra `torch`."""
