from __future__ import annotations

import pytest

from classifier.surplus import surplus


@pytest.mark.parametrize(
    "text, beside",
    [
        ("A small, round cell without granules; the image shows its nucleus.", {"image"}),
        ("A nicely oval nucleus and blue chromatin", {"nicely", "oval", "blue"}),
        ("The nucleus is not round.", {"round", "not"}),
        ("It may have coarse granules, and no red granules.", {"may", "red", "granule"}),
        ("no nucleus", {"nucleus", "no"}),
        ("Small cells", {"cell"}),
        ("granules in the round nucleus", {"granule", "in"}),
        ("a nucleus with fine granules", {"granule"}),
        ("The nucleoli are large.", {"other", "large"}),
    ],
)
def test_what_a_text_says_beside_attributes_is_known(text: str, beside: set[str]) -> None:
    assert surplus(text) == beside
