"""The study of defaults for a rare class: its rules on tables, its stages and jobs on tiny data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from balancer.errors import InputError
from balancer.files import write_json
from benchmarks import rare_class, rare_class_rules
from benchmarks.rare_class import Case, Folder, Method, Point, Study, Training

LIMITS = (("a", 8), ("b", 8))
A, B, C = (Method("stylegan2-ada", init, measure).name for init, measure in (("scratch", "none"), ("builtin", "none"), ("builtin", "ramp")))  # fmt: skip


def points(*rows: tuple[Any, ...]) -> pd.DataFrame:
    """A table from rows of label, n, method, kimg, kid, copies and seconds, with intervals of ±0.01."""
    names = ["label", "n", "method", "kimg", "kid", "copies", "seconds"]
    table = pd.DataFrame(rows, columns=names)
    limits = table["n"].map(lambda n: f"all {n}")
    table = table.assign(dataset="pbc", limits=limits, held_out=True, failed=None, verdict="fail")
    table = table.assign(kid_low=table["kid"] - 0.01, kid_high=table["kid"] + 0.01, kid_real=0.0)
    for name in ("coverage", "agreement"):
        table = table.assign(**{name: 0.5, f"{name}_real": 0.9})
    return table.assign(copies_real=0.0)


@pytest.fixture(autouse=True)
def unlearned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generators of a few steps make no cells: what is tested here is what becomes of images that are no copies."""
    monkeypatch.setattr(
        "balancer.quality.defects.check", lambda measured, label, limits: [None] * len(measured)
    )


def test_ranks_are_means_over_the_cases_that_all_have() -> None:
    table = points(
        ("a", 8, A, 5, 0.3, 0, 1), ("a", 8, B, 5, 0.1, 0, 9), ("a", 8, C, 5, 0.2, 0, 9),
        ("b", 8, A, 5, 0.3, 0, 1), ("b", 8, B, 5, 0.2, 0, 9), ("b", 8, C, 5, 0.1, 0, 8),
        ("c", 8, A, 5, 0.0, 0, 1),  # only A has it: it does not count
    )  # fmt: skip
    board = rare_class_rules.leaderboard(table).set_index("method")
    assert board["rank"].to_dict() == {A: 3.0, B: 1.5, C: 1.5}
    assert board["cases"].tolist() == [2, 2, 2]
    assert rare_class_rules.best(table, 2) == [C, B]  # equal ranks: the faster one first


def test_near_copies_and_divergence_rule_a_setting_out() -> None:
    table = points(("a", 8, A, 5, 0.1, 0.06, 1), ("a", 8, B, 5, 0.2, 0.05, 1), ("a", 8, C, 5, np.nan, 0, 1))
    table.loc[2, "failed"] = "Training diverged."
    assert rare_class_rules.best(table, 3) == [B]
    assert rare_class_rules.leaderboard(table)["method"].iloc[0] == B


def test_cases_judged_against_train_images_do_not_count() -> None:
    table = points(("a", 8, A, 5, 0.1, 0, 1), ("a", 8, B, 5, 0.2, 0, 1), ("b", 8, A, 5, 0.2, 0, 1), ("b", 8, B, 5, 0.1, 0, 1))  # fmt: skip
    table.loc[:1, "held_out"] = False
    assert rare_class_rules.best(table, 1) == [B]


