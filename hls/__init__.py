# SPDX-License-Identifier: Apache-2.0
"""The engine in Vitis HLS C++: static kernels, and templates for the constants and the top level.  Data, no code."""
