"""What a trained classifier says about image files and about the images of a prepared dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from balancer.data import PreparedDataset
from balancer.data.decode import image_size, read_any_image
from balancer.data.images import ImageStore
from balancer.data.wording import number
from balancer.errors import InputError
from balancer.files import new_directory, refuse_existing
from balancer.imaging import stain
from balancer.imaging.scale import check_scale
from balancer.progress import note
from classifier import evaluation
from classifier.attributes import evaluate_attributes
from classifier.calibration import (
    BINS,
    check_coverage,
    conformal_limit,
    conformal_sets,
    expected_calibration_error,
    scaled,
)
from classifier.checkpoints import ClassifierRun, seen_images
from classifier.provenance import check_judges
from classifier.reliability import Answers, Reliability, answers
from classifier.transforms import Images, Prepared, say_what_is_left

COVERAGE = 0.9  # at which an evaluation says what the conformal sets hold
_BATCH, _EXPLAINED = 64, 4  # images at a time, and where each gets a picture, which takes long
_SMALLEST = 8  # px, the shorter side below which a file shows no cell


Line = dict[str, Any]
# Lines of images and the images prepared, uint8 B×R×R×C → nothing: the lines are added to.
Extend = Callable[[Sequence[Line], np.ndarray], None]
# Images uint8 B×R×R×3, the same prepared, and their finished lines → a picture uint8 H×W×3 of each
Draw = Callable[[Sequence[np.ndarray], np.ndarray, Sequence[Line]], Sequence[np.ndarray]]


def predict_files(
    run: ClassifierRun,
    paths: Iterable[Path],
    um_per_pixel: float | None = None,
    coverage: float | None = None,
    explain: Path | None = None,
    extend: Extend | None = None,
    draw: Draw | None = None,
) -> Iterator[Line]:
    """Classify image files of any kind and size, made square, resized and normalised as the training images were.

    `um_per_pixel` is the scale of the files, which has to be known where the training images were brought to one.
    Yields, in order, {"file_name": path as given, "predicted": label, "probabilities": {label: p}}, the probabilities
    calibrated, and where the run knows it "unlike_training": whether the image is unlike those that it was trained on.
    With `coverage`, "classes": the labels among which the true one is for that share of images like those of validation,
    and "abstains": whether they are not exactly one. With `explain`, a new folder with a picture for each image
    (`explain.picture`, or what `draw` makes), "explanation": its path; the folder appears after the last image. `extend` adds
    to the lines. A file that cannot be read as an
    image, or is smaller than 8 px, is named in a note and left out. Raises InputError at the end when none could be read,
    and where the scale is missing or impossible, the coverage is impossible or the run was calibrated on too few images for it,
    or `explain` exists.
    """
    check_scale("--um-per-pixel", um_per_pixel)
    limit = None if coverage is None else _conformal_limit(run, coverage)
    read_image = _reader(run, um_per_pixel)
    paths = list(paths)
    left: Counter[str] = Counter()
    read = unlike = abstained = 0
    with ExitStack() as stack:
        pictures = None
        if explain is not None:
            refuse_existing(explain, None, paths, "folder for --explain")
            pictures = _Pictures(
                stack.enter_context(new_directory(explain, None, "folder for --explain")), explain
            )
        size = _BATCH if pictures is None else _EXPLAINED
        for start in range(0, len(paths), size):
            batch: list[Path] = []
            images: list[np.ndarray] = []
            for path in paths[start : start + size]:
                try:
                    images.append(read_image(Path(path)))
                    batch.append(path)
                except InputError as error:
                    note(f"Left out: {error}")
            if not batch:
                continue
            read += len(batch)
            prepared = Prepared(np.stack(images), run.model.transform)
            found = answers(run.model, prepared)
            probabilities = found.probabilities
            lines = [_line(run, path, p) for path, p in zip(batch, probabilities, strict=True)]
            if run.reliability is not None:
                flags = run.reliability.unlike_training(found)
                unlike += int(flags.sum())
                for line, flag in zip(lines, flags, strict=True):
                    line["unlike_training"] = bool(flag)
            if limit is not None:
                for line, held in zip(lines, conformal_sets(probabilities, limit), strict=True):
                    line["classes"] = [
                        label for label, inside in zip(run.classes, held, strict=True) if inside
                    ]
                    line["abstains"] = len(line["classes"]) != 1
                    abstained += line["abstains"]
            if extend is not None:
                extend(lines, prepared[:])
            if pictures is not None:
                drawn = (draw or _explained(run))(images, prepared[:], lines)
                for line, pixels in zip(lines, drawn, strict=True):
                    line["explanation"] = pictures.save(Path(line["file_name"]), pixels)
            left += prepared.left
            yield from lines
        if paths and not read:
            none = "The file cannot" if len(paths) == 1 else f"None of the {len(paths)} files can"
            raise InputError(f"{none} be predicted; give image files that show a cell.")
    say_what_is_left(left, read, "image")
    if unlike:
        note(
            f"{number(unlike, 'image is', 'images are')} unlike those that {run.root} was trained on, of {read}: what it says "
            "of them means little."
        )
    if abstained:
        note(f"No single class is certain enough for {number(abstained, 'image', 'images')} of {read}.")


def _explained(run: ClassifierRun) -> Draw:
    """Pictures of what the predicted classes rest on."""
    from classifier.explain import attributions, picture  # captum and matplotlib: seconds

    def draw(images: Sequence[np.ndarray], seen: np.ndarray, lines: Sequence[Line]) -> Sequence[np.ndarray]:
        predicted = np.array([run.classes.index(line["predicted"]) for line in lines])
        shown = attributions(run.model, seen, predicted)
        return [picture(*arrays) for arrays in zip(images, seen, shown, strict=True)]

    return draw


def _line(run: ClassifierRun, path: Path, p: np.ndarray) -> dict[str, Any]:
    return {
        "file_name": str(path),
        "predicted": run.classes[int(p.argmax())],
        "probabilities": {label: float(value) for label, value in zip(run.classes, p, strict=True)},
    }


def _conformal_limit(run: ClassifierRun, coverage: float) -> float:
    check_coverage(coverage)
    if run.reliability is None:
        raise InputError(
            f"{run.root} was trained before classifiers were calibrated, so that no coverage can be promised; train it again."
        )
    return conformal_limit(run.reliability.scores, coverage)


class _Pictures:
    """A folder of pictures, each under the name of its image, with a number where two images have the same."""

    def __init__(self, folder: Path, final: Path) -> None:
        self.folder, self.final = folder, final

    def save(self, image: Path, pixels: np.ndarray) -> str:
        """Write a picture; where it will lie when the folder is finished."""
        name, i = f"{image.stem}.png", 2
        while (self.folder / name).exists():
            name, i = f"{image.stem}-{i}.png", i + 1
        Image.fromarray(pixels).save(self.folder / name)
        return str(self.final / name)


def _reader(run: ClassifierRun, um_per_pixel: float | None) -> Callable[[Path], np.ndarray]:
    """Reads an image file as `prepare` read those that the run was trained on."""
    crop, to_um_per_pixel = run.config["crop"], run.config.get("to_um_per_pixel")
    white = run.config.get("white_level")
    if to_um_per_pixel is not None and um_per_pixel is None:
        raise InputError(
            f"{run.root} was trained on images brought to {to_um_per_pixel:g} µm per pixel; give the scale of these files "
            "with --um-per-pixel."
        )
    if um_per_pixel is not None and to_um_per_pixel is None:
        note(f"{run.root} was trained on images of any scale: --um-per-pixel changes nothing.")

    def read(path: Path) -> np.ndarray:
        size = image_size(path)
        if size is not None and min(size) < _SMALLEST:
            raise InputError(
                f"{path} is {size[0]}×{size[1]} pixels, too few to show a cell; give images of at least {_SMALLEST}×{_SMALLEST}."
            )
        pixels = read_any_image(path, run.resolution, crop, um_per_pixel, to_um_per_pixel, white)
        return restained(run, pixels, path)

    return read


def restained(run: ClassifierRun, pixels: np.ndarray, name: Path | str) -> np.ndarray:
    """An image, uint8 R×R×3, in the stain that the run was trained on; as it is where that cannot be, with a note of its name."""
    normalisation = run.config.get("stain")
    if normalisation is None:
        return pixels
    try:
        return stain.normalise(normalisation["name"], pixels, normalisation["reference"])
    except InputError as error:
        note(f"{name} stays as it is: {error}.")
        return pixels


def to_restain(run: ClassifierRun, data: PreparedDataset) -> bool:
    """Whether images of `data` are still to be brought to the stain that the run was trained on (`restained`); a note says so.

    Raises InputError where they were brought to another, and says in a note where the run knows no stain but its images' own.
    """
    trained_in, own = run.config.get("stain"), data.info.get("stain")
    if trained_in and own and trained_in != own:
        raise InputError(
            f"{data.root} was brought to a stain of its own ({own['name']}), and {run.root} was trained on another "
            f"({trained_in['name']}, to its train images); prepare the data without --stain: it is then normalised as the "
            "training images were."
        )
    if own and not trained_in:
        note(
            f"{run.root} was trained on images whose stain was not normalised, as it was in {data.root}: its result speaks of that too."
        )
    if trained_in and not own:
        note(
            f"The images of {data.root} are normalised as those were that {run.root} was trained on ({trained_in['name']})."
        )
    return bool(trained_in and not own)


def images_for(run: ClassifierRun, data: PreparedDataset, split: str) -> Images:
    """The images of a split in the stain that the run was trained on.

    Raises InputError when the resolution differs from the run's, the split is empty, and as `to_restain` does.
    """
    if run.resolution != data.resolution:
        raise InputError(
            f"{run.root} takes images of {run.resolution} px, {data.root} has {data.resolution} px; "
            f"prepare the data with --resolution {run.resolution}."
        )
    if data.tables[split].empty:
        raise InputError(f"{data.root / split} has no images; take another split, or other data.")
    images = data.images(split)
    return _Restained(run, images) if to_restain(run, data) else images


class _Restained:
    """The images of a store in the stain that the run was trained on, with their masks."""

    def __init__(self, run: ClassifierRun, images: ImageStore) -> None:
        self.masks = images.masks
        self._pixels = np.stack([restained(run, images[[k]][0], path) for k, path in enumerate(images.paths)])

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, indices: Any, /) -> np.ndarray:
        return self._pixels[indices]


def evaluate_run(run: ClassifierRun, data: PreparedDataset, split: str = "test") -> dict[str, Any]:
    """Judge a run on one split of a prepared dataset: what `evaluate` returns.

    A run that was trained on images of a normalised stain normalises those of a dataset that was prepared without
    `--stain`, by the reference it was trained on. Raises InputError when classes or resolution differ from those that the
    run was trained on, the stain was normalised to another reference, the split is empty, or one of its images is
    synthetic or was seen in training (`check_judges`).
    """
    if run.classes != data.classes:
        raise InputError(
            f"{run.root} knows the classes {', '.join(run.classes)}, {data.root} has {', '.join(data.classes)}; "
            "prepare the data with the same classes (`--map`)."
        )
    if run.config.get("to_um_per_pixel") != data.info.get("to_um_per_pixel"):
        note(
            f"{run.root} was trained on images that `balancer prepare` brought to another scale than those of {data.root} "
            "(--to-um-per-pixel): its result speaks of that too."
        )
    if run.config.get("white_level") != data.info.get("white_level"):
        note(
            f"{run.root} was trained on images whose white was at another level than that of {data.root} (16-bit images): its "
            "result speaks of that too."
        )
    trained_on = run.config["data"].get("treatment") or data.treatment
    if trained_on.get("crop") != data.info.get("crop"):
        note(
            f"{run.root} was trained on images that `balancer prepare` made square in another way than those of {data.root} "
            "(--crop): its result speaks of that too."
        )
    seen = seen_images(run.root).besides(run.config["data"]["fingerprint"], data)
    check_judges(data, [split], seen)
    images = images_for(run, data, split)
    found = answers(run.model, images)
    result = evaluate(found.probabilities, data, split) | trust(
        found, data.labels(split), run.model.temperature, run.reliability
    )
    attributes = evaluate_attributes(run.model, images, data, split)
    return result if attributes is None else result | {"attributes": attributes}


def trust(
    found: Answers, labels: np.ndarray, temperature: float, reliability: Reliability | None
) -> dict[str, Any]:
    """How far answers to images of these labels (int N), given at `temperature`, can be trusted, as JSON values.

    temperature; ece (expected calibration error in `bins` bins of equal width) and what it was `before` the temperature;
    conformal: at the `coverage` of 0.9, the share of images whose set of classes has the true one (`realised`), and of those
    whose set is that of one class (`single`), null where the calibration images were too few; unlike_training: the
    share of images that are called unlike those of training. The last two are null without `reliability`.
    """
    probabilities, conformal, unlike = found.probabilities, None, None
    if reliability is not None:
        unlike = float(reliability.unlike_training(found).mean())
        with suppress(InputError):  # too few images
            held = conformal_sets(probabilities, conformal_limit(reliability.scores, COVERAGE))
            conformal = {
                "coverage": COVERAGE,
                "realised": float(held[np.arange(len(labels)), labels].mean()),
                "single": float((held.sum(axis=1) == 1).mean()),
            }
    return {
        "temperature": temperature,
        "ece": {
            "bins": BINS,
            "value": expected_calibration_error(probabilities, labels),
            "before": expected_calibration_error(scaled(probabilities, 1 / temperature), labels),
        },
        "conformal": conformal,
        "unlike_training": unlike,
    }


def evaluate(probabilities: np.ndarray, data: PreparedDataset, split: str) -> dict[str, Any]:
    """Metrics of probabilities float N×K on a split, as JSON values.

    macro_f1, balanced_accuracy (means over the classes that have images) and accuracy; per class recall, precision,
    F1, and the number of images; the confusion matrix with true classes in rows. A ratio of a class without images
    is null.
    """
    labels, predicted = data.labels(split), probabilities.argmax(axis=1)
    matrix = evaluation.confusion(labels, predicted, len(data.classes))
    support = matrix.sum(axis=1)
    ratios = {
        "recall": evaluation.recall(matrix),
        "precision": evaluation.precision(matrix),
        "f1": evaluation.f1(matrix),
    }
    return {
        "format": 1,
        "data": {"path": str(data.root.absolute()), "fingerprint": data.fingerprint, "split": split},
        "images": len(labels),
        "macro_f1": float(evaluation.score(matrix, "macro_f1")),
        "balanced_accuracy": float(evaluation.score(matrix, "balanced_accuracy")),
        "accuracy": float((labels == predicted).mean()),
        "per_class": {
            label: {name: float(values[k]) if support[k] else None for name, values in ratios.items()}
            | {"images": int(support[k])}
            for k, label in enumerate(data.classes)
        },
        "confusion": {"classes": list(data.classes), "matrix": matrix.tolist()},
    }


def prediction_table(probabilities: np.ndarray, data: PreparedDataset, split: str) -> pd.DataFrame:
    """One row per image: file_name (in the split's folder), label, predicted, and p_<class> for every class."""
    table = data.tables[split][["file_name", "label"]].reset_index(drop=True)
    table["predicted"] = np.array(data.classes)[probabilities.argmax(axis=1)]
    for k, label in enumerate(data.classes):
        table[f"p_{label}"] = probabilities[:, k]
    return table
