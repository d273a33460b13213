# SPDX-License-Identifier: Apache-2.0
"""ONNX files: read, confirmed by numbers, and written."""
