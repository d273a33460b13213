# SPDX-License-Identifier: Apache-2.0
"""What drives the Verilog in a fast simulation."""
