"""Training that starts from weights that are there: from a generator run, an official pickle or the builtin.

What has the same meaning is copied, also where classes or resolution differ. Networks that grow from 4×4 name
their parts by resolution, so that a part fits wherever it is found; what remains keeps its fresh weights.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from balancer.data.attributes import N_VALUES
from balancer.data.dataset import read_table
from balancer.errors import InputError
from balancer.generators.adversaries import Adversaries
from balancer.generators.checkpoints import load_generator, load_tensors
from vendor.stylegan2_ada.official import read_official

BUILTIN = Path(__file__).with_name("builtin")
SIZES = (
    "channel_base",
    "channel_max",
    "latent",
    "mapping_layers",
)  # of GeneratorConfig: they shape the networks
SEEN = ("source_sha256", "label", "file_name")
# Tensors with an entry per class, by the end of their names, and the axis along which the classes lie.
CLASS_AXES = {"mapping.embed.weight": 1, "EmbeddingLayer.weight": 1, "proxies": 0, "embedding.weight": 0}
# Tensors at the image: they may have another shape at another resolution.
AT_THE_IMAGE = {"AggregationLayer.Layer.weight", "ExtractionLayer.Layer.weight"}


@dataclass(frozen=True)
class Source:
    """Weights to start from, and what is known of their past.

    `info` is a checkpoint's: generator, network, classes, known, resolution, config. `weights` has the state dict of
    each module that there is, float32 on the CPU: the averaged generator "G_ema" always, "D" and others perhaps.
    """

    path: str
    sha256: str  # of the file that holds the generator
    info: dict[str, Any] = field(repr=False)
    weights: dict[str, dict[str, Tensor]] = field(repr=False)
    seen: pd.DataFrame = field(
        repr=False
    )  # source_sha256, label, file_name and perhaps more of what it has seen
    seen_known: bool  # whether `seen` is all that it has seen

    @property
    def generator(self) -> str:
        """Name of the family."""
        return self.info["generator"]

    @property
    def condition(self) -> str:
        """What it is told of an image: class or attributes (`GeneratorConfig.condition`)."""
        return self.info["config"].get("condition", "class")

    def network_defaults(self) -> dict[str, int]:
        """The sizes of the networks by the names of GeneratorConfig: what a run that starts from here needs."""
        return {
            name: self.info["config"][name] for name in SIZES if self.info["config"].get(name) is not None
        }

    def to_json(self) -> dict[str, Any]:
        """What a run that starts from here keeps in its `config.json` under `init`."""
        return {
            "path": self.path,
            "sha256": self.sha256,
            "generator": self.generator,
            "seen_known": self.seen_known,
        }


def builtin(resolution: int) -> Path:
    """Folder of the shipped generator for this resolution: the same, else the next higher, else the highest one."""
    shipped = sorted(int(p.parent.name) for p in BUILTIN.glob("*/generator.safetensors"))
    if not shipped:
        raise InputError(
            f"No builtin generator is installed (none in {BUILTIN}); train one with `balancer train`, or name another run."
        )
    return BUILTIN / str(next((r for r in shipped if r >= resolution), shipped[-1]))


def read_source(init: str | Path, resolution: int) -> Source:
    """Read what `--init` names: a run's folder, an official pickle, or `builtin`, nearest to the resolution.

    Of a run, all networks of `state.safetensors`, else the generator and, where it is there, the discriminator of
    `discriminator.safetensors`. Raises InputError when it does not exist, is damaged or is something else.
    """
    if not str(init):
        raise InputError(
            "--init is empty; it takes a generator run, a .pkl file or builtin, and is left out to train from scratch."
        )
    path = builtin(resolution) if str(init) == "builtin" else Path(init)
    if not path.exists():
        raise InputError(f"{path} does not exist; --init takes a generator run, a .pkl file or builtin.")
    return _read_run(path) if path.is_dir() else read_pickle(path)


def seen_with(rows: pd.DataFrame, source: Source | None) -> pd.DataFrame:
    """Rows for the `seen.csv` of a run: its own, then those that only the weights it starts from have seen.

    Whatever further columns the source has, its perceptual hashes above all, stay, for images seen twice too.
    """
    table = rows[list(SEEN)]
    if source is None or source.seen.empty:
        return table
    together = pd.concat([table, source.seen])
    return together.groupby(
        "source_sha256", sort=False, as_index=False
    ).first()  # of each column what is known


def _read_run(run: Path) -> Source:
    trained = load_generator(run)
    weights = {"G_ema": dict(trained.network.state_dict())}
    if (run / "state.safetensors").is_file():
        tensors, _ = load_tensors(run / "state.safetensors")
        for name, tensor in tensors.items():
            kind, module, *rest = name.split("/", 2)
            if kind == "module" and module not in ("G", "G_ema"):
                weights.setdefault(module, {})[rest[0]] = tensor
    elif (run / "discriminator.safetensors").is_file():
        tensors, _ = load_tensors(run / "discriminator.safetensors")
        weights["D"] = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    table = run / "seen.csv"
    seen = read_table(table, list(SEEN)) if table.is_file() else pd.DataFrame(columns=list(SEEN))
    before = (trained.info.get("init") or {}).get("seen_known", True)
    place = f"builtin/{run.name}" if run.parent == BUILTIN else str(run.absolute())
    return Source(place, trained.sha256, trained.info, weights, seen, table.is_file() and before)


def read_pickle(path: Path, classes: Sequence[str] | None = None) -> Source:
    """Read an official `network-snapshot.pkl`, from which nothing is executed.

    Such files do not name their classes: they are class-0, class-1 … unless `classes` names them; a network
    without classes has one. What the networks have seen is unknown.

    Raises InputError for a file that is damaged, asks for anything but tensors and containers, holds no averaged
    generator of colour images, or has another number of classes.
    """
    path = Path(path)
    try:
        networks = read_official(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give an official .pkl file.") from None
    except ValueError as error:
        raise InputError(str(error)) from None
    if "G_ema" not in networks:
        raise InputError(
            f"{path} holds no averaged generator (G_ema); give a complete network-snapshot file."
        )
    arguments, G = networks["G_ema"]
    if arguments["img_channels"] != 3:
        raise InputError(
            f"{path} makes images of {arguments['img_channels']} channels; colour images need 3."
        )
    count = max(1, arguments["c_dim"])
    names = [f"class-{i}" for i in range(count)] if classes is None else list(classes)
    if len(names) != count or len(set(names)) != count or not all(names):
        raise InputError(
            f"{path} knows {count} {'class' if count == 1 else 'classes'}; name as many, each once, not "
            f"{', '.join(names) or 'none'}."
        )
    synthesis, mapping = arguments.get("synthesis_kwargs", {}), arguments.get("mapping_kwargs", {})
    info = {
        "format": 1,
        "generator": "stylegan2-ada",
        "network": arguments,
        "classes": names,
        "known": names,
        "resolution": arguments["img_resolution"],
        "config": {
            "generator": "stylegan2-ada",
            "channel_base": synthesis.get("channel_base", 32768),
            "channel_max": synthesis.get("channel_max", 512),
            "latent": arguments["z_dim"],
            "mapping_layers": mapping.get("num_layers", 8),
        },
    }
    weights = {"G_ema": dict(G.state_dict())}
    if "D" in networks and networks["D"].arguments.get("architecture", "resnet") == "resnet":
        weights["D"] = dict(networks["D"].network.state_dict())
    nothing = pd.DataFrame(columns=list(SEEN))
    return Source(str(path.absolute()), sha256, info, weights, nothing, seen_known=False)


class _Classes(NamedTuple):
    """Where the entry of each class of a run is found among the source's: its index, or None for their mean.

    Where both are told attributes, their values stand for classes.
    """

    source: tuple[int, ...]  # indices of the classes that the source was trained on
    match: tuple[int | None, ...]
    n_source: int  # classes, or values of attributes, that the source's tensors have entries for

    def carry(self, tensor: Tensor, axis: int, equalised: bool) -> Tensor:
        """The source's entries in the order of the run's classes."""
        entries = tensor.movedim(axis, 0)
        mean = entries[list(self.source)].mean(0)
        carried = torch.stack([mean if i is None else entries[i] for i in self.match])
        if equalised:  # the layer divides by the root of the number of classes
            carried = carried * sqrt(len(self.match) / self.n_source)
        return carried.movedim(0, axis)


@torch.no_grad()
def initialise(adversaries: Adversaries, source: Source, classes: Sequence[str]) -> str:
    """Copy from the source what has the same meaning in freshly built networks; return a sentence about it.

    Both G and its average come from the source's averaged generator; the discriminator and what belongs to it only
    from the same family, since another's judges by other features. Tensors are matched by name, which has the
    resolution in it. What exists per class is taken from the class of the same name, for other classes the mean of
    those that the source knows. Where the source has no classes, the latent's part of the mapping is copied, and the
    class's part stays fresh. Where one is told classes and the other attributes, what exists for each of these stays
    fresh. A resolution that the source's generator lacks begins by adding nothing to the image.

    Raises InputError when the networks do not fit each other: another architecture or other sizes.
    """
    known = {label: source.info["classes"].index(label) for label in source.info["known"]}
    matching: _Classes | None = None
    if adversaries.config.condition == source.condition == "attributes":
        values = tuple(range(N_VALUES))
        matching = _Classes(values, values, N_VALUES)
    elif adversaries.config.condition == source.condition:
        matching = _Classes(
            tuple(known.values()), tuple(known.get(label) for label in classes), len(source.info["classes"])
        )
    parts = {"G": "G_ema", "G_ema": "G_ema"}
    if adversaries.config.generator == source.generator:
        parts |= {
            name: name
            for name, module in adversaries.modules.items()
            if name not in parts and name in source.weights and any(True for _ in module.parameters())
        }
    copied = {
        name: _copy(adversaries.modules[name], source.weights[origin], matching, judges=name == "D")
        for name, origin in parts.items()
    }
    _refuse_misfits(copied["G"], adversaries, source)
    return " ".join(_sentences(copied, source, adversaries.config.condition, classes, known))


class _Copied(NamedTuple):
    """What became of the tensors of a module."""

    names: list[str]
    fresh: list[str]  # left as they were, …
    # … of these for their shapes: the one here, the source's
    misfits: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


def _copy(
    module: nn.Module, weights: Mapping[str, Tensor], classes: _Classes | None, judges: bool
) -> _Copied:
    """Copy what fits by its name; what has an entry for each class only where `classes` says which is which."""
    target = _by_meaning(module.state_dict(), judges)
    origin = _by_meaning(weights, judges)
    fresh: list[str] = []
    misfits: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for name, tensor in target.items():
        value = origin.get(name)
        axis = _class_axis(name)
        if value is not None and axis is not None:
            if classes is None:
                value = None
            elif value.shape[axis] == classes.n_source:
                value = classes.carry(value, axis, equalised=name == "mapping.embed.weight")
        if value is not None and value.shape == tensor.shape:
            tensor.copy_(value)
        elif value is not None and name == "mapping.fc0.weight" and _lacks_class_part(value, origin, target):
            # What stands for the class is fresh and of the same variance, so that w keeps its own.
            tensor[:, : value.shape[1]] = value
        else:
            fresh.append(name)
            if value is not None and name not in AT_THE_IMAGE:
                misfits[name] = (tuple(tensor.shape), tuple(value.shape))
            if name.endswith(".torgb.weight"):
                tensor.zero_()
    layers = tuple(
        sum(n.startswith("mapping.fc") and n.endswith("weight") for n in t) for t in (target, origin)
    )
    if layers[0] != layers[1]:
        misfits["mapping layers"] = (layers[:1], layers[1:])
    return _Copied(list(target), fresh, misfits)


def _class_axis(name: str) -> int | None:
    return next((axis for end, axis in CLASS_AXES.items() if f".{name}".endswith(f".{end}")), None)


def _lacks_class_part(value: Tensor, origin: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> bool:
    """Whether the first layer of the source's mapping is that of this one, less what reads the class."""
    if "mapping.embed.weight" in origin or "mapping.embed.weight" not in target:
        return False
    rows, columns = target["mapping.fc0.weight"].shape
    return value.shape == (rows, columns - len(target["mapping.embed.weight"]))


