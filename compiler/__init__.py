# SPDX-License-Identifier: Apache-2.0
"""The compiler: from an ONNX file to a package.  Start reading at pipeline.py; nothing is imported here, so that
a board needs neither onnx nor a tokenizer to load a package."""
