"""Official pickles become generator runs that compute the reference's numbers; hostile files become a sentence."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from types import SimpleNamespace

import pytest
from PIL import Image
from safetensors.torch import load_file

import vendor.stylegan2_ada as sg
from balancer.errors import InputError
from balancer.generators import load_generator
from balancer.generators.official import import_checkpoint
from balancer.generators.transfer import read_source


@pytest.fixture(scope="module", params=["cond", "uncond"])
def imported(request, golden, tmp_path_factory):
    folder = golden / f"stylegan2_ada_{request.param}"
    run = import_checkpoint(folder / "network-snapshot.pkl", tmp_path_factory.mktemp("runs") / "run")
    config = json.loads((folder / "config.json").read_text())
    return SimpleNamespace(
        run=run, folder=folder, config=config, cases=load_file(folder / "cases.safetensors")
    )


def error(value, expected):
    return float((value.detach() - expected).norm() / expected.norm())


def test_the_run_computes_the_reference_numbers(imported):
    G, cases = load_generator(imported.run).network, imported.cases
    assert isinstance(G, sg.Generator)
    c = cases["c"] if G.c_dim else None
    assert error(G(cases["z"], c, noise_mode="const"), cases["img_noise_const"]) < 1e-5
    assert error(G.mapping(cases["z"], c), cases["ws"]) < 1e-5
    D = sg.Discriminator(**imported.config["D"])
    D.load_state_dict(read_source(imported.run, 32).weights["D"])
    assert error(D(cases["real"], c), cases["logits_real"]) < 1e-5


def test_the_run_says_what_it_is(imported):
    arguments, path = imported.config["G"], imported.folder / "network-snapshot.pkl"
    config = json.loads((imported.run / "config.json").read_text())
    assert config["kind"] == "generator"
    assert config["resolution"] == arguments["img_resolution"]
    assert config["classes"] == [f"class-{i}" for i in range(max(1, arguments["c_dim"]))]
    assert config["data"]["fingerprint"] is None
    assert config["imported"] == {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert load_generator(imported.run).info["network"] == arguments
    assert not (imported.run / "seen.csv").exists()
    side = arguments["img_resolution"]
    (sheet,) = (imported.run / "samples").iterdir()
    assert Image.open(sheet).size == (12 * side, len(config["classes"]) * side)


def test_classes_can_be_named(golden, tmp_path):
    path = golden / "stylegan2_ada_cond" / "network-snapshot.pkl"
    names = ["basophil", "blast", "ig", "lymphocyte", "monocyte"]
    run = import_checkpoint(path, tmp_path / "run", classes=names)
    generator = load_generator(run)
    assert list(generator.classes) == generator.info["known"] == names
    assert generator.generate("blast", [1, 2]).shape == (2, 32, 32, 3)
    for wrong in (names[:4], [*names[:4], "blast"], [*names[:4], ""]):
        with pytest.raises(InputError, match="knows 5 classes"):
            import_checkpoint(path, tmp_path / "other", classes=wrong)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_an_existing_run_is_replaced_on_demand_only(golden, tmp_path):
    path, run = golden / "stylegan2_ada_uncond" / "network-snapshot.pkl", tmp_path / "run"
    import_checkpoint(path, run)
    with pytest.raises(InputError, match="exists already"):
        import_checkpoint(path, run)
    import_checkpoint(path, run, overwrite=True, classes=["ALL"])
    assert load_generator(run).classes == ("ALL",)


class Command:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("use", [lambda p, o: import_checkpoint(p, o), lambda p, o: read_source(p, 32)])
def test_bad_files_are_a_sentence_and_leave_nothing(golden, tmp_path, use):
    whole = (golden / "stylegan2_ada_uncond" / "network-snapshot.pkl").read_bytes()
    path, out, proof = tmp_path / "file.pkl", tmp_path / "out", tmp_path / "executed"
    contents = {
        "asks for posix.system": pickle.dumps({"G_ema": Command(f"touch {proof}")}),
        "cut off": whole[: len(whole) // 2],
        "is empty": b"",
        "no network-snapshot file": b"weights",
        "none of the networks": pickle.dumps({"epoch": 1}),
    }
    for sentence, content in contents.items():
        path.write_bytes(content)
        with pytest.raises(InputError, match=sentence):
            use(path, out)
    path.unlink()
    with pytest.raises(InputError, match=r"file\.pkl"):
        use(path, out)
    assert not proof.exists()
    assert not out.exists()