def _by_meaning(tensors: Mapping[str, Tensor], judges: bool) -> dict[str, Tensor]:
    """The tensors by names that mean the same at every resolution.

    R3GAN's discriminator numbers its stages from the image on: here they are counted from 4×4.
    """
    stage = re.compile(r"^MainLayers\.(\d+)\.")
    numbers = [int(found[1]) for name in tensors if (found := stage.match(name))]
    if not judges or not numbers:
        return dict(tensors)
    last = max(numbers)
    return {stage.sub(lambda m: f"MainLayers.{last - int(m[1])}.", name): t for name, t in tensors.items()}


def _refuse_misfits(copied: _Copied, adversaries: Adversaries, source: Source) -> None:
    family = adversaries.config.generator
    if copied.fresh == copied.names:
        raise InputError(
            f"{source.path} is a generator of {source.generator}, of which nothing fits into {family}; "
            f"train with --generator {source.generator}."
        )
    if not copied.misfits:
        return
    needed = {k: v for k, v in source.network_defaults().items() if getattr(adversaries.config, k, None) != v}
    name, (here, there) = next(iter(copied.misfits.items()))
    wanted = ", ".join(f"{key} {value}" for key, value in needed.items())
    raise InputError(
        f"The networks of {source.path} have other sizes ({name}: {_shape(there)}, here {_shape(here)}); "
        + (f"train with its {wanted}." if needed else f"there are no settings of {family} that give them.")
    )


