"""The state of a training on disk: all that it takes to go on exactly where it stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor

from balancer.errors import InputError
from balancer.files import new_directory, refuse_existing, write_mark
from balancer.generators.checkpoints import collect_state, load_tensors, restore_state, save_tensors
from balancer.progress import note
from classifier.config import TrainingConfig
from classifier.models.classifier import Classifier
from classifier.optimisation import make_optimizer, running_average

STATE = "state.safetensors"
KIND = "unfinished"  # of a folder that holds a state and no run yet
SECONDS = 30.0  # between two states


class Progress:
    """A training of whatever network: what its next step depends on, besides the images and the configuration."""

    measured: tuple[str, ...] = ("step", "loss")  # of an entry of the history

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        self.step = 0  # steps that are done
        self.model = model
        self.optimizer = optimizer
        self.generator = torch.Generator().manual_seed(seed)  # of all that is drawn for a step
        self.losses: list[Tensor] = []  # of the steps since the last entry of the history
        self.history: list[dict[str, float]] = []
        self.best_step = 0
        self.best: dict[str, Tensor] = {}  # the weights at `best_step`

    @property
    def _modules(self) -> dict[str, torch.nn.Module]:
        return {"model": self.model}

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the counts and the history, under flat names."""
        tensors = collect_state(self._modules, {"model": self.optimizer})
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        tensors["generator"] = self.generator.get_state()
        tensors["losses"] = torch.stack(self.losses) if self.losses else torch.empty(0)
        return tensors

    def restore(self, tensors: Mapping[str, Tensor], info: Mapping[str, Any], path: Path) -> None:
        """Put back what `tensors` gave and what `info` counts (step, best_step, history); `path` is for the errors.

        Raises InputError for another network, and what reading raises for what no training wrote.
        """
        restore_state(tensors, self._modules, {"model": self.optimizer}, path)
        self._check(tensors, info)
        for parameter, moments in self.optimizer.state.items():
            for name, value in moments.items():
                if (
                    value.shape == parameter.shape
                ):  # in its memory layout too: a fused update goes through the memory
                    moments[name] = torch.empty_like(parameter).copy_(value)
        device = next(self.model.parameters()).device
        self.best = {
            name.removeprefix("best/"): value.to(device)
            for name, value in tensors.items()
            if name.startswith("best/")
        }
        self.generator.set_state(tensors["generator"])
        self.losses = list(tensors["losses"].to(device))
        self.step, self.best_step, self.history = info["step"], info["best_step"], info["history"]

    def _check(self, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
        """Raise ValueError for what would fail only when it is used, or not at all: a fused update trusts the shapes."""
        step, best_step, history = info["step"], info["best_step"], info["history"]
        numbers = (entry[name] for entry in history for name in self.measured)
        if not isinstance(history, list) or not all(isinstance(value, int | float) for value in numbers):
            raise ValueError("a history of no numbers")
        if type(step) is not int or step < 0 or best_step not in (0, *(entry["step"] for entry in history)):
            raise ValueError(f"step {step} and best step {best_step}")
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        prefix = "optimizer/model/"
        moments = {name: value.shape for name, value in tensors.items() if name.startswith(prefix)}
        expected: dict[str, torch.Size] = {}
        for index in {name.split("/")[2] for name in moments}:
            shape = parameters[int(index)].shape
            shapes = {"step": torch.Size(), "exp_avg": shape, "exp_avg_sq": shape}
            expected |= {f"{prefix}{index}/{name}": shape for name, shape in shapes.items()}
        if moments != expected:
            raise ValueError("moments that are not those of its parameters")
        best = {name: value.shape for name, value in tensors.items() if name.startswith("best/")}
        weights = {f"best/{name}": value.shape for name, value in self.model.state_dict().items()}
        if best != (weights if best_step else {}):
            raise ValueError("best weights of another network")
        if tensors["losses"].ndim != 1:
            raise ValueError("losses of another shape")


class Training(Progress):
    """A classifier's training in progress."""

    model: Classifier
    measured = ("step", "loss", "validation_loss", "validation_macro_f1")

    def __init__(self, config: TrainingConfig, model: Classifier) -> None:
        super().__init__(model, make_optimizer(config, model.network), config.seed)
        self.average: ModelEmaV3 | None = running_average(config, model)
        self._steps = config.steps

    @property
    def _modules(self) -> dict[str, torch.nn.Module]:
        return super()._modules | ({"average": self.average.module} if self.average else {})

    def _check(self, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
        super()._check(tensors, info)
        if info["step"] >= self._steps and not info["best_step"]:
            raise ValueError(f"step {info['step']} and best step 0")


@dataclass
class StateFile:
    """`state.safetensors` in the folder that will be the run: what is trained on what, and how far it has come.

    The folder appears with the first state. `about` (JSON values) is what a resume has to agree with; without `resume`
    a state that is there is not looked at, and replaced with `overwrite`. Raises InputError for both at once.
    """

    folder: Path
    about: Mapping[str, Any]
    overwrite: bool = False
    resume: bool = False
    _begun: bool = False  # whether the state that is there is of this training
    _written: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise InputError(
                "--resume goes on with a run and --overwrite begins it anew; give one of the two."
            )

    @property
    def path(self) -> Path:
        return self.folder / STATE

    def due(self) -> bool:
        """Whether the last state is old enough for another."""
        return time.monotonic() - self._written >= SECONDS

    def refuse(self, inputs: Sequence[Path]) -> None:
        """Raise InputError where the folder may not be written, or what is there may not be gone on with.

        `inputs` are read by the training, and not to be replaced.
        """
        begun = self.path.is_file()
        if self.resume and begun:
            self.check()
            return
        if begun and not self.overwrite:
            raise InputError(
                f"{self.folder} holds a training that was interrupted; give --resume to go on with it, or --overwrite to "
                "begin anew."
            )
        refuse_existing(self.folder, self.overwrite, inputs)
        if self.resume:
            note(f"There is no state of a training at {self.folder} to go on from: it begins now.")

    def save(self, training: Progress) -> None:
        """Write the state, whole or not at all."""
        if not self._begun:
            with new_directory(self.folder, self.overwrite) as folder:
                write_mark(folder, KIND)
                self._write(folder / STATE, training)
        else:
            self._write(self.path, training)
        self._begun, self._written = True, time.monotonic()

    def _write(self, path: Path, training: Progress) -> None:
        progress = {"step": training.step, "best_step": training.best_step, "history": training.history}
        save_tensors(path, training.tensors(), {"about": self.about, **progress})

    def restore(self, training: Progress) -> None:
        """Bring `training` to where the state is, if there is one to go on from."""
        if self.resume and self.path.is_file():
            self._begun = True
            with self._reading():
                tensors, info = load_tensors(self.path, ("step", "best_step", "history"))
                training.restore(tensors, info, self.path)
            note(f"Going on with {self.folder} after step {training.step}.")

    def check(self) -> None:
        """Raise InputError, with what differs, when the state is of another training than `about` says."""
        with self._reading():
            _, info = load_tensors(self.path, ("about",))
            self.check_begun(info["about"])

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Make of whatever a state that no training wrote may raise an InputError."""
        try:
            yield
        except InputError:
            raise
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{self.path} is damaged ({reason}); begin anew with --overwrite.") from error

    def check_begun(self, begun: Mapping[str, Any]) -> None:
        """Raise InputError, with what differs, when `begun`, what a training was begun with, is not `about`."""
        wanted = json.loads(json.dumps(self.about))
        for what, name in (("data", "other data"), ("synthetic", "other synthetic images")):
            if wanted.get(what) != begun.get(what):
                raise InputError(
                    f"{self.folder} was begun with {name} ({_difference(begun.get(what), wanted.get(what))}); resume it with those, "
                    "or begin anew with --overwrite."
                )
        if wanted["training"] != begun.get("training"):
            raise InputError(
                f"{self.folder} was begun with other settings ({_difference(begun.get('training'), wanted['training'])}); "
                "give the command that began it, with --resume, or begin anew with --overwrite."
            )
        if wanted.get("language") != begun.get("language"):
            raise InputError(
                f"{self.folder} was begun with other texts: the sentences of classes, or the attributes or captions of images, "
                "were others then. Resume it with those, or begin anew with --overwrite."
            )


def _difference(begun: Any, wanted: Any) -> str:
    """What the values were and what they are now, of those that differ."""
    if isinstance(begun, dict) and isinstance(wanted, dict):
        names = [name for name in {**begun, **wanted} if begun.get(name) != wanted.get(name)]
        return ", ".join(f"{name} {begun.get(name)}, not {wanted.get(name)}" for name in names)
    return f"{begun}, not {wanted}"
