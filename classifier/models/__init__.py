"""Classifier networks behind one registry."""

from classifier.models import hybrid, single  # importing them registers their entries
from classifier.models.registry import available, create_model, resolve_size

__all__ = ["available", "create_model", "hybrid", "resolve_size", "single"]
