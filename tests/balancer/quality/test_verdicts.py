"""What the gate's reasons have in common."""

from __future__ import annotations

import pytest

from balancer.quality.verdicts import kind_of


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("near-copy of train image train/a b/3, left.png (correlation 0.99)", "near-copy of train image"),
        ("near-copy of held-out image heldout/a/3.png (correlation 0.99)", "near-copy of held-out image"),
        ("two nuclei, where real b images show one with up to 3 lobes", "two nuclei"),
        ("noise: 8.1 grey levels, in real b images up to 2.0", "noise"),
        ("second cell: another nucleus takes 4.0% of the image", "second cell"),
    ],
)
def test_reasons_of_a_kind(reason: str, kind: str) -> None:
    assert kind_of(reason) == kind
