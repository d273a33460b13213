# SPDX-License-Identifier: Apache-2.0
"""What a synthesis tool would say of the emitted C++, checked without one: each rule is one file, with a CHECKS of its own."""
