"""The procedural smear renderer: Romanowsky-stained single cells from morphological parameters."""

from __future__ import annotations

from balancer.smear.attributes import describe
from balancer.smear.parameters import CLASSES, LEUKAEMIAS
from balancer.smear.render import FIELD_UM, render
from balancer.smear.source import draw_cells, write_source

__all__ = ["CLASSES", "FIELD_UM", "LEUKAEMIAS", "describe", "draw_cells", "render", "write_source"]
