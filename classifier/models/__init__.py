"""Classifier networks behind one registry."""

from classifier.models import cnn11, fcmae, hybrid, shape, single  # importing them registers their entries
from classifier.models.registry import (
    Recipe,
    available,
    check_name,
    create_model,
    reads_mask,
    recipe,
    resolve_size,
)

__all__ = [
    "Recipe",
    "available",
    "check_name",
    "cnn11",
    "create_model",
    "fcmae",
    "hybrid",
    "reads_mask",
    "recipe",
    "resolve_size",
    "shape",
    "single",
]
