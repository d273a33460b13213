# SPDX-License-Identifier: Apache-2.0
"""Runs Vitis and Vivado: tools.py finds them and knows their steps, run.py runs those, failures.py reads logs, reports.py reports."""
