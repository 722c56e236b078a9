"""Encoders that `classifier pretrain` has made, as what a classifier starts from."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors
import safetensors.torch
from torch import Tensor, nn

from balancer.data import PreparedDataset
from balancer.data.dataset import read_table
from balancer.data.seen import Seen
from balancer.errors import InputError
from balancer.progress import note
from balancer.quality.features import file_sha256
from classifier.models.backbones import ConvNeXtPyramid

FORMAT = 1
KIND = "pretraining"
ENCODER = "encoder.safetensors"
SEEN = "seen.csv"


@dataclass(frozen=True)
class PretrainedEncoder:
    """A pretraining run, opened. `config` is what `config.json` holds, `weights` those of a `ConvNeXtPyramid`."""

    root: Path
    config: dict[str, Any]
    weights: dict[str, Tensor]

    @classmethod
    def load(cls, run: str | Path) -> PretrainedEncoder:
        """Open a pretraining run from its weights file alone; InputError when it is none, newer, or damaged."""
        path = Path(run) / ENCODER
        if not path.is_file():
            raise InputError(
                f"{run} is no pretraining run (no {ENCODER}); make one with `classifier pretrain`."
            )
        try:
            with safetensors.safe_open(os.fspath(path), framework="pt") as file:
                config = json.loads((file.metadata() or {})["config"])
            weights = safetensors.torch.load_file(path)
            version, about = int(config["format"]), config.get("data")
            if not all(value.isfinite().all() for value in weights.values()):
                raise ValueError("its weights are no finite numbers")
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} cannot be read as a pretrained encoder ({error}); make it again."
            ) from None
        if version > FORMAT:
            raise InputError(
                f"{run} has pretraining format {version}, this version reads up to {FORMAT}; update hemabalance."
            )
        known = isinstance(about, dict) and isinstance(about.get("fingerprint"), str)
        if not known or not (
            isinstance(config.get("size"), str) and isinstance(config.get("resolution"), int)
        ):
            raise InputError(f"{path} does not say what it was pretrained on; make it again.")
        return cls(Path(run), config, weights)

    def start(self, network: nn.Module, resolution: int) -> None:
        """Give `network`, for images of `resolution`, this encoder's weights in place.

        Raises InputError when the network has no ConvNeXt V2 encoder of its own, or the size or resolution differ.
        """
        encoder = getattr(network, "pyramid", None)
        if not isinstance(encoder, ConvNeXtPyramid):
            raise InputError(
                f"{self.root} holds a pretrained ConvNeXt V2 encoder, which fcmae-wpat and convnextv2 can start from; "
                "choose one of them with --arch, or leave out --init."
            )
        if self.config["resolution"] != resolution:
            raise InputError(
                f"{self.root} was pretrained on images of {self.config['resolution']} px, these have {resolution} px; "
                f"pretrain on images of {resolution} px."
            )
        expected = {name: value.shape for name, value in encoder.state_dict().items()}
        if expected != {name: value.shape for name, value in self.weights.items()}:
            raise InputError(
                f"{self.root} holds an encoder of size {self.config['size']} and the network has another; "
                f"give --size {self.config['size']}, or pretrain in the size of the network."
            )
        encoder.load_state_dict(self.weights)

    def check(self, data: PreparedDataset) -> None:
        """Refuse to start a classifier of `data` from images that are to judge it.

        Raises InputError when validation or test holds an image of the pretraining, be it in another file, or when its images were treated
        otherwise by `balancer prepare`. Other data that share no such image are told in a note.
        """
        origin = self.config["data"]
        if differing := data.treated_otherwise(origin.get("treatment")):
            raise InputError(
                f"{self.root} was pretrained on images that `balancer prepare` treated otherwise than those of {data.root} "
                f"({differing}); pretrain on images like these."
            )
        seen = Seen.read(self.root / SEEN)
        for split in ("test", "validation"):
            if known := seen.besides(origin["fingerprint"], data).among(data, split):
                raise InputError(
                    f"{self.root} was pretrained on {len(known)} images of {data.root / split} "
                    f"({', '.join(known[:3])}{', …' if len(known) > 3 else ''}), be it in other files, which would judge a classifier that has "
                    "seen them; pretrain on the train split of this dataset."
                )
        if origin["fingerprint"] != data.fingerprint:
            unknown = (
                "" if seen.pictures else ", as the same file (copies that were saved anew cannot be told: it was "
                "pretrained before their hashes were kept)"
            )  # fmt: skip
            note(
                f"{self.root} was pretrained on other data ({origin['path']}) than {data.root}; none of their images is "
                f"in its validation or test split{unknown}."
            )

    def seen(self) -> pd.DataFrame:
        """The images that it was pretrained on: source_sha256, label, split, and perceptual_hash where it is known."""
        return read_table(self.root / SEEN, ["source_sha256", "label", "split"])

    def to_json(self) -> dict[str, Any]:
        """What a run says of the encoder that it started from."""
        return {
            "path": str(self.root.absolute()),
            "sha256": file_sha256(self.root / ENCODER),
            "data": self.config["data"],
        }


def checked_encoder(init: str | None, data: PreparedDataset) -> PretrainedEncoder | None:
    """The encoder that a training on `data` starts from, after `PretrainedEncoder.check`; None where there is none."""
    if init is None:
        return None
    encoder = PretrainedEncoder.load(init)
    encoder.check(data)
    return encoder
