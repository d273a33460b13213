# SPDX-License-Identifier: Apache-2.0
"""What a step costs: cycles, bytes, and the timeline of a program."""
