"""A classifier as ONNX: for programs that have neither PyTorch nor this package."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from balancer.data import data_of
from balancer.errors import InputError
from balancer.files import write_with
from classifier.checkpoints import ClassifierRun
from classifier.models.classifier import Classifier
from classifier.transforms import Prepared

OPSET = 18
TOLERANCE = 1e-4  # largest difference of a probability from PyTorch's that is let through
_CHECKED = (1, 3)  # batch sizes


class _Probabilities(nn.Module):
    """Prepared pixels uint8 N×R×R×C → probabilities float32 N×K: normalisation, network, temperature, softmax."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixels).softmax(dim=1)


def export_onnx(run: ClassifierRun, out: Path, overwrite: bool = False) -> float:
    """Write a classifier run as the ONNX file `out`, and return the largest difference of a probability from PyTorch's.

    Input `pixels`: uint8 N×R×R×C, any N, in [0, 255]: RGB, and where the network reads it the mask (255 nucleus, 128
    cytoplasm, 0 elsewhere). Output `probabilities`: float32 N×K. Normalisation and temperature are inside; reading,
    resizing and the run's preprocessing are not. The run's configuration lies in the file's metadata (`config`,
    JSON). The file is written after onnxruntime has given the same probabilities as PyTorch to 1e-4 on validation images of
    the run's data, or on random pixels where these are no longer at hand. Raises InputError where `out` exists (with `overwrite`: and is
    no export), the packages of the extra `export` are missing, or the network cannot be exported.
    """
    out = Path(out)
    if out.is_dir() or (out.exists() and not overwrite):
        raise InputError(f"{out} exists already; choose another --out or give --overwrite to replace it.")
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 (torch.onnx wants it)
    except ImportError as error:
        raise InputError(
            f"ONNX export needs a package that is not installed ({error.name}); run `pip install -e '.[export]'` in the clone."
        ) from None
    if out.exists() and not _exported(onnx, out):
        raise InputError(f"{out} is no export of hemabalance and is not replaced; choose another --out.")
    if not out.parent.is_dir():
        raise InputError(f"The folder {out.parent} does not exist; make it or choose another --out.")
    module = _Probabilities(run.model).eval()
    examples = _examples(run, max(_CHECKED))
    program = onnx.load_from_string(_traced(module, torch.from_numpy(examples[:2]), run.config["arch"]))
    onnx.helper.set_model_props(program, {"config": json.dumps(run.config)})
    content = program.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    worst = 0.0
    for n in _CHECKED:
        pixels = examples[:n]
        with torch.inference_mode():
            expected = module(torch.from_numpy(pixels)).numpy()
        try:
            (found,) = session.run(["probabilities"], {"pixels": pixels})
        except Exception as error:  # onnxruntime's are of types of its own
            raise InputError(
                f"{run.config['arch']} exported to ONNX does not run on {n} images ({str(error).strip().splitlines()[0]}), so "
                "that no file was written."
            ) from None
        worst = float(np.maximum(worst, np.abs(found - expected).max()))  # NaN where one is
    if not worst <= TOLERANCE:
        raise InputError(
            f"{run.config['arch']} exported to ONNX gives other probabilities than PyTorch (by up to {worst:.2g}), so that "
            "no file was written."
        )

    def write(aside: Path) -> None:
        aside.write_bytes(content)

    write_with(out, write)
    return worst


def _exported(onnx: Any, path: Path) -> bool:
    """Whether the file is a classifier that was exported here."""
    try:
        program = onnx.load(path, load_external_data=False)
    except Exception:  # protobuf's are of many types
        return False
    return any(entry.key == "config" for entry in program.metadata_props)


def _examples(run: ClassifierRun, n: int) -> np.ndarray:
    """Prepared pixels uint8 n×R×R×C to compare by: of validation, since a network may be saturated by noise; else noise."""
    data = None
    with contextlib.suppress(InputError):
        data = data_of(run.root)
    if data is None or data.resolution != run.resolution:
        channels = 3 + run.model.transform.mask
        return np.random.default_rng(0).integers(
            0, 256, (n, run.resolution, run.resolution, channels), dtype=np.uint8
        )
    images = data.images("validation")
    return Prepared(images, run.model.transform)[np.linspace(0, len(images) - 1, n).astype(int)]


def _traced(module: nn.Module, pixels: Tensor, arch: str) -> bytes:
    """The ONNX program of a module with a batch of any size, without what the exporter prints."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                module,
                (pixels,),
                input_names=["pixels"],
                output_names=["probabilities"],
                dynamic_shapes={"pixels": {0: torch.export.Dim("images", min=1)}},
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            return program.model_proto.SerializeToString()
        except Exception as error:  # the exporter's are of many types
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{arch} cannot be exported to ONNX ({reason}).") from None