def _shape(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))


def _sentences(
    copied: Mapping[str, _Copied],
    source: Source,
    condition: str,
    classes: Sequence[str],
    known: Mapping[str, int],
) -> Iterator[str]:
    kinds = {"class": "classes", "attributes": "attributes"}
    yield f"The weights start from {source.path} ({source.generator})."
    for name, part in copied.items():
        if name == "G_ema":
            continue
        what = {"G": "generator", "D": "discriminator"}.get(name, name)
        count, total = len(part.names) - len(part.fresh), len(part.names)
        rest = f", fresh: {', '.join(_summary(part))}" if part.fresh else ""
        yield f"Of the {what}, {count} of {total} tensors were copied{rest}."
    if "D" not in copied:
        yield "The discriminator is fresh: the source has none of this family."
    if all(_class_axis(name) is None for name in source.weights["G_ema"]):
        them = "them" if condition == "class" else "attributes"
        yield f"The source has no classes: what tells {them} apart is fresh."
        return
    if condition != source.condition:
        yield f"The source is told {kinds[source.condition]}: what tells {kinds[condition]} apart is fresh."
        return
    if condition == "attributes":
        yield "The source is told the same attributes."
        return
    same, other = ([label for label in classes if (label in known) == wanted] for wanted in (True, False))
    if same:
        yield f"Classes that the source knows by name: {', '.join(same)}."
    if other:
        yield f"Classes that begin as the mean of those the source knows: {', '.join(other)}."


def _summary(part: _Copied) -> list[str]:
    """The fresh tensors, with one name for a module that is fresh altogether."""
    copied = {prefix for name in set(part.names) - set(part.fresh) for prefix in _prefixes(name)}
    return list(dict.fromkeys(next(p for p in _prefixes(name) if p not in copied) for name in part.fresh))


def _prefixes(name: str) -> list[str]:
    """a.b.c -> a, a.b, a.b.c."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
