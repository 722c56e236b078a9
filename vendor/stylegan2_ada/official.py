"""Reader of the official tool's ``network-snapshot.pkl`` that runs nothing from the file.

Such files are pickles, which may name any function to be called, and they carry Python source that plain
unpickling executes. Here a pickle can reach the few stand-ins below and nothing else: they build containers,
numbers, views of the file's bytes and inert records of modules. The networks are then built from the recorded
constructor arguments and filled with the numbers.

A pickle may name one object many times, so that a few bytes stand for endless work. What is done and copied here is
bounded by the size of the file and by the limits below.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from math import prod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

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
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "BoolStorage": np.dtype("?"),
}
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TRAINING_ONLY = {"num_fp16_res", "use_fp16", "fp16_channels_last", "freeze_layers"}  # no part in the numbers

# No official network comes near these: a file that does only keeps busy.
LARGEST_ARGUMENT = 2**17
MOST_ARGUMENTS = 256
MOST_LAYERS = 64


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
    """Stands for dict subclasses, which are made empty and then filled."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()

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
        if not isinstance(name, str):
            raise _Refused("a numpy type without a name")
        if name not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
            raise _Refused(f"the numpy type {name!r}")
        self.name, self.order = name, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def scalar(self, data: bytes) -> float | int | bool:
        return np.frombuffer(data, self.order + self.name, count=1)[0].item()


def _module(record: Mapping[str, Any]) -> _Module:
    class_name = record["class_name"]
    if not isinstance(class_name, str):
        raise _Refused("a module without a name")
    return _Module(class_name, record["state"])


def _storage(data: bytes) -> np.ndarray:
    """The 1-D array in bytes that ``torch.save`` wrote, in its older format, for one storage; it is not copied."""
    stream = io.BytesIO(data)
    magic, _, system = (_Unpickler(stream, {}).load() for _ in range(3))
    if magic != TORCH_MAGIC or not system["little_endian"]:
        raise _Refused("a storage in an unknown format")
    types = {("torch", name): dtype for name, dtype in STORAGES.items()}
    kind, dtype, key, _, numel, *view = _Unpickler(stream, types).load()
    keys = _Unpickler(stream, {}).load()
    size = int.from_bytes(stream.read(8), "little")
    if (
        kind != "storage"
        or any(view)
        or not isinstance(key, str)
        or keys != [key]
        or size != numel
        or len(data) - stream.tell() != size * dtype.itemsize
    ):
        raise _Refused("a storage in an unknown format")
    return np.ndarray(size, dtype, data, stream.tell())


def _storages() -> Callable[[bytes], np.ndarray]:
    """`_storage` that reads the same bytes once, however often a file asks for them."""
    known: dict[bytes, np.ndarray] = {}

    def read(data: bytes) -> np.ndarray:
        if not isinstance(data, bytes):
            raise _Refused("a storage that is not bytes")
        if data not in known:
            known[data] = _storage(data)
        return known[data]

    return read


def _tensor(
    storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> np.ndarray:
    """A view: the numbers are copied when a network takes them."""
    if prod(size) > storage.size:  # no stride of zero that would blow up a small file
        raise _Refused("a tensor larger than its storage")
    step = storage.itemsize
    return np.ndarray(size, storage.dtype, storage, offset * step, tuple(s * step for s in stride))


GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dict,
    ("dnnlib.util", "EasyDict"): _Dict,
    ("builtins", "set"): _Function(lambda *_: None),  # every module has one, and none is read
    ("numpy", "dtype"): _Function(_NumpyType),
    ("numpy.core.multiarray", "scalar"): _Function(_NumpyType.scalar),
    ("numpy._core.multiarray", "scalar"): _Function(_NumpyType.scalar),
    ("torch._utils", "_rebuild_parameter"): _Function(lambda data, *_: data),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _Function(_module),
}

# They hash or reserve what the file says, and no official file has them.
UNUSED_OPCODES = {code[0] for code in (pickle.DICT, pickle.ADDITEMS, pickle.FROZENSET, pickle.BYTEARRAY8)}


class _Unpickler(pickle._Unpickler):
    """Knows the given names only; a persistent id stands for itself.

    It is the one written in Python: that in C reserves memory for the largest number that a file gives an object.
    Dict keys are texts, since the hash of nested tuples may take for ever.
    """

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code: run for code, run in pickle._Unpickler.dispatch.items() if code not in UNUSED_OPCODES
    }

    def __init__(self, stream: io.BytesIO, names: Mapping[tuple[str, str], Any]) -> None:
        super().__init__(stream)
        self.names = names

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.names:
            raise _Refused(f"{module}.{name}")
        return self.names[module, name]

    def persistent_load(self, pid: Any) -> Any:
        return pid

    def _set(self, items: list[Any]) -> None:
        target, keys = self.stack[-1], items[::2]
        if not isinstance(target, dict) or not all(isinstance(key, str) for key in keys):
            raise _Refused("keys that are not texts")
        target.update(zip(keys, items[1::2], strict=True))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def load_setitems(self) -> None:
        self._set(self.pop_mark())

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems


