"""Features by name and from files. The weights are made here: none are published with the tests."""

from __future__ import annotations

import hashlib
import json
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torch_fidelity import feature_extractor_clip as clip

from balancer.errors import InputError
from balancer.quality.backbones import FeatureFile, load_extractor
from balancer.quality.features import file_sha256, image_sha256

MODEL = "test_convnext"  # of timm: 0.2 million parameters


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEMABALANCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def network(seed: int = 0, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(MODEL, pretrained=False, num_classes=classes).eval()


def test_timm_gives_the_networks_own_features(tmp_path: Path, images: np.ndarray) -> None:
    made = network()
    save_file(made.state_dict(), tmp_path / "w.safetensors")
    torch.save({"state_dict": made.state_dict()}, tmp_path / "w.pth")
    found = load_extractor(f"timm:{MODEL}:{tmp_path / 'w.safetensors'}")
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    config = timm.data.resolve_model_data_config(made)
    large = functional.interpolate(pixels, config["input_size"][1:], mode="bicubic", antialias=True).clamp(
        0, 1
    )
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        expected = made.forward_head(made.forward_features((large - mean) / std), pre_logits=True)
    np.testing.assert_allclose(found(images), expected.numpy(), atol=1e-4)
    assert found.name == f"timm-{MODEL}" and found.dimension == expected.shape[1]
    # The hash is of what the features depend on: not of the file's format, nor of the classifier on top.
    assert load_extractor(f"timm:{MODEL}:{tmp_path / 'w.pth'}").sha256 == found.sha256
    save_file(network(seed=1).state_dict(), tmp_path / "other.safetensors")
    assert load_extractor(f"timm:{MODEL}:{tmp_path / 'other.safetensors'}").sha256 != found.sha256


def test_no_random_state_is_touched(tmp_path: Path) -> None:
    save_file(network().state_dict(), tmp_path / "w.safetensors")
    before = torch.random.get_rng_state()
    load_extractor(f"timm:{MODEL}:{tmp_path / 'w.safetensors'}")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_weights_that_do_not_fit_get_a_sentence(tmp_path: Path) -> None:
    whole = network().state_dict()
    some = {name: value for name, value in whole.items() if not name.startswith("stages.3")}
    first = next(iter(whole))
    torch.save(np.float64, tmp_path / "pickled.pth")
    files = {
        "some.safetensors": (some, "tensors are missing"),
        "more.safetensors": (whole | {"text.weight": torch.zeros(2)}, "1 are of something else"),
        "shape.safetensors": (whole | {first: torch.zeros(1, 2, 3)}, "does not fit"),
    }
    for name, (weights, sentence) in files.items():
        save_file(weights, tmp_path / name)
        with pytest.raises(InputError, match=sentence):
            load_extractor(f"timm:{MODEL}:{tmp_path / name}")
    (tmp_path / "text.safetensors").write_text("no weights")
    for name in ("text.safetensors", "pickled.pth"):
        with pytest.raises(InputError, match="cannot be read as weights"):
            load_extractor(f"timm:{MODEL}:{tmp_path / name}")
    with pytest.raises(InputError, match=r"none\.pth do not exist"):
        load_extractor(f"timm:{MODEL}:{tmp_path / 'none.pth'}")


def test_weights_of_damaged_numbers_get_a_sentence(tmp_path: Path, images: np.ndarray) -> None:
    damaged = {name: torch.full_like(value, torch.nan) for name, value in network().state_dict().items()}
    save_file(damaged, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="not finite"):
        load_extractor(f"timm:{MODEL}:{tmp_path / 'w.safetensors'}")(images)


def test_names_that_do_not_exist_get_a_sentence() -> None:
    with pytest.raises(InputError, match="Did you mean 'inception'"):
        load_extractor("inceptoin")
    with pytest.raises(InputError, match="Did you mean 'resnet50"):
        load_extractor("timm:resnet50x")


def unreachable(*_: Any, **__: Any) -> None:
    raise urllib.error.URLError("Name or service not known")


@pytest.mark.parametrize(
    ("features", "where", "remedy"),
    [
        ("timm:resnet18", "timm.create_model", "timm:resnet18:FILE"),
        ("clip-vit-b-32", "torch_fidelity.feature_extractor_clip.load_state_dict_from_url", "ViT-B-32.pt"),
        ("dinov2-vit-b-14", "torch.hub.load", "timm:vit_base_patch14_dinov2.lvd142m:FILE"),
    ],
)
def test_without_a_network_it_is_said_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, features: str, where: str, remedy: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(where, unreachable)
    with pytest.raises(InputError, match=r"could not be fetched \(URLError") as error:
        load_extractor(features)
    assert remedy in str(error.value)


class Holder(nn.Module):
    """Nothing but the tensors of a state dict, under their names, in a form that TorchScript saves."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, value in weights.items():
            *path, last = name.split(".")
            at: nn.Module = self
            for part in path:
                if part not in dict(at.named_children()):
                    at.add_module(part, Holder({}))
                at = at.get_submodule(part)
            at.register_parameter(last, nn.Parameter(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.fixture()
def clip_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, nn.Module]:
    """A CLIP of two small layers in the form of OpenAI's files, taken for the published one."""
    torch.manual_seed(0)
    visual = clip.CLIPVisual(16, 32, 2, 64, 8)
    halves = {name: value.half().float() for name, value in visual.state_dict().items()}
    visual.load_state_dict(halves)
    path = tmp_path / "ViT-B-32.pt"
    torch.jit.script(Holder(halves | {"text_projection": torch.zeros(4, 16)})).save(str(path))
    monkeypatch.setitem(clip.MODEL_METADATA["clip-vit-b-32"], "hash", file_sha256(path))
    return path, visual.visual.eval()


def test_clip_from_a_file(clip_file: tuple[Path, nn.Module], images: np.ndarray) -> None:
    path, visual = clip_file
    found = load_extractor(f"clip-vit-b-32:{path}")
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    with torch.inference_mode():
        expected = visual((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std)
    np.testing.assert_allclose(found(images), expected.numpy(), atol=1e-4)
    assert found.sha256 == file_sha256(path) and found.name == "clip-vit-b-32"


def test_clip_of_another_hash_gets_a_sentence(clip_file: tuple[Path, nn.Module]) -> None:
    path, _ = clip_file
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(InputError, match=r"ViT-B-32\.pt is not the expected file"):
        load_extractor(f"clip-vit-b-32:{path}")


def test_dinov2_through_torch_fidelity(monkeypatch: pytest.MonkeyPatch, images: np.ndarray) -> None:
    asked = []

    def load(repository: str, name: str) -> nn.Module:
        asked.append((repository, name))
        return nn.Sequential(nn.AvgPool2d(56), nn.Flatten())

    monkeypatch.setattr("torch.hub.load", load)
    found = load_extractor("dinov2-vit-s-14")
    assert asked == [("facebookresearch/dinov2", "dinov2_vits14")]
    assert found(images).shape == (5, 48) and np.ptp(found(images)) > 0
    with pytest.raises(InputError, match="timm:vit_small_patch14"):
        load_extractor("dinov2-vit-s-14:weights.pth")


@pytest.fixture()
def write(tmp_path: Path, images: np.ndarray) -> Callable[..., Path]:
    """Write a file of features of `images`; arrays given by name take the place of good ones, None leaves one out."""

    def make(**changed: Any) -> Path:
        arrays = {
            "image_sha256": np.array([image_sha256(image) for image in images]),
            "features": np.arange(len(images) * 4, dtype=np.float64).reshape(-1, 4),
            "model": np.array("haemo-vit"),
            "model_sha256": np.array("a" * 64),
        } | changed
        np.savez(tmp_path / "f.npz", **{name: value for name, value in arrays.items() if value is not None})
        return tmp_path / "f.npz"

    return make


def test_a_file_of_features(write: Callable[..., Path], images: np.ndarray) -> None:
    path = write()
    found = load_extractor(str(path))
    assert isinstance(found, FeatureFile)
    np.testing.assert_array_equal(found(images[[3, 0]]), [[12, 13, 14, 15], [0, 1, 2, 3]])
    assert found(images).dtype == np.float32 and found(images[:0]).shape == (0, 4)
    np.testing.assert_array_equal(found(np.rot90(images[:1], axes=(1, 2))[:, :, ::-1]), [[0, 1, 2, 3]])
    assert (found.name, found.sha256) == ("own-haemo-vit", hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(InputError, match="no features of 2 of 3 images"):
        found(np.stack([images[0], 255 - images[0], 255 - images[1]]))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"model_sha256": None, "model": None}, "lacks model, model_sha256"),
        ({"features": np.zeros((4, 4))}, "N strings and N×d"),
        ({"features": np.zeros((5, 4), dtype=np.int64)}, "N strings and N×d"),
        ({"image_sha256": np.arange(5)}, "N strings and N×d"),
        ({"image_sha256": np.array(list("abcde"), dtype=object)}, "cannot be read"),
        ({"features": np.full((5, 4), np.nan)}, "not finite"),
    ],
)
def test_damaged_files_of_features_get_a_sentence(
    write: Callable[..., Path], changed: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        load_extractor(str(write(**changed)))


def test_files_that_are_none_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_extractor("none.npz")
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(InputError, match="cannot be read"):
        load_extractor("text.npz")


def test_the_classifier_under_test_is_no_judge(write: Callable[..., Path], tmp_path: Path) -> None:
    run = tmp_path / "runs" / "classifier-1"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"format": 1, "kind": "classifier"}))
    save_file(network().state_dict(), run / "classifier.safetensors")
    path = write(model_sha256=np.array(file_sha256(run / "classifier.safetensors")))
    for features in (str(path), f"timm:{MODEL}:{run / 'classifier.safetensors'}"):
        with pytest.raises(InputError, match="may not be the model under test"):
            load_extractor(features)
    assert load_extractor(str(write())).dimension == 4
