"""The HTML report: the template filled with a finished comparison's figures, plots and example images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from balancer.files import write_text
from balancer.pages import data_uri, templates
from balancer.quality.gate import GOOD
from classifier.report.examples import KINDS
from classifier.report.plots import NARROW, WIDE, arms_plot, primary_plot

DECIMALS = {"kid": 4, "fid": 1}  # of the gate's metrics; all others are shares or near 1


def write_report(report: dict[str, Any], out: Path) -> None:
    """Write `out/report.html`, self-contained: style inline, pictures as data URIs, no script, no network.

    `report`: what `classifier.compare.summarise` returns. Example images are taken from `out/examples`.
    """
    environment = templates("classifier.report")
    environment.filters |= {"signed": signed, "count": count, "interval": interval, "p_value": p_value}
    study, primary = report["study"], report["conclusion"]["primary"]
    text = environment.get_template("report.html.j2").render(
        report=report,
        study=study,
        classes=study["data"]["classes"],
        verdict=verdict(report),
        arms_plot=[_svg_uri(arms_plot(report, width)) for width in (WIDE, NARROW)],
        primary_plot=[_svg_uri(primary_plot(report, width)) for width in (WIDE, NARROW)] if primary else None,
        examples=_examples(study["data"]["classes"], out / "examples"),
        unverified=_unverified(study),
        measured=measured,
        footnotes=footnotes,
    )
    write_text(out / "report.html", text)


def signed(value: float) -> str:
    """A difference with its sign: +0.012, −0.004."""
    return f"{value:+.3f}".replace("-", "−")


def verdict(report: Mapping[str, Any]) -> str:
    """The conclusion in a few words."""
    if report["conclusion"]["primary"]:
        return {True: "helped", False: "did not help", None: "undecided"}[report["conclusion"]["helped"]]
    if not report["study"]["synthetic"]:
        return "not tested: no synthetic images given"
    if not any(images["counts"] for images in report["study"]["synthetic"]):
        return "not tested: no synthetic image passed the gate"
    return "not tested: the arm gan was not run"


def count(value: int) -> str:
    """A count with a thin gap between the thousands: 12 345."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def measured(metric: str, value: float | Sequence[float] | None) -> str:
    """A value of one of the gate's metrics, or its interval, with the metric's decimals; a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, Sequence):
        return " to ".join(measured(metric, end) for end in value)
    return f"{value:.{DECIMALS.get(metric, 3)}f}".replace("-", "−")


def footnotes(gate: Mapping[str, Any]) -> tuple[list[str], dict[tuple[str, str], int]]:
    """The different notes on the metrics in `gate`, and the number, from 1, of each class and metric's note.

    What a class's reasons say already is left out and the class's name replaced, so that classes share notes.
    """
    numbers: dict[str, int] = {}
    found: dict[tuple[str, str], int] = {}
    for label, judged in gate["classes"].items():
        for metric, values in judged["metrics"].items():
            note = (values["note"] or "").replace(f"takes for {label};", "takes for the class;")
            for reason in judged["reasons"]:
                note = note.replace(reason, "")
            if note := note.strip():
                found[label, metric] = numbers.setdefault(note, len(numbers) + 1)
    return list(numbers), found


def _unverified(study: Mapping[str, Any]) -> set[str]:
    """The classes whose images were used although they did not pass."""
    return {
        label
        for images in study["synthetic"]
        for label, judged in images["gate"]["classes"].items()
        if judged["verdict"] not in GOOD and images["counts"].get(label)
    }


def interval(ci: Sequence[float]) -> str:
    """Both ends of an interval of a metric in [0, 1]."""
    return f"{ci[0]:.3f}–{ci[1]:.3f}"


def p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _svg_uri(svg: str) -> str:
    return data_uri(svg.encode(), "image/svg+xml")


def _examples(classes: Sequence[str], folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Data URI and number of images, by class and kind, of the pictures that `save_examples` wrote."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for label in classes:
        paths = {kind: folder / kind / f"{label}.png" for kind in KINDS}
        rows = {kind: _picture(path) for kind, path in paths.items() if path.is_file()}
        if rows:
            found[label] = rows
    return found


def _picture(path: Path) -> dict[str, Any]:
    with Image.open(path) as row:
        images = row.width // row.height
    return {"uri": data_uri(path.read_bytes(), "image/png"), "images": images}
