"""Features to judge in, by name or from a file: Inception, torch-fidelity's CLIP and DINOv2, timm's, one's own.

Weights that are published elsewhere are fetched by torch-fidelity and timm, once; where that fails, an InputError says
which weights are missing and how to give them as a file.
"""

from __future__ import annotations

import difflib
import hashlib
import zipfile
from pathlib import Path

import numpy as np
import timm
import torch
from torch import nn
from torch.nn import functional
from torch_fidelity import feature_extractor_clip as clip
from torch_fidelity import feature_extractor_dinov2 as dinov2
from torchvision.transforms import Normalize

from balancer.data import find_runs
from balancer.errors import InputError, unknown_name
from balancer.imaging.duplicates import apply_transform
from balancer.quality.features import (
    Cached,
    FeatureExtractor,
    file_sha256,
    image_sha256,
    in_batches,
    inception,
)

NAMES = ("inception", *clip.MODEL_METADATA, *dinov2.MODEL_METADATA)
_SIZES = {"s": "small", "b": "base", "l": "large", "g": "giant"}  # of DINOv2, as timm spells them
_ARRAYS = ("image_sha256", "features", "model", "model_sha256")


def load_extractor(features: str, device: torch.device | str = "cpu") -> FeatureExtractor:
    """The extractor that `--features` names; all but a file's are cached on disk.

    `inception` (the default), a name of torch-fidelity's (`clip-vit-b-32`, `dinov2-vit-s-14`, …), `clip-…:FILE.pt` with
    OpenAI's file at hand, `timm:MODEL`, `timm:MODEL:FILE` with weights in timm's layout, or `FILE.npz` (`FeatureFile`).
    Raises InputError for any other name, and when weights cannot be had, are damaged, or are of a classifier.
    """
    where = torch.device(device)
    name, _, rest = features.partition(":")
    if features == "inception":
        return inception(device)
    if features.endswith(".npz") and name != "timm":
        return FeatureFile.load(Path(features))
    if name in clip.MODEL_METADATA:
        return Cached(_clip(name, Path(rest) if rest else None, where))
    if name in dinov2.MODEL_METADATA:
        return Cached(_dinov2(name, rest, where))
    if name == "timm" and rest:
        model, _, file = rest.partition(":")
        return Cached(_timm(model, Path(file) if file else None, where))
    raise unknown_name("features", features, [*NAMES, "timm:MODEL", "timm:MODEL:FILE", "FILE.npz"])


