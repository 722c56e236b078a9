"""The reader of official files against hostile, foreign and damaged ones; equal weights are in test_golden."""

from __future__ import annotations

import io
import os
import pickle
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import vendor.stylegan2_ada as sg
from vendor.stylegan2_ada.official import read_official


class _Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.fixture
def persistence(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The official tool's module under its name, so that files in its layout can be written."""
    package, module = ModuleType("torch_utils"), ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: Any) -> Any:
        raise AssertionError("the file's code was run")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    package.persistence = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_utils", package)
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", module)
    return _reconstruct_persistent_obj


def recorded(persistence: Any, module: torch.nn.Module, **init_kwargs: Any) -> _Call:
    """A module as the official tool records it."""
    state = {
        "_parameters": dict(module._parameters),
        "_buffers": dict(module._buffers),
        "_modules": {k: recorded(persistence, m) for k, m in module.named_children()},
        "_init_args": (),
        "_init_kwargs": init_kwargs,
    }
    source = "raise RuntimeError('code stored inside a checkpoint was executed')"
    meta = {
        "type": "class",
        "version": 6,
        "module_src": source,
        "class_name": type(module).__name__,
        "state": state,
    }
    return _Call(persistence, meta)


CONFIG: dict[str, Any] = {"c_dim": 2, "img_resolution": 8, "img_channels": 3}
CHANNELS: dict[str, Any] = {"channel_base": 64, "channel_max": 8}


def test_reads_what_large_official_models_record(tmp_path: Path, persistence: Any) -> None:
    """Precision options, clamping, frozen layers and the plain discriminator of the CIFAR configuration."""
    D = sg.Discriminator(**CONFIG, **CHANNELS, architecture="orig", conv_clamp=256)
    G = sg.Generator(z_dim=4, w_dim=4, **CONFIG, synthesis_kwargs=CHANNELS)
    official = {**CHANNELS, "num_fp16_res": 4, "architecture": "skip", "resample_filter": [1, 3, 3, 1]}
    content = {
        "training_set_kwargs": {"path": "cells.zip"},
        "G_ema": recorded(persistence, G, z_dim=4, w_dim=4, **CONFIG, synthesis_kwargs=official),
        "G": None,
        "D": recorded(
            persistence,
            D,
            **CONFIG,
            **CHANNELS,
            architecture="orig",
            num_fp16_res=4,
            conv_clamp=256,
            block_kwargs={"freeze_layers": 2},
        ),
    }
    path = tmp_path / "network-snapshot.pkl"
    path.write_bytes(pickle.dumps(content))
    networks = sg.load_official(path)
    assert set(networks) == {"G_ema", "D"}
    for name, original in (("G_ema", G), ("D", D)):
        for key, value in original.state_dict().items():
            assert torch.equal(networks[name].state_dict()[key], value)
    assert networks["D"].b8.conv0.conv_clamp == 256


@pytest.mark.parametrize("where", ["outside", "inside a storage"])
def test_os_system_is_refused_by_name_and_not_run(tmp_path: Path, where: str) -> None:
    proof = tmp_path / "executed"
    call: Any = _Call(os.system, f"touch {proof}")
    if where == "inside a storage":
        call = _Call(torch.storage._load_from_bytes, pickle.dumps(call))
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps({"G_ema": call}))
    with pytest.raises(ValueError, match=r"hostile\.pkl.*posix\.system|nt\.system") as caught:
        sg.load_official(path)
    assert "Nothing in it was run" in str(caught.value)
    assert not proof.exists()


@pytest.mark.parametrize("function", [eval, getattr, __import__, torch.load, io.open, pickle.loads])
def test_other_functions_are_refused(tmp_path: Path, function: Any) -> None:
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps(_Call(function, "1")))
    with pytest.raises(ValueError, match="not needed to rebuild networks"):
        sg.load_official(path)


