from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from balancer.data import PreparedDataset, SyntheticSet
from balancer.errors import InputError
from classifier.provenance import check_synthetic

Prepared = Callable[..., PreparedDataset]
Synthetic = Callable[..., SyntheticSet]


def test_an_honest_set_passes(make_prepared: Prepared, make_synthetic: Synthetic) -> None:
    data = make_prepared()
    check_synthetic(data, [])
    check_synthetic(data, [make_synthetic(data)])


def test_a_set_from_other_data_is_refused(make_prepared: Prepared, make_synthetic: Synthetic) -> None:
    data, other = make_prepared(), make_prepared("other")
    with pytest.raises(InputError, match=r"synthetic was made from other data than .*data "):
        check_synthetic(data, [make_synthetic(other)])


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_generator_that_saw_an_image_that_judges_is_refused(
    make_prepared: Prepared, make_synthetic: Synthetic, split: str
) -> None:
    data = make_prepared()
    row = data.tables[split].iloc[3]
    images = make_synthetic(data, seen=(row["source_sha256"],))
    with pytest.raises(InputError, match=rf"trained on 1 images of .*{split} \({row['file_name']}\)"):
        check_synthetic(data, [images])


@pytest.mark.parametrize("split", ["validation", "test", "heldout"])
def test_synthetic_images_among_the_judges_are_refused(make_prepared: Prepared, split: str) -> None:
    data = make_prepared()
    table = data.tables["test"].copy()
    table.loc[4:8, "source"] = "synthetic"
    tainted = replace(data, tables=data.tables | {split: table})
    with pytest.raises(InputError, match=rf"{split} holds 5 synthetic images \(basophil/test4.png"):
        check_synthetic(tainted, [])


def test_other_resolutions_and_classes_are_refused(
    make_prepared: Prepared, make_synthetic: Synthetic
) -> None:
    data = make_prepared()
    with pytest.raises(InputError, match="16 px and .* of 8 px"):
        check_synthetic(data, [make_synthetic(data, side=16)])
    with pytest.raises(InputError, match="no class 'neutrofil'.*Did you mean 'neutrophil'"):
        check_synthetic(data, [make_synthetic(data, label="neutrofil")])