class Backbone:
    """A frozen network as feature extractor: `network` maps uint8 images B×3×H×W to features B×dimension."""

    def __init__(self, name: str, sha256: str, network: nn.Module, device: torch.device) -> None:
        self.name, self.sha256, self.device = name, sha256, device
        self.network = network.to(device).eval().requires_grad_(False)
        with torch.inference_mode():
            probe = torch.zeros(1, 3, 32, 32, dtype=torch.uint8, device=device)
            self.dimension = self.network(probe).shape[1]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features, float32 N×dimension, of uint8 images N×H×W×3 in [0, 255] of any size."""
        return in_batches(images, self.network, self.dimension, self.device, f"{self.name} features")


_LARGEST = 1e6  # of features of one's own: KID is of their sixth power


class FeatureFile:
    """Features that a model of one's own made of the images that are judged, read from an `.npz` file.

    Arrays: `image_sha256` (N strings, of the pixels, see `features.image_sha256`), `features` (float N×d), `model` (a
    name) and `model_sha256` (of the file with the model's weights). `sha256` is that of the whole file. An image that the
    file has only flipped or turned has the features of that one: turned copies are found by their pixels already.
    """

    def __init__(self, path: Path, model: str, vectors: dict[str, np.ndarray]) -> None:
        self.path, self.vectors = path, vectors
        self.name = f"own-{model}"
        self.sha256 = file_sha256(path)
        self.dimension = len(next(iter(vectors.values())))

    @classmethod
    def load(cls, path: Path) -> FeatureFile:
        """Read the file; InputError when it is damaged or incomplete, or when its model is a known classifier run."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                missing = [name for name in _ARRAYS if name not in arrays]
                found = {name: arrays[name] for name in _ARRAYS if name not in missing}
        except FileNotFoundError:
            raise InputError(f"{path} does not exist; give a .npz file of features.") from None
        except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile):
            raise InputError(f"{path} cannot be read as a .npz file of arrays; make it again.") from None
        if missing:
            raise InputError(
                f"{path} lacks {', '.join(missing)}; a file of features holds {', '.join(_ARRAYS)}."
            )
        hashes, features = found["image_sha256"], found["features"]
        if (
            hashes.dtype.kind != "U"
            or hashes.ndim != 1
            or features.dtype.kind != "f"
            or features.ndim != 2
            or not features.size
            or len(hashes) != len(features)
        ):
            raise InputError(
                f"{path} has image_sha256 of {hashes.dtype} {hashes.shape} and features of {features.dtype} "
                f"{features.shape}, where N strings and N×d floating-point numbers are needed."
            )
        if not np.isfinite(features).all():
            raise InputError(f"{path} has features that are not finite; make it again without them.")
        if np.abs(features).max() > _LARGEST:
            raise InputError(
                f"{path} has features of up to {np.abs(features).max():.1g}, whose distances cannot be computed; divide them "
                f"so that none is larger than {_LARGEST:.0g}."
            )
        _refuse_classifier(str(found["model_sha256"]), f"The features in {path}")
        rows = features.astype(np.float32)
        return cls(path, str(found["model"]), dict(zip(hashes.tolist(), rows, strict=True)))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features, float32 N×dimension, of uint8 images N×R×R×3; InputError for images that the file does not have."""
        keys = [self._known(image) for image in images]
        unknown = [image_sha256(image) for image, key in zip(images, keys, strict=True) if key is None]
        if unknown:
            raise InputError(
                f"{self.path} has no features of {len(unknown)} of {len(keys)} images (the first has the pixel hash "
                f"{unknown[0]}); make it of all images of both sides, as they are read at this resolution."
            )
        return (
            np.stack([self.vectors[key] for key in keys if key])
            if keys
            else np.empty((0, self.dimension), "f4")
        )

    def _known(self, image: np.ndarray) -> str | None:
        """The key of the image, else of the first of its flips and quarter turns that the file has."""
        turned = (image_sha256(apply_transform(image, turn)) for turn in range(8))
        return next((key for key in turned if key in self.vectors), None)


class _Resized(nn.Module):
    """Images resized whole to what the network takes, and normalised as it was trained."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        config = timm.data.resolve_model_data_config(network)
        self.size = config["input_size"][1:]
        self.mode = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
        self.normalise = Normalize(config["mean"], config["std"])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = functional.interpolate(images.float() / 255, self.size, mode=self.mode, antialias=True).clamp(
            0, 1
        )
        return self.network(self.normalise(x))