def test_the_default_is_a_method_and_a_length_and_names_what_it_cannot_tell_apart() -> None:
    table = points(
        ("a", 8, A, 5, 0.10, 0, 1), ("a", 8, B, 5, 0.11, 0, 1), ("a", 8, A, 20, 0.3, 0, 4), ("a", 8, B, 20, 0.05, 0, 4),
        ("a", 60, A, 5, 0.9, 0, 1), ("a", 60, B, 5, 0.1, 0, 1),  # measured at 5 kimg alone: no case of all settings
    )  # fmt: skip
    sentence = rare_class_rules.best_sentence(table, [A, B], (5, 20))
    assert sentence.startswith(f"The default that follows is {B}, 20 kimg: mean rank 1.00 over 1 case ")
    assert f"({A}, 5 kimg 2.00, {B}, 5 kimg 3.00, {A}, 20 kimg 4.00)" in sentence
    assert "overlap" not in sentence
    only = rare_class_rules.best_sentence(table[table["kimg"] == 5], [A, B], (5, 20))
    assert only.startswith(f"The default that follows is {B}, 5 kimg: mean rank 1.50 over 2 cases ")
    near = rare_class_rules.best_sentence(table[table["n"] == 8], [A, B], (5,))
    assert f"overlap in every case with {B}, 5 kimg" in near
    table["copies"] = 0.5
    assert rare_class_rules.best_sentence(table, [A, B], (5, 20)).startswith("No default follows")


def study(tmp_path: Path, **sizes: Any) -> Study:
    """Three classes of 40 coloured discs at 16 px as "pbc", and a study of them that takes seconds."""
    rng, source = np.random.default_rng(0), tmp_path / "source"
    y, x = np.mgrid[:16, :16] / 16 - 0.5
    for k, label in enumerate("abc"):
        (source / label).mkdir(parents=True)
        for i in range(40):
            inside = np.hypot(x - rng.normal(0, 0.1), y) < 0.2 + 0.1 * k
            pixels = np.where(inside[..., None], 60 + 50 * np.eye(3)[k], 220) + rng.normal(0, 12, (16, 16, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(source / label / f"{label}{i}.png")
    tiny: dict[str, Any] = {
        "pbc": (LIMITS,),
        "others": (),
        "families": ("stylegan2-ada",),
        "measures": ("balance-0",),
        "screen": (0.016, 0.032),
        "long": 0.048,
        "images": 12,
        "resolution": 16,
        "survivors": 1,
        "finalists": 1,
        "classifier": {"arch": "resnet18", "steps": 2, "batch_size": 8},
        "generator": {"channel_max": 16, "latent": 16},
    }
    return Study({"pbc": str(source)}, None, **(tiny | sizes))


class Colours:
    """Features that cost nothing: the image at 4×4 px."""

    name, sha256, dimension = "colours", "0", 48

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), 4, 4, 4, 4, 3).mean((2, 4)).reshape(len(images), -1).astype("f4") / 99  # fmt: skip


def do_all(study: Study, root: Path) -> list[str]:
    """All stages in this process; the names of those with something to do."""
    folder, names = Folder(root), []
    folder.begin(study)
    for name, chains in rare_class.stages(study, folder):
        open_ = [u for units in chains for u in units if not study.job(u).done(folder.jobs)]
        names += [name] if open_ else []
        for units in chains:
            rare_class.prepare_case(study, root, units[0].case)
            rare_class.run_units(study, root, units)
    return names


def test_the_whole_study_then_nothing_is_left_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rare_class, "inception", Colours)
    tiny, root = study(tmp_path), tmp_path / "out"
    assert do_all(tiny, root) == [
        "1 families", "2 measures", "5 0.048 kimg", "6 macro-F1", "6 macro-F1 at 0.048 kimg"
    ]  # fmt: skip
    assert do_all(tiny, root) == []

    results = Folder(root).results()
    table, gains = rare_class.points_table(results), rare_class.gains_table(results)
    assert len(table) == 2 * (2 + 1 + 1)  # two classes at 16 and 32 images, a measure, a longer run
    assert table["kid"].notna().all()
    assert (table["n"] == 8).all() and table["held_out"].all()
    assert set(gains["what"]) == {"macro-F1", "F1 of a", "F1 of b"}
    assert np.allclose(gains["delta"], gains["with"] - gains["without"])
    page = rare_class.table(root, tmp_path / "results", tiny)
    assert "The default that follows is stylegan2-ada scratch" in page and "Not finished" not in page
    assert len(pd.read_csv(tmp_path / "results" / "rare-class.csv")) == len(table)


