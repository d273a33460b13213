# SPDX-License-Identifier: Apache-2.0
"""An OpenAI-compatible server for one package on one device: requests, a fair queue, streams, figures, a chat page."""
