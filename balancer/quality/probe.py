"""Label agreement: what a linear probe on frozen features, trained on real images, takes synthetic images for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS = 5
COMPONENTS = 64


@dataclass(frozen=True)
class Probe:
    """The fold models, and for each class how many of its real images were recognised (out of fold) of how many."""

    models: tuple[Pipeline, ...]
    recognised: Mapping[str, tuple[int, int]]

    def agreement(self, features: np.ndarray, label: str) -> float:
        """Share of the rows taken for `label`, averaged over the fold models: [0, 1]."""
        return float(np.mean([model.predict(features) == label for model in self.models]))


def fit_linear(
    x: np.ndarray, y: np.ndarray, seed: int, components: int = COMPONENTS, C: float = 0.1
) -> Pipeline:
    """Class-weighted logistic regression (penalty 1/C) on up to `components` whitened principal components of x, N×d."""
    return make_pipeline(
        StandardScaler(),
        PCA(min(components, len(x) - 1, x.shape[1]), whiten=True, svd_solver="randomized", random_state=seed),
        LogisticRegression(C=C, class_weight="balanced", max_iter=1000),
    ).fit(x, y)


def fit(features: Mapping[str, np.ndarray], groups: Mapping[str, np.ndarray], seed: int) -> Probe | None:
    """Cross-fit a class-weighted logistic regression on the principal components of real features N×d by class.

    No group (N by class) is in two folds, so that nothing is recognised by its patient; a class of a single group
    is divided image by image. A class with one image stands aside; with fewer than two classes left there is no
    probe (None).
    """
    usable = {label: rows for label, rows in features.items() if len(rows) >= 2}
    if len(usable) < 2:
        return None
    x = np.concatenate(list(usable.values()))
    y = np.repeat(list(usable), [len(rows) for rows in usable.values()])
    numbered = {label: _numbered(groups[label]) for label in usable}
    folds = min(FOLDS, *(len(np.unique(which)) for which in numbered.values()))
    group = np.concatenate([[f"{label} {i}" for i in which] for label, which in numbered.items()])
    models, predicted = [], np.empty_like(y)
    divided = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(x, y, group)
    for train, held_out in divided:
        model = fit_linear(x[train], y[train], seed)
        predicted[held_out] = model.predict(x[held_out])
        models.append(model)
    recognised = {
        label: (int((predicted[y == label] == label).sum()), len(rows)) for label, rows in usable.items()
    }
    return Probe(tuple(models), recognised)


def _numbered(groups: np.ndarray) -> np.ndarray:
    names, which = np.unique(groups.astype(str), return_inverse=True)
    return which if len(names) > 1 else np.arange(len(groups))
