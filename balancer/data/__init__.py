"""Prepared and synthetic sets on disk: readers, splits, and how to find them."""

from balancer.data.catalogue import (
    RUNS,
    Run,
    data_of,
    expand_paths,
    find_runs,
    new_output,
    newest_classifier,
    newest_generator,
    newest_run,
)
from balancer.data.dataset import SPLITS, PreparedDataset
from balancer.data.decode import read_any_image
from balancer.data.fields import Crops, crop_fields
from balancer.data.images import ImageStore
from balancer.data.inspection import Findings, Shortcut, inspect
from balancer.data.prepare import Summary, prepare
from balancer.data.synthetic import SyntheticSet

__all__ = [
    "RUNS",
    "SPLITS",
    "Crops",
    "Findings",
    "ImageStore",
    "PreparedDataset",
    "Run",
    "Shortcut",
    "Summary",
    "SyntheticSet",
    "crop_fields",
    "data_of",
    "expand_paths",
    "find_runs",
    "inspect",
    "new_output",
    "newest_classifier",
    "newest_generator",
    "newest_run",
    "prepare",
    "read_any_image",
]
