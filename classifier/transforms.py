"""What happens to pixels before a network sees them, saved with the weights.

Three steps: `Transform.prepare`, once for each image and the same in training, evaluation and prediction;
`Transform.augment`, in training alone; `Transform.normalise`, which makes them the network's input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from balancer.data.decode import make_square
from balancer.data.images import IN_MEMORY_BYTES
from balancer.data.wording import number
from balancer.errors import InputError, unknown_name
from balancer.imaging import stain
from balancer.imaging.crop import Box, crop
from balancer.imaging.masks import CYTOPLASM, NUCLEUS
from balancer.imaging.segmentation import segment
from balancer.progress import note
from classifier.augmentation import AUGMENTATIONS

PREPROCESSING = ("crop", "reinhard", "macenko", "clahe", "background")  # in the order in which they are done
_NO_STEPS = "none"
_TO_REFERENCE = ("reinhard", "macenko")  # normalised to the train images
_STATISTICS: dict[str, dict[str, tuple[int, ...]]] = {  # of a stain's reference, and their shapes
    "reinhard": {"mean": (3,), "std": (3,)},
    "macenko": {"light": (3,), "stains": (2, 3), "strengths": (2,)},
}
_REFERENCE_IMAGES = 512  # train images, evenly over all, that a reference is the median of
_MARGIN = 1.2  # side of a crop over the longer side of its cell
_REMOVED = 0  # what background becomes: black, which brightness and contrast leave as it is
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class Images(Protocol):
    """uint8 N×R×R×3 in [0, 255]: a NumPy array, or a `balancer.data.ImageStore`."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Any, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Transform:
    """What happens to pixels before a network sees them; `augmentation` applies to training alone.

    `preprocessing`: names of `PREPROCESSING`, in whatever order they are given done in that one: `crop` to the cell,
    colours brought to those of the train images (`reinhard` or `macenko`, whose `references` `fitted` measures),
    `clahe`, and `background` removed. `mask` appends where nucleus and cytoplasm are, for networks that read it.
    """

    augmentation: str = "flips"
    preprocessing: tuple[str, ...] = ()
    mask: bool = False
    references: Mapping[str, stain.Reference] = field(default_factory=dict)
    mean: tuple[float, ...] = _IMAGENET_MEAN  # of intensities in [0, 1], red, green, blue
    std: tuple[float, ...] = _IMAGENET_STD

    def __post_init__(self) -> None:
        if self.augmentation not in AUGMENTATIONS:
            raise unknown_name("augmentation", self.augmentation, AUGMENTATIONS)
        object.__setattr__(self, "preprocessing", preprocessing_steps(self.preprocessing))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Transform:
        """The transform that `dataclasses.asdict` described; of weights of before there was `preprocessing`, too.

        Raises ValueError, KeyError or TypeError for a description of none.
        """
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        if known.pop("clahe", False):
            known["preprocessing"] = ("clahe",)
        transform = cls(**known)
        colours = np.array([transform.mean, transform.std], dtype=float)
        if colours.shape != (2, 3) or not np.isfinite(colours).all() or (colours[1] <= 0).any():
            raise ValueError("no valid mean and std of the colours")
        for name in _STATISTICS.keys() & set(transform.preprocessing):
            check_reference(name, transform.references.get(name, {}))
        return transform

    def fitted(self, train: Images) -> Transform:
        """This transform with the references of its stain normalisation, measured on the train images.

        Raises InputError when in no train image the stains can be seen.
        """
        references = {}
        for name in self.preprocessing:
            if name in _TO_REFERENCE:
                before = replace(self, preprocessing=self.preprocessing[: self.preprocessing.index(name)])
                chosen = np.unique(np.linspace(0, len(train) - 1, _REFERENCE_IMAGES).astype(int))
                masks = getattr(train, "masks", None)
                seen = before.prepare(train[chosen], masks and masks(chosen))[..., :3]
                references[name] = stain.reference_of(name, seen)
        return replace(self, references=references)

    @property
    def changes_pixels(self) -> bool:
        """Whether `prepare` does anything."""
        return bool(self.preprocessing) or self.mask

    @property
    def segments(self) -> bool:
        """Whether `prepare` needs to know where the cell is."""
        return self.mask or "crop" in self.preprocessing or "background" in self.preprocessing

    def prepare(
        self,
        pixels: np.ndarray,
        masks: Sequence[np.ndarray | None] | None = None,
        left: Counter[str] | None = None,
    ) -> np.ndarray:
        """What is done once for each image: uint8 N×R×R×3 → uint8 N×R×R×3, or ×4 with `mask`; deterministic.

        `masks`: uint8 R×R for each image (255 nucleus, 128 cytoplasm, 0 elsewhere), None where it is not known; it is
        then found by `segment`, and so it is where a given mask does not have both nucleus and cytoplasm and no other
        level. What cannot be done for an image, its cell or its stains not being found, leaves it as it is and is counted
        in `left` by the reason. Raises InputError for images or masks of another shape or type.
        """
        if (
            pixels.dtype != np.uint8
            or pixels.ndim != 4
            or pixels.shape[1] != pixels.shape[2]
            or pixels.shape[3] != 3
        ):
            raise InputError(
                f"Images to prepare are uint8 N×R×R×3; these are {pixels.dtype} {'×'.join(map(str, pixels.shape))}."
            )
        if not self.changes_pixels:
            return pixels
        left = Counter() if left is None else left
        located = _located(pixels, masks, left) if self.segments else [None] * len(pixels)
        prepared = np.empty((*pixels.shape[:3], 3 + self.mask), np.uint8)
        for i, (image, mask) in enumerate(zip(pixels, located, strict=True)):
            if mask is not None and not mask.any():
                left["no cell was found"] += 1
            for name in self.preprocessing:
                image, mask = self._step(name, image, mask, left)
            prepared[i, ..., :3] = image
            if self.mask:
                prepared[i, ..., 3] = mask
        return prepared

    def _step(
        self, name: str, image: np.ndarray, mask: np.ndarray | None, left: Counter[str]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        if name in ("crop", "background"):
            assert mask is not None
            if not mask.any():
                return image, mask
            return _to_cell(image, mask) if name == "crop" else (_without_background(image, mask), mask)
        try:
            return stain.normalise(name, image, self.references.get(name, {})), mask
        except InputError:
            left[f"the stains that {name} normalises were not found"] += 1
            return image, mask

    def augment(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Vary a prepared batch uint8 B×R×R×C; same shape and type. `generator` is of the pixels' device."""
        return AUGMENTATIONS[self.augmentation](pixels, generator)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Prepared uint8 B×R×R×C → float32 B×C×R×R (channels_last in memory): (x / 255 − mean) / std, a mask x / 255."""
        extra = pixels.shape[3] - 3
        scale = torch.tensor((*self.std, *[1.0] * extra), device=pixels.device) * 255
        offset = torch.tensor((*self.mean, *[0.0] * extra), device=pixels.device) * 255
        return ((pixels.float() - offset) / scale).permute(0, 3, 1, 2)


def check_reference(name: str, reference: Mapping[str, Any]) -> None:
    """Raise ValueError or KeyError where images cannot be brought to `reference` by the normalisation `name`."""
    if name not in stain.STAINS:
        raise unknown_name("stain normalisation", name, stain.STAINS)
    for key, shape in _STATISTICS.get(name, {}).items():
        values = np.array(reference[key])
        if values.shape != shape or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            raise ValueError(f"no valid {key} of the reference of {name}")


def preprocessing_steps(names: Iterable[str]) -> tuple[str, ...]:
    """The names in the order of `PREPROCESSING`, each once, and of "none" alone nothing.

    Raises InputError for a name that does not exist, for "none" beside others, and for two stains.
    """
    names = tuple(names)
    if names == (_NO_STEPS,):
        return ()
    if _NO_STEPS in names:
        raise InputError("The preprocessing none stands alone; leave it away, or the other names.")
    for name in names:
        if name not in PREPROCESSING:
            raise unknown_name("preprocessing", name, PREPROCESSING)
    if set(_TO_REFERENCE) <= set(names):
        raise InputError("The preprocessing reinhard and macenko both normalise the stain; give one of them.")
    return tuple(name for name in PREPROCESSING if name in names)


def _located(
    pixels: np.ndarray, masks: Sequence[np.ndarray | None] | None, left: Counter[str]
) -> list[np.ndarray]:
    """Where nucleus and cytoplasm are: a mask R×R for each image, given or segmented; masks of no use are counted in `left`."""
    found: list[np.ndarray | None] = [None] * len(pixels)
    if masks is not None:
        if len(masks) != len(pixels):
            raise InputError(f"There are {len(masks)} masks for {len(pixels)} images.")
        for i, mask in enumerate(masks):
            if mask is not None and (mask.dtype != np.uint8 or mask.shape != pixels.shape[1:3]):
                raise InputError(
                    f"A mask is {mask.dtype} {'×'.join(map(str, mask.shape))}, where its image has "
                    f"{'×'.join(map(str, pixels.shape[1:3]))} pixels; give masks of 8 bits and of the images' size."
                )
            if mask is None:
                continue
            if {CYTOPLASM, NUCLEUS} <= set(np.unique(mask)) <= {0, CYTOPLASM, NUCLEUS}:
                found[i] = mask
            else:
                left[
                    f"the mask given is not of nucleus ({NUCLEUS}) and cytoplasm ({CYTOPLASM}), and was found anew"
                ] += 1
    unknown = [i for i, mask in enumerate(found) if mask is None]
    for i, one in zip(unknown, segment([pixels[i] for i in unknown]), strict=True):
        found[i] = one.mask
    return [mask for mask in found if mask is not None]


def _to_cell(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The square around the cell, `_MARGIN` times its longer side, enlarged to the image's size: both, uint8."""
    side = image.shape[0]
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    wide = min(max(height, width) * _MARGIN, side)
    box = Box((columns[0] + columns[-1] + 1 - wide) / 2, (rows[0] + rows[-1] + 1 - wide) / 2, wide, wide)
    inside = box.clipped(side, side)
    assert inside is not None
    return make_square(crop(image, inside), side), make_square(crop(mask, inside), side, nearest=True)


def _without_background(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask[..., None] > 0, image, np.uint8(_REMOVED))


class Prepared:
    """Images behind a transform's `prepare`, indexed like an array: uint8 N×R×R×C.

    Each image is prepared when it is first asked for and kept, where all of them take up to 2 GiB; else at each access.
    Masks are taken from `images.masks(indices)` where the images have that method. What could not be done is counted in `left`,
    once for each image.
    """

    def __init__(self, images: Images, transform: Transform) -> None:
        self.images, self.transform = images, transform
        self.left: Counter[str] = Counter()
        self._known = np.zeros(len(images), bool)
        self._kept: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Any, /) -> np.ndarray:
        if not self.transform.changes_pixels:
            return self.images[indices]
        chosen = np.arange(len(self))[indices]
        wanted, place = np.unique(chosen, return_inverse=True)
        if self._kept is None:
            prepared = self._prepare(wanted)
            if prepared[:1].nbytes * len(self) > IN_MEMORY_BYTES:
                return prepared[place]
            self._kept = np.empty((len(self), *prepared.shape[1:]), np.uint8)
            self._kept[wanted] = prepared
        elif len(missing := wanted[~self._known[wanted]]):
            self._kept[missing] = self._prepare(missing)
        return self._kept[chosen]

    def _prepare(self, indices: np.ndarray) -> np.ndarray:
        masks = getattr(self.images, "masks", None)
        known = self._known[indices]
        parts = [
            self.transform.prepare(self.images[some], masks and masks(some), left)
            for some, left in ((indices[~known], self.left), (indices[known], None))
        ]
        prepared = np.empty((len(indices), *parts[0].shape[1:]), np.uint8)
        prepared[~known], prepared[known] = parts
        self._known[indices] = True
        return prepared

    def say_what_is_left(self, what: str) -> None:
        """Tell the user, in one note, for how many images something could not be done; `what`: "train", say."""
        say_what_is_left(self.left, len(self), f"{what} image")


def say_what_is_left(left: Counter[str], images: int, what: str) -> None:
    """Tell the user, in one note, for how many of the `images` (each a `what`) `Transform.prepare` could not do something."""
    if left:
        counts = ", ".join(f"{n} where {reason}" for reason, n in left.most_common())
        note(f"Of {number(images, what, f'{what}s')} some could not be prepared as asked: {counts}.")
