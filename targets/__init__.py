# SPDX-License-Identifier: Apache-2.0
"""Targets: the large models behind a server that verify what boards propose, and their exits."""
