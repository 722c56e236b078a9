"""Checkpoints that explain themselves: safetensors with the config in the file's metadata; no pickles.

`state.safetensors` is the truth: every module and optimizer, and the step reached. `generator.safetensors` is
derived from it: the averaged generator alone, with all that is needed to sample from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from balancer.data.attributes import multi_hot
from balancer.errors import InputError
from balancer.files import kind_of, write_with
from balancer.generators import registry
from balancer.generators.combinations import Combinations, told

_KEY = "hemabalance"
_GENERATOR = ("generator", "network", "config", "classes", "known", "resolution", "data", "kimg")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
    """Write tensors and a JSON description to a safetensors file, atomically."""
    write_tensors(path, tensors, {_KEY: json.dumps(info)})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, atomically. Raises OSError where it cannot be written."""
    plain = {name: t.detach().to("cpu").contiguous().clone() for name, t in tensors.items()}

    def write(aside: Path) -> None:
        try:
            save_file(plain, aside, metadata=metadata)
        except SafetensorError as error:  # of a full disk, for one
            raise OSError(f"{path} could not be written ({error}).") from None

    write_with(path, write)


def load_tensors(path: Path, needed: Collection[str] = ()) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises InputError when the file is missing, truncated or of another make, or its description lacks one of `needed`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            info = json.loads((file.metadata() or {}).get(_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except (SafetensorError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}); train again or take another checkpoint.") from None
    if not isinstance(info, dict):
        raise InputError(f"{path} is no checkpoint of hemabalance: its metadata has no configuration.")
    missing = [name for name in needed if name not in info]
    if missing:
        raise InputError(
            f"{path} is damaged (its metadata lacks {', '.join(missing)}); train again or take another checkpoint."
        )
    return tensors, info


def collect_state(
    modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """All parameters, buffers and optimizer moments under flat names."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"module/{name}/{key}": value for key, value in module.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{name}/{index}/{key}": torch.as_tensor(v) for key, v in moments.items()}
    return tensors


def restore_state(
    tensors: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    path: Path,
) -> None:
    """Put back what `collect_state` took; InputError when the networks have other names or shapes."""
    try:
        for name, module in modules.items():
            prefix = f"module/{name}/"
            module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise InputError(
            f"{path} holds networks of another architecture, class count or resolution ({reason})"
        ) from None
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"optimizer/{name}/"):
                _, _, index, moment = key.split("/")
                state.setdefault(int(index), {})[moment] = value.clone()
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


@dataclass(frozen=True)
class TrainedGenerator:
    """The averaged generator of a run, ready to sample."""

    path: Path
    classes: tuple[str, ...]
    resolution: int
    sha256: str  # of generator.safetensors
    info: dict[str, Any] = field(repr=False)
    network: nn.Module = field(repr=False)
    combinations: Combinations | None = field(default=None, repr=False)  # None: it is told classes

    @property
    def data(self) -> dict[str, Any]:
        """Path, fingerprint and source (real or rendered) of the dataset it was trained on."""
        return self.info["data"]

    def generate(
        self, label: str, seeds: list[int], truncation: float = 1.0, batch_size: int = 64
    ) -> np.ndarray:
        """Images of one class, uint8 N×R×R×3, the i-th a function of the i-th seed alone.

        A generator that is told attributes is told those of train images of the class, drawn by the seed.
        """
        return self._made(told(self.classes, self.combinations, label, seeds), seeds, truncation, batch_size)

    def generate_attributes(
        self,
        values: Mapping[str, str],
        seeds: list[int],
        truncation: float = 1.0,
        batch_size: int = 64,
        label: str | None = None,
    ) -> np.ndarray:
        """Images with these attributes, uint8 N×R×R×3, the i-th a function of the i-th seed alone.

        The combination need not be one of the train images'; how far images then show it is to be looked at, since no
        discriminator knew any that do. Attributes that `values` does not name are those of train images that agree with most
        of it, of the class `label` or of all; see `Combinations.draw`, which raises InputError. So does this, for a
        generator that is told classes.
        """
        if self.combinations is None:
            raise InputError(
                f"{self.path} was trained with --condition class, so that no attributes can be asked of it; train one with "
                "`balancer train --condition attributes`."
            )
        labels = torch.from_numpy(multi_hot(self.combinations.draw(values, seeds, label)))
        return self._made(labels, seeds, truncation, batch_size)

    @torch.inference_mode()
    def _made(self, labels: Tensor, seeds: Sequence[int], truncation: float, batch_size: int) -> np.ndarray:
        family = registry.family(self.info["generator"])
        device = next(self.network.parameters()).device
        images = []
        for start in range(0, len(seeds), batch_size):
            part = slice(start, start + batch_size)
            z = family.latents(self.info["network"], list(seeds[part])).to(device)
            x = family.sample(self.network, z, labels[part].to(device), truncation)
            images.append(to_uint8(x))
        return (
            np.concatenate(images) if images else np.empty((0, self.resolution, self.resolution, 3), np.uint8)
        )


def to_uint8(images: Tensor) -> np.ndarray:
    """Float N×3×R×R in [−1, 1] to uint8 N×R×R×3 in [0, 255], rounded and clipped."""
    x = images.float().mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8)
    return x.permute(0, 2, 3, 1).cpu().numpy()


def load_generator(run: Path, device: torch.device | str = "cpu") -> TrainedGenerator:
    """Open the averaged generator of a run; InputError when it has none, is no generator run or its weights are damaged."""
    run = Path(run)
    path = run / "generator.safetensors"
    if not path.is_file():
        if kind_of(run) == "generator":
            raise InputError(
                f"{run} has no checkpoint yet; go on with the command that began it, and --resume, or name another run."
            )
        raise InputError(
            f"{run} is no generator run (no generator.safetensors); make one with `balancer train`."
        )
    tensors, info = load_tensors(path, _GENERATOR)
    family = registry.family(info["generator"])
    again = "train again or take another checkpoint"
    try:
        network = family.generator(info["network"])
        network.load_state_dict(tensors)
    except (RuntimeError, TypeError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[:2][-1].strip()  # torch says what is wrong in its second line
        raise InputError(f"{path} does not hold the network that it describes ({reason}); {again}.") from None
    if not all(t.isfinite().all() for t in tensors.values()):
        raise InputError(f"{path} has weights that are no finite numbers; {again}.")
    attributes = info["config"].get("condition") == "attributes"
    trained = TrainedGenerator(
        path=run,
        classes=tuple(info["classes"]),
        resolution=int(info["resolution"]),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        info=info,
        network=network.eval().requires_grad_(False),
        combinations=Combinations.from_json(info.get("attributes"), path) if attributes else None,
    )
    try:
        # The last class has the highest index; a class without train images has no attributes.
        last = (info["known"] if attributes else trained.classes)[-1]
        size = trained.generate(last, [0]).shape[1]
    except (IndexError, RuntimeError):
        what = "attributes" if attributes else f"{len(trained.classes)} classes"
        raise InputError(f"{path} does not know the {what} that its metadata names; {again}.") from None
    if size != trained.resolution:
        raise InputError(
            f"{path} makes images of {size} px, where its metadata says {trained.resolution} px; {again}."
        )
    network.to(device)
    return trained
