"""The HTML report: the template filled with a finished comparison's figures, plots and example images."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from balancer.files import write_text
from classifier.report.examples import KINDS
from classifier.report.plots import arms_plot, primary_plot


def write_report(report: dict[str, Any], out: Path) -> None:
    """Write `out/report.html`, self-contained: style inline, pictures as data URIs, no script, no network.

    `report`: what `classifier.compare.summarise` returns. Example images are taken from `out/examples`.
    """
    environment = Environment(
        loader=PackageLoader("classifier.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"signed": signed, "number": number, "interval": interval, "p_value": p_value}
    primary = report["conclusion"]["primary"]
    text = environment.get_template("report.html.j2").render(
        report=report,
        study=report["study"],
        classes=report["study"]["data"]["classes"],
        arms_plot=_svg_uri(arms_plot(report)),
        primary_plot=_svg_uri(primary_plot(report)) if primary else None,
        examples=_examples(report["study"]["data"]["classes"], out / "examples"),
    )
    write_text(out / "report.html", text)


def signed(value: float) -> str:
    """A difference with its sign: +0.012, −0.004."""
    return f"{value:+.3f}".replace("-", "−")


def number(value: Any) -> str:
    """A figure for a table: counts whole, others with up to three significant digits, what is missing a dash."""
    if value is None:
        return "–"
    if isinstance(value, (list, tuple)):
        return " to ".join(number(part) for part in value)
    if isinstance(value, (bool, str)):
        return str(value)
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}".replace(",", " ")
    digits = 3 if 0.1 <= abs(value) < 1 else (4 if abs(value) < 0.1 else 1)
    return f"{value:.{digits}f}".replace("-", "−")


def interval(ci: Sequence[float]) -> str:
    """Both ends of an interval of a metric in [0, 1]."""
    return f"{ci[0]:.3f}–{ci[1]:.3f}"


def p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _svg_uri(svg: str) -> str:
    return _uri(svg.encode(), "image/svg+xml")


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _examples(classes: Sequence[str], folder: Path) -> dict[str, dict[str, str]]:
    """Data URIs by class and kind, of the pictures that `save_examples` wrote."""
    found: dict[str, dict[str, str]] = {}
    for label in classes:
        paths = {kind: folder / kind / f"{label}.png" for kind in KINDS}
        rows = {kind: _uri(path.read_bytes(), "image/png") for kind, path in paths.items() if path.is_file()}
        if rows:
            found[label] = rows
    return found