def test_chosen_methods_skip_the_search_and_go_to_the_other_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rare_class, "inception", Colours)
    method = "stylegan2-ada scratch none"
    tiny, root = study(tmp_path, methods=(method,), others=(("mine", (("a", 8),)),)), tmp_path / "out"
    tiny = replace(tiny, sources={"mine": tiny.sources["pbc"]})
    lengths = ["0.032 kimg", "0.048 kimg"]
    expected = [name for kimg in lengths for name in (f"other sets, {kimg}", f"macro-F1, {kimg}")]
    assert do_all(tiny, root) == expected
    page = rare_class.table(root, tmp_path / "results", tiny)
    assert page.startswith("# The finalists on other sets") and f"**Ahead is {method}" in page
    assert len(pd.read_csv(tmp_path / "results" / "rare-class-others.csv")) == 2
    assert len(pd.read_csv(tmp_path / "results" / "rare-class-others-f1.csv")) == 2 * 2


def test_a_method_that_is_no_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="family, start, measure"):
        rare_class.main(
            ["run", "--pbc", str(tmp_path), "--out", str(tmp_path / "out"), "--method", "a b c d"]
        )


def test_no_default_is_named_before_the_stages_it_rests_on_are_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rare_class, "inception", Colours)
    tiny, root = study(tmp_path), tmp_path / "out"
    Folder(root).begin(tiny)
    case = Case("pbc", LIMITS)
    rare_class.prepare_case(tiny, root, case)
    rare_class.run_units(tiny, root, [Point(case, Method("stylegan2-ada"), 0.032)])
    page = rare_class.table(root, tmp_path / "results", tiny)
    assert "No default is named yet" in page and "default that follows" not in page
    assert "1 families (1)" in page


def test_what_a_family_does_anyway_is_no_measure(tmp_path: Path) -> None:
    tiny = study(tmp_path)
    differs = {
        (family, name): rare_class._differs(tiny, Method(family), name)
        for family in ("stylegan2-ada", "projected")
        for name in rare_class.MEASURES
    }
    same = {key for key, different in differs.items() if not different}
    assert same == {("stylegan2-ada", "ada"), ("projected", "no-augmentation")}


def test_a_longer_length_goes_on_from_the_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rare_class, "inception", Colours)
    tiny, case = study(tmp_path), Case("pbc", LIMITS)
    short, long = (Point(case, Method("stylegan2-ada"), kimg) for kimg in (0.016, 0.032))
    found = {}
    for name, units in (("both", [short, long]), ("one", [long]), ("backwards", [long, short])):
        root = tmp_path / name
        folder = Folder(root)
        folder.begin(tiny)
        rare_class.prepare_case(tiny, root, case)
        rare_class.run_units(tiny, root, units)
        found[name] = {
            unit.kimg: np.load(tiny.job(unit).folder(folder.jobs) / "images.npz")["images"]
            for unit in (short, long)
            if unit in units
        }
    assert np.array_equal(found["both"][0.032], found["one"][0.032])
    assert np.array_equal(found["both"][0.016], found["backwards"][0.016])
    assert not np.array_equal(found["both"][0.016], found["both"][0.032])


def test_refusals_are_results(tmp_path: Path) -> None:
    tiny, case = study(tmp_path, resolution=16), Case("pbc", LIMITS)
    point = Point(case, Method("projected", measure="freeze-d"), 0.016)
    folder = Folder(tmp_path / "out")
    folder.begin(tiny)
    rare_class.prepare_case(tiny, folder.root, case)
    rare_class.run_units(tiny, folder.root, [point])
    (job,) = folder.results()
    assert "frozen" in job["result"]["refused"] or "freeze" in job["result"]["refused"]
    assert rare_class.points_table([job]).empty


