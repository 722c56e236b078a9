"""What the checks image by image look at (`measures.measures`), kept on disk as features are."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, cpu_count, delayed

from balancer.imaging import artefacts, morphology, segmentation
from balancer.quality import measures
from balancer.quality.features import Cached

_WORTH_PROCESSES = 256  # images: below, processes start more slowly than one of them works
_BATCH = 32  # images that a process takes at a time


def cell_measures(images: np.ndarray) -> pd.DataFrame:
    """`measures.measures` of images, uint8 N×R×R×3: a row each, float32 precision; many are spread over processes."""
    return pd.DataFrame(_measures()(images), columns=list(measures.COLUMNS), dtype=float)


@lru_cache(maxsize=1)
def _measures() -> Cached:
    return Cached(_Measures())  # once: it reads the code to know it by its hash


class _Measures:
    """The measures as features; `sha256` is of the code that they come from, since there are no weights."""

    name = "cell-measures"
    dimension = len(measures.COLUMNS)
    undefined = True  # what an image has not cannot be measured

    def __init__(self) -> None:
        code = [
            Path(str(module.__file__)).read_bytes()
            for module in (artefacts, morphology, segmentation, measures)
        ]
        code += [metadata.version(name).encode() for name in ("scikit-image", "scipy")]
        self.sha256 = hashlib.sha256(b"".join(code)).hexdigest()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        count = cpu_count() if len(images) >= _WORTH_PROCESSES else 1
        parts = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
        tables = Parallel(n_jobs=count)(delayed(measures.measures)(part) for part in parts)
        return pd.concat([measures.measures([]), *tables]).to_numpy(np.float32)
