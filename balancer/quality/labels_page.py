"""Suspect labels on disk: the ranked list as CSV, and a page with the pictures of the suspects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from balancer.files import new_directory, write_csv, write_json, write_text
from balancer.pages import data_uri, templates
from balancer.quality.labels import LabelCheck

SHOWN = 200  # suspects with a picture; of 128 px they make a page of about 7 MB
_TYPICAL = 6  # of each class, to compare with


def write_labels(check: LabelCheck, out: Path, overwrite: bool = False) -> None:
    """Write `out/`: `labels.csv` (every judged image, see `LabelCheck`), `labels.html` and `config.json`, or nothing.

    The page is self-contained: style inline, pictures as data URIs, no script, no network. Raises InputError when `out`
    exists and `overwrite` is false.
    """
    suspects = check.suspects
    page = (
        templates("balancer.quality")
        .get_template("labels.html.j2")
        .render(
            check=check,
            info=check.describe(),
            by_class=suspects["label"].value_counts().to_dict(),
            total=check.table["label"].value_counts().to_dict(),
            suspects=_cells(check, suspects.head(SHOWN)),
            typical={
                label: _cells(check, _typical(check, label))
                for label in check.data.classes
                if check.recall[label]
            },
        )
    )
    with new_directory(out, overwrite) as folder:
        write_csv(folder / "labels.csv", check.table)
        write_text(folder / "labels.html", page)
        write_json(folder / "config.json", check.describe())


def _typical(check: LabelCheck, label: str) -> Any:
    """The rows of the images whose label the others support most, the best first."""
    return check.table[check.table["label"] == label].iloc[: -_TYPICAL - 1 : -1]


def _cells(check: LabelCheck, rows: Any) -> list[dict[str, Any]]:
    """The rows of the table, each with its picture as a data URI."""
    cells = rows.to_dict("records")
    for cell in cells:
        picture = (check.data.root / cell["file_name"]).read_bytes()
        cell["uri"] = data_uri(picture, "image/png")
    return cells
