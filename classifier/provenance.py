"""What may not be trained on: synthetic images from elsewhere, or from a generator that saw the test images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from balancer.data import PreparedDataset, SyntheticSet
from balancer.errors import InputError, unknown_name

_JUDGING = ("validation", "test", "heldout")


def check_synthetic(data: PreparedDataset, synthetic: Sequence[SyntheticSet]) -> None:
    """Refuse what would make a result on `data` worthless; InputError names the files.

    Refused are synthetic images in validation, test or heldout, and a synthetic set that came from other data (by
    fingerprint), whose generator was trained on an image of validation or test (by source_sha256), that has another
    resolution, or a class that the data does not know.
    """
    for split in _JUDGING:
        table = data.tables[split]
        made = table.loc[table["source"] == "synthetic", "file_name"]
        if len(made):
            raise InputError(
                f"{data.root / split} holds {len(made)} synthetic images ({_some(made)}); "
                "only real or rendered images may judge a classifier: prepare the dataset without them."
            )
    for images in synthetic:
        _check_set(data, images)


def _check_set(data: PreparedDataset, images: SyntheticSet) -> None:
    if images.data_fingerprint != data.fingerprint:
        raise InputError(
            f"{images.root} was made from other data than {data.root} (their fingerprints differ): its generator may "
            "have seen the test images. Make a synthetic set from this dataset with `balancer train` and `synth`."
        )
    for split in ("test", "validation"):
        table = data.tables[split]
        seen = table.loc[table["source_sha256"].isin(images.seen), "file_name"]
        if len(seen):
            raise InputError(
                f"The generator behind {images.root} was trained on {len(seen)} images of {data.root / split} "
                f"({_some(seen)}); train it on the train split alone."
            )
    if images.resolution != data.resolution:
        raise InputError(
            f"{images.root} has images of {images.resolution} px and {data.root} of {data.resolution} px; "
            "make a synthetic set at the resolution of the data."
        )
    for label in images.table["label"].unique():
        if label not in data.classes:
            raise InputError(f"{images.root}: {unknown_name('class', str(label), data.classes)}")


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
