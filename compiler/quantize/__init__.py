# SPDX-License-Identifier: Apache-2.0
"""A graph becomes a graph with fewer bits."""
