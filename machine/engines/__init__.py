# SPDX-License-Identifier: Apache-2.0
"""The engines that multiply streamed matrices: each is one file, with a value of it in every design that has it."""
