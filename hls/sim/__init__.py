# SPDX-License-Identifier: Apache-2.0
"""What g++ needs to run the kernels: subsets of the vendor's headers, our own, and the entry of the C simulation."""
