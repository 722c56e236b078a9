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
        ("a nucleus with fine granules", {"granule", "a nucleus with fine granules"}),
        ("The nucleoli are large.", {"other", "large"}),
        ("The nucleus is round. Its granules are coarse.", {"granule"}),
        ("The cell has a round nucleus. Its granules are coarse.", set()),
        ("The round nucleus, in which coarse granules lie, has dense chromatin.", {"granule", "lie"}),
        ("The nucleus is round; there are coarse granules in it.", {"in"}),
        ("The nucleus is indented and without granules.", {"granule"}),
        ("A cell with an indented nucleus and without granules.", set()),
        ("The nucleus is round, and granules lie there.", {"lie", "there"}),
        ("The cell is to be big.", {"to"}),
    ],
)
def test_what_a_text_says_beside_attributes_is_known(text: str, beside: set[str]) -> None:
    assert surplus(text) == beside