def test_the_shipped_study_screens_every_family_and_keeps_to_what_has_meaning() -> None:
    shipped = Study({"pbc": "x"}, "run")
    name, chains = next(rare_class.stages(shipped, Folder(Path("nowhere"))))
    methods = {unit.method for units in chains for unit in units if isinstance(unit, Point)}
    assert name == "1 families"
    assert {(m.family, m.init) for m in methods} == {
        *((family, "scratch") for family in rare_class.FAMILIES),
        *((family, "builtin") for family in ("stylegan2-ada", "acdb", "projected")),
    }
    r3gan = [units for units in chains for u in units if isinstance(u, Point) and u.method.family == "r3gan"]
    assert [len(units) for units in r3gan] == [1, 1]
    ramp = rare_class.chain(Case("pbc", LIMITS), Method("acdb", "builtin", "ramp"), (2, 5, 20))
    assert [unit.kimg for unit in ramp if isinstance(unit, Point)] == [5, 20]


def test_only_r3gan_trains_each_length_anew() -> None:
    shipped, folder, case = Study({"pbc": "x"}, None), Folder(Path("nowhere")), Case("pbc", LIMITS)
    runs = {
        family: {folder.run(shipped, Point(case, Method(family), kimg)) for kimg in (2, 5)}
        for family in rare_class.FAMILIES
    }
    assert {family: len(found) for family, found in runs.items()} == {
        "stylegan2-ada": 1, "acdb": 1, "r3gan": 2, "projected": 1
    }  # fmt: skip


def test_the_estimate_counts_a_shared_training_once(tmp_path: Path) -> None:
    shipped, folder, case = Study({"pbc": "x"}, None), Folder(tmp_path), Case("pbc", LIMITS)
    point, speed = rare_class.SECONDS["point"], rare_class.SPEED
    units = rare_class.chain(case, Method("projected"), (2, 5))
    assert shipped.seconds(units, folder) == pytest.approx(2 * point + 5000 / speed["projected"])
    alone = rare_class.chain(case, Method("r3gan"), (5,))
    assert shipped.seconds(alone, folder) == pytest.approx(point + 5000 / speed["r3gan"])


def test_a_budget_leaves_out_what_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Pool:
        def submit(self, *_: Any) -> None:
            raise AssertionError("nothing fits")

    tiny, folder = study(tmp_path), Folder(tmp_path / "out")
    folder.begin(tiny)
    units: list[rare_class.Unit] = [Training(Case("pbc", LIMITS), None, 0)]
    rare_class._run_stage(tiny, folder, Pool(), 2, [units], budget=0.5)  # type: ignore[arg-type]
    assert "1 jobs do not fit into the budget" in capsys.readouterr().err


def test_other_sources_and_a_second_process_are_refused(tmp_path: Path) -> None:
    tiny, folder = study(tmp_path), Folder(tmp_path / "out")
    folder.begin(tiny)
    with pytest.raises(InputError, match="study of other sources"):
        folder.begin(Study({"pbc": "elsewhere"}, None))
    with folder.held(), pytest.raises(InputError, match="Another process"), folder.held():
        pass


def test_images_that_the_builtin_has_seen_are_refused(tmp_path: Path) -> None:
    tiny, folder, case = study(tmp_path), Folder(tmp_path / "out"), Case("pbc", LIMITS)
    folder.begin(tiny)
    rare_class.prepare_case(tiny, folder.root, case)
    seen = pd.read_csv(folder.data(case) / "train" / "metadata.csv")[:3]
    folder.builtin.mkdir()
    seen.to_csv(folder.builtin / "seen.csv")
    knowing = Study(tiny.sources, "run", pbc=tiny.pbc, resolution=16)
    other = Case("pbc", (("a", 9),))
    with pytest.raises(InputError, match="has seen 3 images"):
        rare_class.prepare_case(knowing, folder.root, other)
    assert not folder.data(other).exists()


def test_half_a_result_is_no_result(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    (folder.jobs / "point-1").mkdir(parents=True)
    write_json(folder.jobs / "point-1" / "result.json", {"cpu_seconds": 1})
    assert folder.results() == []
    (folder.jobs / "point-1" / "job.json").write_text(json.dumps({"kind": "point", "inputs": {}}))
    assert folder.spent() == 1
