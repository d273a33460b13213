# SPDX-License-Identifier: Apache-2.0
"""How likely a package finds an answer after a context."""

from __future__ import annotations

import numpy as np

from meadow.machine.errors import UsageError
from meadow.runtime.session import Session
from meadow.runtime.text.sampler import logprobs


def likelihood(session: Session, context: list[int], answer: list[int]) -> tuple[float, bool]:
    """(natural logarithm of the probability of `answer` after `context`, whether greedy decoding would give it).

    Begins where the cache has the context already: answers to one question share it.  Raises UsageError for an empty context, and
    for more than the cache holds.
    """
    if not context:
        raise UsageError("a context of no tokens says nothing; begin it with the beginning or end token")
    if not answer:
        return 0.0, True
    session.check_tokens([*context, *answer[:-1]], 0)
    session.check_tokens(answer[-1:], 0)  # the last is never run: its number alone must be one
    at, last = session.resume(context), len(context) - 1
    if at < last:
        session.prefill(context[at:last])
    rows = session.prefill([context[last], *answer[:-1]], logits="all")
    likely = np.stack([logprobs(row) for row in rows])
    return float(likely[np.arange(len(answer)), answer].sum()), likely.argmax(axis=1).tolist() == answer