def test_known_functions_cannot_be_altered(tmp_path: Path) -> None:
    """BUILD sets attributes of whatever is on the stack."""
    for name in (b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n"):
        path = tmp_path / "hostile.pkl"
        path.write_bytes(name + b"}X\x05\x00\x00\x00extraK\x01sb.")
        with pytest.raises(ValueError, match=r"hostile\.pkl"):
            sg.load_official(path)


def test_a_tensor_cannot_be_larger_than_its_storage(tmp_path: Path) -> None:
    storage = torch.zeros(1).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    call = _Call(torch._utils._rebuild_tensor_v2, typed, 0, (10**6, 10**6), (0, 0), False, {})
    path = tmp_path / "bomb.pkl"
    path.write_bytes(pickle.dumps(call))
    with pytest.raises(ValueError, match="larger than its storage"):
        sg.load_official(path)


def test_truncated_empty_and_foreign_files(tmp_path: Path, persistence: Any) -> None:
    G = sg.Generator(z_dim=4, w_dim=4, **CONFIG, synthesis_kwargs=CHANNELS)
    whole = pickle.dumps(
        {"G_ema": recorded(persistence, G, z_dim=4, w_dim=4, **CONFIG, synthesis_kwargs=CHANNELS)}
    )
    path = tmp_path / "cut.pkl"
    for size in (0, 1, 100, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.pkl .*copy or download it again"):
            sg.load_official(path)
    for content in ({"weights": 1}, [1, 2], b"text"):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=r"cut\.pkl"):
            sg.load_official(path)
    path.write_bytes(b"not a pickle at all")
    with pytest.raises(ValueError, match=r"cut\.pkl"):
        sg.load_official(path)
    with pytest.raises(FileNotFoundError):
        sg.load_official(tmp_path / "absent.pkl")


def test_another_architecture_is_a_sentence(tmp_path: Path, persistence: Any) -> None:
    G = sg.Generator(z_dim=4, w_dim=4, **CONFIG, synthesis_kwargs=CHANNELS)
    path = tmp_path / "other.pkl"
    for synthesis in ({**CHANNELS, "magnitude_ema_beta": 0.5}, {"channel_base": 32, "channel_max": 4}):
        kwargs = {"z_dim": 4, "w_dim": 4, **CONFIG, "synthesis_kwargs": synthesis}
        path.write_bytes(pickle.dumps({"G_ema": recorded(persistence, G, **kwargs)}))
        with pytest.raises(ValueError, match=r"other\.pkl holds networks that are not StyleGAN2-ADA"):
            sg.load_official(path)


@pytest.mark.parametrize("layers", [10**12, torch.zeros(1), b"2"])
def test_arguments_that_are_no_plain_sizes_are_refused(tmp_path: Path, persistence: Any, layers: Any) -> None:
    G = sg.Generator(z_dim=4, w_dim=4, **CONFIG, synthesis_kwargs=CHANNELS)
    kwargs = {"z_dim": 4, "w_dim": 4, **CONFIG, "mapping_kwargs": {"num_layers": layers}}
    path = tmp_path / "odd.pkl"
    path.write_bytes(pickle.dumps({"G_ema": recorded(persistence, G, **kwargs)}))
    with pytest.raises(ValueError, match=r"odd\.pkl holds networks.*(argument of type|network of size)"):
        sg.load_official(path)


def test_weights_of_any_precision_become_float32(tmp_path: Path, persistence: Any) -> None:
    G = sg.Generator(z_dim=4, w_dim=4, **CONFIG, synthesis_kwargs=CHANNELS)
    kwargs = {"z_dim": 4, "w_dim": 4, **CONFIG, "synthesis_kwargs": CHANNELS}
    path = tmp_path / "half.pkl"
    path.write_bytes(pickle.dumps({"G_ema": recorded(persistence, G.half(), **kwargs)}))
    network, arguments = sg.load_official(path)["G_ema"], read_official(path)["G_ema"].arguments
    assert {t.dtype for t in network.state_dict().values()} == {torch.float32}
    assert arguments == kwargs


def test_a_module_that_holds_itself_is_refused(tmp_path: Path, persistence: Any) -> None:
    call = recorded(persistence, sg.Generator(z_dim=4, w_dim=4, **CONFIG, synthesis_kwargs=CHANNELS))
    state = call.call[1][0]["state"]
    state["_modules"]["again"] = {"state": state, "class_name": "Generator"}
    path = tmp_path / "round.pkl"
    path.write_bytes(pickle.dumps({"G_ema": call}))
    with pytest.raises(ValueError, match=r"round\.pkl"):
        sg.load_official(path)


def doubled(first: Any, double: Any, times: int = 40) -> Any:
    """An object of a few bytes for each time it holds itself twice."""
    for _ in range(times):
        first = double(first)
    return first


def small(persistence: Any, **changed: Any) -> _Call:
    """A recorded generator that can be read, but for the changed constructor arguments."""
    G = sg.Generator(z_dim=4, w_dim=4, **CONFIG, synthesis_kwargs=CHANNELS)
    return recorded(
        persistence, G, **{"z_dim": 4, "w_dim": 4, **CONFIG, "synthesis_kwargs": CHANNELS, **changed}
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"z_dim": doubled([1], lambda x: [x, x])}, "more than 256 constructor arguments"),
        ({"mapping_kwargs": {"num_layers": 2**17}}, "a mapping of 131072 layers"),
        ({"synthesis_kwargs": {"channel_base": 2**17, "channel_max": 2**17}}, "more weights than the file"),
    ],
)
def test_arguments_that_keep_busy_are_refused(
    tmp_path: Path, persistence: Any, changed: dict[str, Any], message: str
) -> None:
    path = tmp_path / "busy.pkl"
    path.write_bytes(pickle.dumps({"G_ema": small(persistence, **changed)}))
    with pytest.raises(ValueError, match=message):
        sg.load_official(path)