def _weights(network: nn.Module, module: _Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """What the file records for the weights of a network and of the modules in it, by their names."""
    own = {**dict(network.named_parameters(recurse=False)), **dict(network.named_buffers(recurse=False))}
    children = dict(network.named_children())
    parts = "_parameters", "_buffers", "_modules"
    parameters, buffers, modules = (module.state[part] for part in parts)
    arrays = {name: value for name, value in {**parameters, **buffers}.items() if value is not None}
    filled = {name for name, child in modules.items() if any(child.state[part] for part in parts)}
    known, found = own.keys() | children.keys(), arrays.keys() | filled
    for what, names in (("lacks", known - found), ("also has", found - known)):
        if names:
            raise _Refused(f"one {what} {', '.join(prefix + name for name in sorted(names)[:3])}")
    for name, tensor in own.items():
        array = arrays[name]
        if not isinstance(array, np.ndarray) or array.shape != tensor.shape:
            raise _Refused(f"{prefix}{name} is not of the shape {tuple(tensor.shape)}")
        yield prefix + name, torch.tensor(array, dtype=torch.float32)
    for name, child in children.items():
        yield from _weights(child, modules[name], f"{prefix}{name}.")


def _plain(value: Any, seen: Iterator[int]) -> Any:
    """Constructor arguments as numbers, texts and containers of them, without those that only concern training."""
    if next(seen) > MOST_ARGUMENTS:
        raise _Refused(f"a network of more than {MOST_ARGUMENTS} constructor arguments")
    if isinstance(value, dict):
        return {k: _plain(v, seen) for k, v in value.items() if k not in TRAINING_ONLY}
    if isinstance(value, list | tuple):
        return [_plain(v, seen) for v in value]
    if isinstance(value, int) and abs(value) > LARGEST_ARGUMENT:
        raise _Refused(f"a network of size {value}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise _Refused(f"a constructor argument of type {type(value).__name__}")


def _network(module: _Module, class_name: str, cls: type[nn.Module], file_size: int) -> Recorded:
    if module.class_name != class_name or module.state["_init_args"]:
        raise _Refused(f"a network of class {module.class_name} where a {class_name} belongs")
    arguments = _plain(module.state["_init_kwargs"], count())
    if arguments.get("synthesis_kwargs", {}).pop("architecture", "skip") != "skip":
        raise _Refused("a generator that is not of the skip architecture")
    layers = arguments.get("mapping_kwargs", {}).get("num_layers", 0)
    if layers > MOST_LAYERS:
        raise _Refused(f"a mapping of {layers} layers")
    with torch.device("meta"):  # only shapes: the weights come from the file, and no random number is drawn
        network = cls(**arguments)
    if sum(tensor.numel() for tensor in network.state_dict().values()) > file_size:
        raise _Refused("a network that has more weights than the file has bytes")
    network.load_state_dict(dict(_weights(network, module)), assign=True)
    return Recorded(arguments, network.eval())


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
            name is in the message, and nothing was run), or holds networks of another architecture or weights
            that are not finite.
        OSError: the file cannot be read.
    """
    path = Path(path)
    data = path.read_bytes()
    names = GLOBALS | {("torch.storage", "_load_from_bytes"): _Function(_storages())}
    try:
        content = _Unpickler(io.BytesIO(data), names).load()
        found = {name: content[name] for name in NETWORKS if content.get(name) is not None}
    except _Refused as refused:
        raise ValueError(
            f"{path} was not read: it asks for {refused}, which is not needed to rebuild networks. "
            "Nothing in it was run; use a file from a source that you trust."
        ) from None
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(
            f"{path} is empty, damaged, cut off or no network-snapshot file: copy or download it again."
        ) from error
    if not found:
        raise ValueError(f"{path} holds none of the networks {', '.join(NETWORKS)}.")
    try:
        networks = {name: _network(module, *NETWORKS[name], len(data)) for name, module in found.items()}
    except Exception as error:
        raise ValueError(
            f"{path} holds networks that are not StyleGAN2-ADA's as known here ({error}): use a "
            "network-snapshot file of the official tool."
        ) from error
    for name, recorded in networks.items():
        for key, weights in recorded.network.state_dict().items():
            if not weights.isfinite().all():
                raise ValueError(
                    f"{path} holds weights that are not finite ({name}.{key}): use an earlier snapshot."
                )
    return networks
