# SPDX-License-Identifier: Apache-2.0
"""How each kind of node becomes steps, and what of it no engine computes: one file per kind."""
