"""Reader of the official tool's ``network-snapshot.pkl`` that runs nothing from the file.

Such files are pickles, which may name any function to be called, and they carry Python source that plain
unpickling executes. Here a pickle can reach the few stand-ins below and nothing else: they build containers,
numbers, tensors and inert records of modules. The networks are then built from the recorded constructor
arguments and filled with the tensors.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .networks import Discriminator, Generator

NETWORKS: dict[str, tuple[str, type[nn.Module]]] = {
    "G": ("Generator", Generator),
    "D": ("Discriminator", Discriminator),
    "G_ema": ("Generator", Generator),
}
STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TRAINING_ONLY = {"num_fp16_res", "use_fp16", "fp16_channels_last", "freeze_layers"}  # no part in the numbers

LARGEST_ARGUMENT = (
    2**17
)  # no official network has as many channels or layers: a file that says so only keeps busy


class _Refused(ValueError):
    """The file asks for something that rebuilding networks does not need."""


class _Module(NamedTuple):
    """What the file records of a module."""

    class_name: str
    state: dict[str, Any]


class Recorded(NamedTuple):
    """A network of an official file and the constructor arguments it was rebuilt from, plain values all."""

    arguments: dict[str, Any]
    network: nn.Module


class _Dict(dict[Any, Any]):
    """Stands for dict subclasses."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise _Refused("the attributes of a dict")


class _Function:
    """A callable that a file may use and cannot alter."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("the attributes of a function")


class _NumpyType:
    """Stands for numpy.dtype: a plain number type of a given byte order."""

    __slots__ = ("name", "order")

    def __init__(self, name: str, align: bool = False, copy: bool = False) -> None:
        if name not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
            raise _Refused(f"the numpy type {name!r}")
        self.name, self.order = name, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def scalar(self, data: bytes) -> float | int | bool:
        return np.frombuffer(data, self.order + self.name, count=1)[0].item()


def _module(record: Mapping[str, Any]) -> _Module:
    return _Module(str(record["class_name"]), dict(record["state"]))


def _storage(data: bytes) -> Tensor:
    """The 1-D tensor in bytes that ``torch.save`` wrote, in its older format, for one storage."""
    stream = io.BytesIO(data)
    magic, _, system = (_Unpickler(stream, {}).load() for _ in range(3))
    if magic != TORCH_MAGIC or not system["little_endian"]:
        raise _Refused("a storage in an unknown format")
    types = {("torch", name): dtype for name, dtype in STORAGES.items()}
    kind, dtype, key, _, numel, *view = _Unpickler(stream, types).load()
    keys = _Unpickler(stream, {}).load()
    (count,) = np.frombuffer(stream.read(8), "<i8")
    raw = bytearray(stream.read())
    if (
        kind != "storage"
        or any(view)
        or keys != [key]
        or count != numel
        or len(raw) != count * dtype.itemsize
    ):
        raise _Refused("a storage in an unknown format")
    return torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    if prod(size) > storage.numel():  # no stride of zero that would blow up a small file
        raise _Refused("a tensor larger than its storage")
    return storage.as_strided(size, stride, offset).clone()


GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dict,
    ("dnnlib.util", "EasyDict"): _Dict,
    ("builtins", "set"): _Function(set),
    ("numpy", "dtype"): _Function(_NumpyType),
    ("numpy.core.multiarray", "scalar"): _Function(_NumpyType.scalar),
    ("numpy._core.multiarray", "scalar"): _Function(_NumpyType.scalar),
    ("torch._utils", "_rebuild_parameter"): _Function(lambda data, *_: data),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
    ("torch.storage", "_load_from_bytes"): _Function(_storage),
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _Function(_module),
}


class _Unpickler(pickle.Unpickler):
    """Knows the given names only; a persistent id stands for itself."""

    def __init__(self, stream: io.BufferedIOBase, names: Mapping[tuple[str, str], Any]) -> None:
        super().__init__(stream)
        self.names = names

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.names:
            raise _Refused(f"{module}.{name}")
        return self.names[module, name]

    def persistent_load(self, pid: Any) -> Any:
        return pid


def _tensors(module: _Module, prefix: str = "") -> dict[str, Tensor]:
    """State dict of a recorded module and those in it."""
    state = module.state
    own = {**state["_parameters"], **state["_buffers"]}
    out = {prefix + k: v for k, v in own.items() if v is not None}
    for name, child in state["_modules"].items():
        out |= _tensors(child, f"{prefix}{name}.")
    return out


def _plain(value: Any) -> Any:
    """Constructor arguments as numbers, texts and containers of them, without those that only concern training."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items() if k not in TRAINING_ONLY}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, int) and abs(value) > LARGEST_ARGUMENT:
        raise _Refused(f"a network of size {value}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise _Refused(f"a constructor argument of type {type(value).__name__}")


def _network(module: _Module, class_name: str, cls: type[nn.Module]) -> Recorded:
    if module.class_name != class_name or module.state["_init_args"]:
        raise _Refused(f"a network of class {module.class_name} where a {class_name} belongs")
    arguments = _plain(module.state["_init_kwargs"])
    if arguments.get("synthesis_kwargs", {}).pop("architecture", "skip") != "skip":
        raise _Refused("a generator that is not of the skip architecture")
    with torch.device("meta"):  # only shapes: the weights come from the file, and no random number is drawn
        network = cls(**arguments)
    network.load_state_dict(_tensors(module), assign=True)
    return Recorded(arguments, network.float().eval())


def load_official(path: str | Path) -> dict[str, Any]:
    """Networks of an official ``network-snapshot.pkl``: {"G": Generator, "D": Discriminator, "G_ema": Generator}.

    Those that the file does not have are absent. They are in evaluation mode, on the CPU, in float32. Raises as
    `read_official` does.
    """
    return {name: recorded.network for name, recorded in read_official(path).items()}


def read_official(path: str | Path) -> dict[str, Recorded]:
    """Networks of an official ``network-snapshot.pkl`` with the constructor arguments that rebuild them.

    Raises:
        ValueError: the file is truncated, is no such file, names anything beyond what rebuilding takes (the
            name is in the message, and nothing was run), or holds networks of another architecture.
        OSError: the file cannot be read.
    """
    path = Path(path)
    try:
        content = _Unpickler(io.BytesIO(path.read_bytes()), GLOBALS).load()
        found = {name: content[name] for name in NETWORKS if content.get(name) is not None}
    except OSError:
        raise
    except _Refused as refused:
        raise ValueError(
            f"{path} was not read: it asks for {refused}, which is not needed to rebuild networks. "
            "Nothing in it was run; use a file from a source that you trust."
        ) from None
    except EOFError as error:
        raise ValueError(f"{path} is empty or ends too early: copy or download it again.") from error
    except Exception as error:  # a damaged pickle may raise anything
        truncated = "truncated" in str(error)
        what = "ends too early" if truncated else "is not a network-snapshot file or is damaged"
        raise ValueError(f"{path} {what} ({error}): copy or download it again.") from error
    if not found:
        raise ValueError(f"{path} holds none of the networks {', '.join(NETWORKS)}.")
    try:
        return {name: _network(module, *NETWORKS[name]) for name, module in found.items()}
    except Exception as error:
        raise ValueError(
            f"{path} holds networks that are not StyleGAN2-ADA's as known here: {error}"
        ) from error
