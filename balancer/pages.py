"""What self-contained HTML pages are made with: style inline, pictures as data URIs, no script, no network."""

from __future__ import annotations

import base64

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates(package: str) -> Environment:
    """The templates that lie in a package; what a template names and is not given is an error."""
    return Environment(
        loader=PackageLoader(package, "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )


def data_uri(content: bytes, kind: str) -> str:
    """The content of a file of this media type as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
