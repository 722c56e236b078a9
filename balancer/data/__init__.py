"""Prepared and synthetic sets on disk: readers, splits, and how to find them."""

from balancer.data.dataset import SPLITS, PreparedDataset
from balancer.data.decode import read_any_image
from balancer.data.images import ImageStore
from balancer.data.prepare import Summary, prepare
from balancer.data.synthetic import SyntheticSet

__all__ = [
    "SPLITS",
    "ImageStore",
    "PreparedDataset",
    "Summary",
    "SyntheticSet",
    "prepare",
    "read_any_image",
]
