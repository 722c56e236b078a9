from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from balancer.quality.folders import ClassFolders
from balancer.quality.gate_page import SHOWN, SHOWN_COPIES, SHOWN_PER_REASON, render

LABEL = "AML & <others>"


class Parsed(HTMLParser):
    """The text of a page, the sources of its pictures, and whether all that opens is closed."""

    VOID = ("meta", "img", "link", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.pictures, self.open, self.tags = "", [], [], set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "img":
            self.pictures.append(dict(attrs)["src"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def metric(value: float | None, **more: Any) -> dict[str, Any]:
    return {"value": value, "ci": None, "real_vs_real": None, "note": "as it is"} | more


def judged(verdict: str, **metrics: dict[str, Any]) -> dict[str, Any]:
    reasons = ["KID 0.02 lies across the margin."]
    return {
        "verdict": verdict,
        "reasons": reasons,
        "n_real": 30,
        "n_candidates": 60,
        "n_accepted": 20,
        "metrics": metrics,
    }


@pytest.fixture()
def real(tmp_path: Path) -> ClassFolders:
    folder = tmp_path / "real" / LABEL
    folder.mkdir(parents=True)
    for i in range(30):
        Image.new("RGB", (16, 16), (i, 0, 0)).save(folder / f"{i}.png")
    return ClassFolders.load(tmp_path / "real")


def candidates(tmp_path: Path, reasons: list[tuple[str | None, str | None]]) -> pd.DataFrame:
    rows = []
    for i, (reason, train) in enumerate(reasons):
        path = tmp_path / f"c{i}.png"
        Image.new("RGB", (16, 16), (0, i, 0)).save(path)
        rows.append((LABEL, path, reason, train))
    return pd.DataFrame(rows, columns=["label", "path", "reason", "nearest_train"])


def document(judgement: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": 1,
        "features": {"name": "colours", "sha256": "c" * 64},
        "classes": {LABEL: judgement},
    }


def test_images_stand_under_their_reasons(tmp_path: Path, real: ClassFolders) -> None:
    train = f"train/{LABEL}/7.png"
    rows = candidates(
        tmp_path,
        [(None, None)] * 20
        + [("two nuclei, where this class has one (score 3.1)", None)] * 9
        + [("no nucleus", train)] * 2  # near a train image, but rejected for another reason
        + [(f"near-copy of train image {train} (correlation 0.99)", train)] * 11,
    )
    page = Parsed(render(document(judged("warn", kid=metric(0.02))), rows, real))
    assert not page.open and not page.tags & {"script", "link", "iframe"}
    assert len(page.pictures) == SHOWN + SHOWN + SHOWN_PER_REASON + 2 + 2 * SHOWN_COPIES
    assert all(str(source).startswith("data:image/png;base64,") for source in page.pictures)
    assert f"Rejected: two nuclei ({SHOWN_PER_REASON} of 9)" in page.text
    assert "Rejected: no nucleus (2 of 2)" in page.text
    assert page.text.index("two nuclei (") < page.text.index("no nucleus (")
    assert f"({SHOWN_COPIES} of 11; left the synthetic image" in page.text
    assert f"({SHOWN} of 20, evenly spaced" in page.text
    assert "22 rejected one by one" in page.text and "let through" in page.text
    assert LABEL in page.text  # escaped in the source, whole for the reader


def test_a_copy_stands_beside_its_train_image(tmp_path: Path, real: ClassFolders) -> None:
    train = f"train/{LABEL}/7.png"
    rows = candidates(tmp_path, [(f"near-copy of train image {train}", train)])
    page = Parsed(render(document(judged("fail")), rows, real))
    expected = real.root / LABEL / "7.png"
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(page.pictures[-1].split(",")[1]))))
    np.testing.assert_array_equal(shown, np.asarray(Image.open(expected)))


def test_numbers_stand_beside_real_vs_real(tmp_path: Path, real: ClassFolders) -> None:
    numbers = {
        "kid": metric(0.02, ci=[0.01, 0.03], real_vs_real=0.0, real_vs_real_ci=[-0.005, 0.005], margin=0.03),
        "new_one": metric(3.0),
        "fid": metric(None, note="2 real images are too few for it."),
    }
    html = render(document(judged("warn", **numbers)), candidates(tmp_path, [(None, None)]), real)
    page = Parsed(html)
    assert "0.01 to 0.03" in page.text and "-0.005 to 0.005" in page.text and "New one" in page.text
    assert "2 real images are too few for it." in page.text
    # The scale runs from the least number, -0.005 at 4 %, to the greatest, 0.03 at 96 %.
    assert '<i class="real-ci" style="left:4.0%' in html and '<i class="margin" style="left:96.0%"' in html
    assert '<i class="value" style="left:69.71%"' in html
    assert "prefers-color-scheme: dark" in html and "http" not in html


def test_a_class_that_did_not_pass_lets_nothing_through(tmp_path: Path, real: ClassFolders) -> None:
    page = Parsed(render(document(judged("fail")), candidates(tmp_path, [(None, None)] * 3), real))
    assert "of a class that did not pass" in page.text
    assert "Synthetic images that were let through" not in page.text
    empty = Parsed(render(document(judged("fail")), candidates(tmp_path, []), real))
    assert len(empty.pictures) == SHOWN