class _First(nn.Module):
    """The only output of a torch-fidelity extractor, which gives a tuple."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)[0]


def _timm(model: str, file: Path | None, device: torch.device) -> Backbone:
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(pretrained=True), n=1, cutoff=0.5)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise InputError(f"timm has no model '{model}'; `timm.list_models()` names those it has.{hint}")
    with torch.random.fork_rng():
        if file is None:
            try:
                network = timm.create_model(model, pretrained=True, num_classes=0)
            except Exception as error:
                # The hub's client raises types of its own, of its HTTP library, and OSError.
                raise InputError(
                    f"The published weights of {model} could not be fetched ({_first_line(error)}). Run once with access "
                    "to the Hugging Face hub so that they are kept, or fetch its model.safetensors elsewhere and give "
                    f"--features timm:{model}:FILE."
                ) from None
        else:
            network = timm.create_model(model, pretrained=False, num_classes=0)
            _load_timm(network, model, file)
    return Backbone(f"timm-{model}", _weights_sha256(network), _Resized(network), device)


def _load_timm(network: nn.Module, model: str, file: Path) -> None:
    """Load weights in timm's own layout; InputError when they are not all there, or are of another network."""
    if not file.is_file():
        raise InputError(f"The weights {file} do not exist; give a file with the weights of {model}.")
    _refuse_classifier(file_sha256(file), f"The weights {file}")
    try:
        weights = timm.models.load_state_dict(str(file), use_ema=False)
    except Exception as error:  # of safetensors, of pickle, of zip: whatever stands in the file
        raise InputError(
            f"{file} cannot be read as weights of {model} ({_first_line(error)}); give .safetensors or a PyTorch file of "
            "tensors alone."
        ) from None
    head = timm.get_pretrained_cfg_value(model, "classifier") or ()
    heads = tuple(f"{name}." for name in ((head,) if isinstance(head, str) else head))
    weights = {name: value for name, value in weights.items() if not name.startswith(heads)}
    try:
        found = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise InputError(
            f"{file} does not fit {model} ({_first_line(error)}); give the weights of this model."
        ) from None
    wrong = [*found.missing_keys, *found.unexpected_keys]
    if wrong:
        raise InputError(
            f"{file} does not fit {model}: {len(found.missing_keys)} of its tensors are missing and "
            f"{len(found.unexpected_keys)} are of something else (first: {wrong[0]}); give the weights of this model "
            "in timm's layout."
        )


def _clip(name: str, file: Path | None, device: torch.device) -> Backbone:
    expected = clip.MODEL_METADATA[name]["hash"]
    kept = Path(torch.hub.get_dir()) / "checkpoints" / f"{name}-{expected}.pt"
    if file is None and not kept.is_file():
        try:
            clip.FeatureExtractorCLIP(name, ["clip"])
        except Exception as error:
            raise InputError(
                f"The weights of {name} could not be fetched ({_first_line(error)}). Run once with access to the network "
                f"so that they are kept, or fetch {clip.MODEL_URLS[name]} elsewhere and give --features {name}:FILE.pt."
            ) from None
    path = file or kept
    if not path.is_file():
        raise InputError(f"The weights {path} do not exist; give the file of {clip.MODEL_URLS[name]}.")
    found = file_sha256(path)
    if found != expected:
        raise InputError(
            f"{path} is not the expected file of {name} (sha256 {found}, expected {expected}); fetch "
            f"{clip.MODEL_URLS[name]} again."
        )
    network = clip.FeatureExtractorCLIP(name, ["clip"], feature_extractor_weights_path=str(path))
    return Backbone(name, found, _First(network), device)


def _dinov2(name: str, file: str, device: torch.device) -> Backbone:
    in_timm = f"timm:vit_{_SIZES[name.split('-')[2]]}_patch14_dinov2.lvd142m:FILE"
    if file:
        raise InputError(
            f"torch-fidelity reads no file of {name}; with weights at hand give --features {in_timm}, the same network "
            "in timm."
        )
    try:
        with torch.random.fork_rng():
            network = dinov2.FeatureExtractorDinoV2(name, ["dinov2"])
    except Exception as error:
        raise InputError(
            f"{name} could not be fetched ({_first_line(error)}): torch-fidelity takes its code and weights from "
            "github.com/facebookresearch/dinov2. Run once with access to the network so that they are kept, or give "
            f"--features {in_timm}, the same network in timm."
        ) from None
    return Backbone(name, _weights_sha256(network), _First(network), device)


def _weights_sha256(network: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of a network's tensors, in their order."""
    state = hashlib.sha256()
    for name, value in network.state_dict().items():
        state.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        state.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def _refuse_classifier(sha256: str, what: str) -> None:
    """Refuse features of a classifier run under ./runs: the judge of images may not be what is trained on them."""
    for run in find_runs(kind="classifier"):
        weights = run.path / "classifier.safetensors"
        if weights.is_file() and file_sha256(weights) == sha256:
            raise InputError(
                f"{what} are of {weights}, a classifier that is compared with these images; the gate's judge may not be "
                "the model under test: give features of another one."
            )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.:')}" if lines else type(error).__name__
