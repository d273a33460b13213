# SPDX-License-Identifier: Apache-2.0
"""Who proposes tokens, and how many: against the slow and obvious way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meadow.speculate.lookup import LONGEST, SHORTEST, Lookup
from meadow.speculate.pace import Pace

TEXT = st.lists(st.integers(0, 3), max_size=40)


def slowly(text: list[int], most: int) -> list[int]:
    """What followed the longest of the last n-grams, where it stood last before."""
    for n in range(LONGEST, SHORTEST - 1, -1):
        for start in range(len(text) - n - 1, -1, -1):
            if n <= len(text) and text[start : start + n] == text[-n:]:
                rest = text[start + n :]
                return [rest[k % len(rest)] for k in range(most)]
    return []


@given(TEXT, st.lists(st.integers(1, 7), max_size=6), st.integers(1, 8))
def test_a_look_up_finds_what_a_search_through_the_whole_text_finds(
    text: list[int], cuts: list[int], most: int
) -> None:
    lookup = Lookup()
    rest = list(text)
    for cut in cuts:  # in pieces of any size
        lookup.see(rest[:cut])
        rest = rest[cut:]
    lookup.see(rest)
    assert lookup.draft(most) == slowly(text, most)


def test_a_text_that_repeats_itself_is_gone_on_with() -> None:
    lookup = Lookup()
    lookup.see([7, 1, 2, 3, 1, 2, 3])
    assert lookup.draft(7) == [1, 2, 3, 1, 2, 3, 1]


def test_drafts_that_are_always_wrong_are_given_up_and_right_ones_are_made_more_of() -> None:
    pace = Pace(lambda n: 10.0 + n, 7)
    first = pace.drafts(7)
    assert 0 < first <= 7
    for _ in range(120):
        pace.saw(0, 1)
    assert pace.drafts(7) == 0, "a draft costs a tenth of a run and is never right"
    for _ in range(120):
        pace.saw(0, 0)
    assert pace.drafts(7) > 0, "after a while they are tried again"
    for _ in range(120):
        pace.saw(0, 1)
    for _ in range(80):
        pace.saw(7, 7, "copied")
    assert pace.drafts(7, "copied") == 7 and pace.drafts(7) == 0, "each kind is counted apart"
    assert pace.drafts(2, "copied") == 2 and pace.drafts(0, "copied") == 0


@given(st.floats(0.05, 0.95), st.integers(1, 7))
def test_expected_tokens_are_those_of_a_geometric_run(acceptance: float, drafts: int) -> None:
    pace = Pace(lambda n: 1.0, 7)
    for _ in range(3000):
        pace.saw(0, 1)
    pace._seen[None] = (acceptance * 1e9, 1e9)
    closed = (1 - acceptance ** (drafts + 1)) / (1 - acceptance)
    assert abs(pace.tokens(drafts) - closed) < 1e-6