def test_shared_modules_are_not_walked_again_and_again(tmp_path: Path, persistence: Any) -> None:
    def double(module: Any) -> _Call:
        state = {"_parameters": {}, "_buffers": {}, "_modules": {"a": module, "b": module}}
        return _Call(persistence, {"class_name": "M", "state": state})

    call = small(persistence)
    call.call[1][0]["state"]["_modules"]["extra"] = doubled(double(small(persistence)), double)
    path = tmp_path / "busy.pkl"
    path.write_bytes(pickle.dumps({"G_ema": call}))
    with pytest.raises(ValueError, match="one also has extra"):
        sg.load_official(path)


@pytest.mark.parametrize("use", [b"}h(K\x01s", b"}(h(K\x01u", b"(h(K\x01d", b"\x8f(h(\x90", b"(h(\x91"])
def test_a_tuple_that_takes_for_ever_to_hash_is_refused(tmp_path: Path, use: bytes) -> None:
    """As a key of a dict or in a set; each tuple holds the one before it twice."""
    nested = b")q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(40))
    path = tmp_path / "busy.pkl"
    path.write_bytes(b"\x80\x04" + nested + use + b".")
    with pytest.raises(ValueError, match=r"busy\.pkl"):
        sg.load_official(path)


@contextmanager
def at_most(memory: int) -> Iterator[None]:
    """Fails where more bytes are taken at a time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", [b"}r\x00\x00\x00\x08.", b"\x96" + (2**33).to_bytes(8, "little") + b"."])
def test_no_memory_is_reserved_on_the_word_of_a_file(tmp_path: Path, content: bytes) -> None:
    """The number of a remembered object, and the length of a bytearray."""
    path = tmp_path / "large.pkl"
    path.write_bytes(content)
    with at_most(2**25), pytest.raises(ValueError, match=r"large\.pkl"):
        sg.load_official(path)


def test_a_storage_used_many_times_is_not_copied(tmp_path: Path) -> None:
    storage = torch.zeros(2**20).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    calls = [_Call(torch._utils._rebuild_tensor_v2, typed, 0, (2**20,), (1,), False, {}) for _ in range(200)]
    path = tmp_path / "large.pkl"
    path.write_bytes(pickle.dumps({"other": calls}))
    with at_most(2**25), pytest.raises(ValueError, match="holds none of the networks"):
        sg.load_official(path)


def test_missing_and_misshapen_weights_are_named_in_one_sentence(tmp_path: Path, persistence: Any) -> None:
    path = tmp_path / "other.pkl"
    for mapping, message in (
        ({"num_layers": 12}, "lacks mapping.fc10, mapping.fc11, mapping.fc8\\)"),
        ({"layer_features": 5}, r"mapping.fc0.weight is not of the shape \(5, 8\)"),
    ):
        path.write_bytes(pickle.dumps({"G_ema": small(persistence, mapping_kwargs=mapping)}))
        with pytest.raises(ValueError, match=message) as caught:
            sg.load_official(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, persistence: Any, value: float) -> None:
    G = sg.Generator(z_dim=4, w_dim=4, **CONFIG, synthesis_kwargs=CHANNELS)
    with torch.no_grad():
        G.get_parameter("mapping.fc3.weight")[1, 2] = value
    path = tmp_path / "broken.pkl"
    kwargs = {"z_dim": 4, "w_dim": 4, **CONFIG, "synthesis_kwargs": CHANNELS}
    path.write_bytes(pickle.dumps({"G_ema": recorded(persistence, G, **kwargs)}))
    with pytest.raises(ValueError, match=r"broken\.pkl holds .* not finite \(G_ema\.mapping\.fc3\.weight\)"):
        sg.load_official(path)
