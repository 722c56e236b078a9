"""How long the gate takes for the eight classes of PBC beside torch-fidelity's FID, KID, precision and recall.

Both read the same folders of real images and compute Inception's features with the same weights: torch-fidelity by
`calculate_metrics` class by class, the gate by `judge_folders` with all that it does, once with an empty cache and once again.
The synthetic images are other real ones, mirrored. Where the gate's precision is reduced, FID is computed in both.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from joblib.externals.loky import get_reusable_executor
from PIL import Image
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d, FeatureExtractorInceptionV3

from balancer.errors import InputError
from balancer.quality import fid, gate
from balancer.quality.features import FeatureExtractor, Inception, inception, inception_weights
from balancer.quality.folders import judge_folders
from benchmarks.gate.defects import read_class

SET, RESOLUTION = "pbc", 128  # of the files, so that nothing is resized
SIDES = ("real", "synthetic")

Array = np.ndarray
Seconds = tuple[float, float]  # of the clock, and of all processes that took part


def table(sets: Path, images: int) -> str:
    """The tables, as markdown, from so many images of each class on either side."""
    if not (sets / SET).is_dir():
        return f"Not found under {sets}: {SET}."
    with tempfile.TemporaryDirectory() as temporary:
        return _page(sets / SET, Path(temporary), images)


def _page(source: Path, work: Path, images: int) -> str:
    labels = write_folders(source, work, images)
    weights = work / "inception.pth"
    torch.save(for_torch_fidelity(), weights)
    extractor = inception()  # reads its weights here, once; torch-fidelity reads them for every class
    rows = []
    with mock.patch.dict(os.environ, HEMABALANCE_CACHE=str(work / "cache")):
        for name in ("gate, first call", "gate, second call"):
            with _spent(Inception, "__call__") as features, _spent(gate, "cell_measures") as cells:
                took = timed(lambda: _judged(work, extractor))[1]
            rows.append((name, took, sum(features), sum(cells)))
        ours = {
            label: fid.compute(*(extractor(_read(work / side / label)) for side in SIDES)) for label in labels
        }
    with _spent(FeatureExtractorInceptionV3, "forward") as features:
        theirs, took = timed(
            lambda: {label: _torch_fidelity(work, label, images, weights) for label in labels}
        )
    rows.append(("torch-fidelity", took, sum(features), 0.0))
    return f"{_times(rows, len(labels), images)}\n\n{_fids(ours, theirs)}"


def _judged(work: Path, extractor: FeatureExtractor) -> None:
    judge_folders(work / "real", work / "synthetic", extractor)
    get_reusable_executor().shutdown()  # its processes count once they have ended


def _times(rows: list[tuple[str, Seconds, float, float]], classes: int, images: int) -> str:
    clock, processor = rows[-1][1]
    lines = [
        f"{classes} classes, {images} real and {images} synthetic images of {RESOLUTION} px each; "
        f"{torch.get_num_threads()} threads, {os.cpu_count()} cores. Seconds by the clock but for the last two columns, of all "
        "processors; ratios are to torch-fidelity.",
        "",
        "| | s | ratio | of it features | cells | the rest | without cells | ratio | s of processors | ratio |",
        "|---" * 10 + "|",
    ]
    for name, (seconds, cpu), features, cells in rows:
        cost = [f"{part:.1f}" for part in (features, cells, seconds - features - cells, seconds - cells)]
        lines.append(
            f"| {name} | {seconds:.1f} | {clock / seconds:.1f} | {' | '.join(cost)} | {clock / (seconds - cells):.1f} | "
            f"{cpu:.1f} | {processor / cpu:.1f} |"
        )
    return "\n".join(lines)


def _fids(ours: dict[str, float], theirs: dict[str, dict[str, float]]) -> str:
    lines = ["| class | FID, gate | FID, torch-fidelity | moved by |", "|---" * 4 + "|"]
    for label, value in ours.items():
        expected = theirs[label]["frechet_inception_distance"]
        lines.append(f"| {label} | {value:.3f} | {expected:.3f} | {value / expected - 1:+.2%} |")
    return "\n".join(lines)


def _torch_fidelity(work: Path, label: str, images: int, weights: Path) -> dict[str, float]:
    return calculate_metrics(
        input1=str(work / "real" / label),
        input2=str(work / "synthetic" / label),
        fid=True,
        kid=True,
        prc=True,
        kid_subset_size=images,
        feature_extractor="inception-v3-compat",  # for all three; by default prc takes VGG-16's, a network more
        feature_extractor_weights_path=str(weights),
        cuda=False,
        cache=False,
        verbose=False,
    )


def timed(work: Callable[[], Any]) -> tuple[Any, Seconds]:
    """What `work` gives, and the seconds that it took."""
    clock, processor = time.perf_counter(), _processor()
    result = work()
    return result, (time.perf_counter() - clock, _processor() - processor)


@contextmanager
def _spent(owner: Any, name: str) -> Iterator[list[float]]:
    """Seconds by the clock that each call of a function takes."""
    seconds: list[float] = []
    original = getattr(owner, name)

    def wrapper(*arguments: Any) -> Any:
        result, took = timed(lambda: original(*arguments))
        seconds.append(took[0])
        return result

    with mock.patch.object(owner, name, wrapper):
        yield seconds


def _processor() -> float:
    """Seconds that this process took, and those that it started and that have ended."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _read(folder: Path) -> Array:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])


def write_folders(source: Path, work: Path, images: int) -> list[str]:
    """Write `real/` and `synthetic/` under `work`, so many images of each class of `source`; the names of the classes."""
    labels = sorted(folder.name for folder in source.iterdir() if folder.is_dir())
    for label in labels:
        found = read_class(source / label, RESOLUTION, 2 * images)
        if len(found) < 2 * images:
            raise InputError(
                f"{source / label} has {len(found)} images, fewer than two times {images}; give a smaller --images."
            )
        for side, part in (
            (SIDES[0], found[:images]),
            (SIDES[1], [image[:, ::-1] for image in found[images:]]),
        ):
            folder = work / side / label
            folder.mkdir(parents=True)
            for i, image in enumerate(part):
                Image.fromarray(np.ascontiguousarray(image)).save(folder / f"{i:04d}.png")
    return labels


def for_torch_fidelity() -> dict[str, torch.Tensor]:
    """The Inception weights under torch-fidelity's names; the layer of classes, which no metric here looks at, is zero."""
    weights = inception_weights()
    with (
        torch.device("meta"),
        mock.patch("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url"),
        mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"),
    ):
        network = FeatureExtractorInceptionV3("names", ["2048"])
    units = [name for name, module in network.named_modules() if isinstance(module, BasicConv2d)]
    # Both describe the same graph in the same order; only the names differ.
    prefixes = [name.removesuffix("weight") for name in weights if name.endswith(".weight")]
    state: dict[str, torch.Tensor] = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    for unit, prefix in zip(units, prefixes, strict=True):
        state[f"{unit}.conv.weight"] = weights[prefix + "weight"]
        state[f"{unit}.bn.weight"] = torch.ones_like(weights[prefix + "mean"])
        state[f"{unit}.bn.bias"] = weights[prefix + "beta"]
        state[f"{unit}.bn.running_mean"] = weights[prefix + "mean"]
        state[f"{unit}.bn.running_var"] = weights[prefix + "var"]
        state[f"{unit}.bn.num_batches_tracked"] = torch.tensor(0)
    return state
