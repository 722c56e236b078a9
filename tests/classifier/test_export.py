from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import cli
from balancer.data import PreparedDataset
from balancer.errors import InputError
from balancer.files import write_json
from classifier import export
from classifier.checkpoints import ClassifierRun
from classifier.export import export_onnx
from classifier.models import available, create_model, reads_mask
from classifier.models.classifier import Classifier
from classifier.models.heads import with_cosine_head
from classifier.models.text import TextTransformer
from classifier.models.vision_language import WIDTH, VisionLanguage
from classifier.transforms import Transform

SIDE = 32


def run_of(name: str, side: int = SIDE) -> ClassifierRun:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = create_model(name, 3, side)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # as after a training
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    model = Classifier(network, Transform(mask=reads_mask(name)), temperature=0.2).eval()
    return ClassifierRun(Path("run"), model, ("a", "b", "c"), side, {"arch": name}, None)


def check(run: ClassifierRun, out: Path) -> None:
    session = pytest.importorskip("onnxruntime").InferenceSession(out, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    for n in (1, 2, 7):
        pixels = rng.integers(
            0, 256, (n, run.resolution, run.resolution, 3 + run.model.transform.mask), np.uint8
        )
        with torch.inference_mode():
            expected = run.model(torch.from_numpy(pixels)).softmax(1).numpy()
        (found,) = session.run(["probabilities"], {"pixels": pixels})
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert expected.std() > 0.01
    assert json.loads(session.get_modelmeta().custom_metadata_map["config"]) == run.config


def test_onnx_says_what_pytorch_says_for_any_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("resnet18")
    with monkeypatch.context() as patch, pytest.raises(InputError, match="other probabilities than PyTorch"):
        patch.setattr(export, "TOLERANCE", -1.0)
        export_onnx(run, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    assert export_onnx(run, tmp_path / "model.onnx") <= 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    check(run, tmp_path / "model.onnx")
    export_onnx(run, tmp_path / "model.onnx", overwrite=True)
    check(run, tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("name", [*available(), "timm:efficientnet_b0", "timm:vit_tiny_patch16_224"])
def test_every_network_is_exported(name: str, side: int, tmp_path: Path) -> None:
    run = run_of(name, side)
    export_onnx(run, tmp_path / "model.onnx")
    check(run, tmp_path / "model.onnx")


@pytest.mark.slow
def test_a_cosine_head_is_exported(tmp_path: Path) -> None:
    run = run_of("resnet18")
    with_cosine_head(run.model.network, 3, 30.0)
    export_onnx(run, tmp_path / "model.onnx")
    check(run, tmp_path / "model.onnx")


def test_what_cannot_be_exported_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out = run_of("resnet18"), tmp_path / "model.onnx"
    with pytest.raises(InputError, match="folder .*none does not exist"):
        export_onnx(run, tmp_path / "none" / "model.onnx")

    class Twice(torch.nn.Module):
        """Branches on the pixels' values."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((1, 2, 3))[:, None] * (2 if float(images.sum()) > 0 else 1)

    class Pair(torch.nn.Module):
        """Fixes the number of images."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3)).unflatten(0, (len(images), -1)).sum(1)

    for network in (Twice(), Pair()):
        broken = ClassifierRun(
            run.root, Classifier(network, Transform()), run.classes, SIDE, run.config, None
        )
        with pytest.raises(InputError, match="resnet18 (cannot be exported|exported) to ONNX"):
            export_onnx(broken, out)
    assert not out.exists()
    out.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        export_onnx(run, out)
    with pytest.raises(InputError, match="is no export of hemabalance and is not replaced"):
        export_onnx(run, out, overwrite=True)
    assert out.read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("head", ["text", "joint"])
def test_a_network_with_language_is_exported(head: str, tmp_path: Path) -> None:
    run = run_of("resnet18")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        words = torch.randint(2, 20, (3, 2, 8))
        network = VisionLanguage(run.model.network, 3, head, TextTransformer(20, 8, WIDTH), words)
    network.keep_classes()
    spoken = replace(run, model=Classifier(network, Transform(), temperature=0.5).eval())
    export_onnx(spoken, tmp_path / "model.onnx")
    check(spoken, tmp_path / "model.onnx")


def test_the_check_sees_validation_images_where_they_are_at_hand(
    make_prepared: Callable[..., PreparedDataset], tmp_path: Path
) -> None:
    data, run = make_prepared(side=SIDE), run_of("resnet18")
    about = {"kind": "classifier", "data": {"path": str(data.root), "fingerprint": data.fingerprint}}
    write_json(tmp_path / "config.json", about)
    examples = export._examples(replace(run, root=tmp_path), 5)
    validation = data.images("validation")[:]
    assert examples.shape == (5, SIDE, SIDE, 3)
    assert all((validation == example).all(axis=(1, 2, 3)).any() for example in examples)
    assert export._examples(run, 2).shape == (2, SIDE, SIDE, 3)  # noise: this run has no folder
    larger = export._examples(replace(run, root=tmp_path, resolution=2 * SIDE), 2)
    assert larger.shape == (
        2,
        2 * SIDE,
        2 * SIDE,
        3,
    )  # and this one was trained on other images than lie there now


def test_what_has_to_be_done_to_images_first_is_said() -> None:
    run = run_of("shape")
    about = run.config | {"to_um_per_pixel": 0.3, "stain": {"name": "macenko"}}
    transform = Transform(preprocessing=("crop", "clahe"), mask=True)
    model = Classifier(run.model.network, transform, 0.5)
    assert cli._to_do_before(replace(run, config=about, model=model)) == (
        "; images have to be brought to 0.3 µm per pixel, brought to the stain of training (macenko), "
        "preprocessed (crop, clahe), given with the mask of the cell first"
    )
    assert cli._to_do_before(run_of("resnet18")) == ""
