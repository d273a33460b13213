# SPDX-License-Identifier: Apache-2.0
"""In which order, and where: parts of matrices, packing, instructions, addresses."""
