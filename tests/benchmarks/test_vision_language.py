"""The benchmark of vision and language on a small set: the splits, a training's table, and what the page says."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import f1_score

from balancer import smear
from benchmarks.vision_language import balancing, study, synthesis, tables
from benchmarks.vision_language.retrieval import average_precision, ranks
from benchmarks.vision_language.study import CLASSES, Training, do, in_report_half, prepared, trainings
from classifier.calibration import unseen_rule
from classifier.captions import class_sentences
from classifier.models.vision_language import VALUES, SentenceHead
from classifier.text_encoders import words


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with sets "pbc", of rendered cells that say they are real, with WBCAtt's splits, and "segwbc"."""
    for name, n, seed in (("pbc", 16, 0), ("segwbc", 4, 1)):
        smear.write_source(tmp_path / name, dict.fromkeys(CLASSES, n), 32, seed=seed)
        (tmp_path / name / ".hemabalance.json").unlink()
        table = pd.read_csv(tmp_path / name / "metadata.csv").drop(
            columns=["source", "patient_id", "um_per_pixel"]
        )
        for file in table["file_name"]:
            pixels = np.asarray(Image.open(tmp_path / name / file))
            Image.fromarray(pixels).save(tmp_path / name / file)  # without the text that says rendered
        number = table["file_name"].str[-9:-4].astype(int)
        table["wbcatt_split"] = np.select([number <= 9, number <= 15], ["train", "val"], "")
        if name == "segwbc":
            table = table[["file_name", "label"]]
        table.to_csv(tmp_path / name / "metadata.csv", index=False)
    return tmp_path


def test_the_splits_are_wbcatts_and_the_halves_of_val_are_fixed(small: Path) -> None:
    data = prepared(small, small / "out", 32)
    names = {split: set(data.tables[split]["source_file"]) for split in ("train", "validation", "test")}
    assert len(names["train"]) == 9 * 5 and len(names["validation"]) + len(names["test"]) == 6 * 5
    for split, report in (("validation", False), ("test", True)):
        assert all(in_report_half(name) is report for name in names[split]) and names[split]
    expected = int(hashlib.sha256(b"BA_1.jpg").hexdigest(), 16) % 2 == 1
    assert in_report_half("basophil/BA_1.jpg") is expected
    without = prepared(small, small / "out", 32, "monocyte")
    assert (
        set(without.tables["train"]["label"])
        == set(CLASSES) - {"monocyte"}
        == set(without.tables["validation"]["label"])
    )
    assert set(without.tables["test"]["source_file"]) == names["test"] and without.classes == CLASSES


def test_a_training_answers_what_its_stage_asks(small: Path) -> None:
    settings = (("arch", "swin"), ("head", "joint"), ("steps", 2), ("batch_size", 8), ("evaluations", 1))
    unit = Training("retrieval", "joint", settings, 0, 32, "monocyte")
    table = do(unit, small, small / "out")
    assert set(table["what"]) == {"class", "retrieval", "new words", "control", *study.ATTRIBUTES}
    own = table[(table["what"] == "class") & (table["test"] == "wbcatt")]
    assert (own["label"] == CLASSES.index("monocyte")).any() and (own["classes"] == 5).all()
    assert set(table[table["what"].isin(study.ATTRIBUTES)]["test"]) == {"wbcatt"}  # segwbc has none
    found = table[table["what"] == "retrieval"]
    assert found.groupby("test")["answers"].first()["segwbc"] == 5
    ways = ("image to text", "text to image", study.COUNTED, *study.BLIND)
    assert set(found["metric"]) == {f"{way}, {m}" for way in ways for m in tables.METRICS}
    controls = table[table["what"] == "control"]
    assert set(controls["metric"]) == set(tables.CONTROLS)
    for _, control in controls.groupby("metric"):
        assert control["label"].tolist() == own["label"].tolist()
    said = controls[controls["metric"] != study.OUTSIDERS]["value"]
    assert set(said) <= {0.0, 1.0}
    (new,) = table[table["what"] == "new words"]["value"]
    said = {word for text in class_sentences("monocyte", 8, 0, named=False) for word in words(text)}
    assert 0 < new < len(said)  # "cell" is known of others


def test_attributes_are_measured_by_what_is_commonest(small: Path) -> None:
    data = prepared(small, small / "out", 32)
    parts = study._commonest(data)
    assert len(parts) == 2 * len(study.ATTRIBUTES)
    train, test = data.tables["train"], data.tables["test"]
    for rule, by in ((study.COMMONEST, None), (study.COMMONEST_OF_CLASS, "label")):
        rows = next(
            p for p in parts if p["metric"].iat[0] == rule and p["what"].iat[0] == "cytoplasm_texture"
        )
        values = study.ATTRIBUTES["cytoplasm_texture"]
        of = train["cytoplasm_texture"].groupby(train[by] if by else np.zeros(len(train)))
        counts = of.value_counts()
        for i, label in enumerate(test["label"] if by else np.zeros(len(test))):
            assert counts[label][values[rows["predicted"].iat[i]]] == counts[label].max()


def test_images_that_are_not_looked_at_are_found_by_chance() -> None:
    of_class = np.array([[3, 0], [0, 2]])  # the first caption is that of the first class alone
    labels, own = np.array([0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 1])
    found = study._unlooked(labels, of_class, own).groupby("metric")["value"].mean()
    assert found[f"{study.AT_RANDOM}, R@1"] == pytest.approx(0.5, abs=0.15)
    assert found[f"{study.BY_CLASSES}, R@1"] == pytest.approx((1 + 3 / 4) / 2, abs=0.1)
    assert found[f"{study.BY_CLASSES}, R@5"] == 1
    assert found[f"{study.BY_CLASS}, R@1"] == pytest.approx(5 / 6)


def test_the_rule_gives_what_the_head_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, k = np.random.default_rng(0), 2
    likeness = [rng.normal(size=(n, 4)) for n in (60, 80)]
    novelty = [rng.random(n) for n in (60, 80)]
    head = SentenceHead(4, 8)
    head.rule = torch.from_numpy(unseen_rule(likeness[0], novelty[0], np.arange(4) != k))
    monkeypatch.setattr(SentenceHead, "novelty", lambda self, z: torch.from_numpy(novelty[1]))
    answered = head.with_unseen(torch.from_numpy(likeness[1]), torch.zeros(80, 8)).argmax(dim=1).numpy() == k
    said = study.given_to(k, likeness, novelty, [values[:, k] for values in likeness])
    assert (said == answered).all() and 0 < said.sum() < 40
    silent = study.given_to(k, likeness, novelty, [np.zeros(60), np.zeros(80)])
    louder = study.given_to(k, likeness, novelty, [np.full(60, 5.0), np.full(80, 5.0)])
    assert (silent == louder).all() and (silent != said).any()  # whatever the constant
    alone = study.given_to(k, likeness, novelty, [values[:, k] for values in likeness], 0.0)
    order = likeness[1][:, k] - np.delete(likeness[1], k, axis=1).max(axis=1)
    assert order[alone].min() > order[~alone].max()


def test_no_training_stands_twice_in_a_stage_and_every_stage_has_three_seeds() -> None:
    for stage in study.STAGES:
        units = list(trainings(stage))
        assert len({unit.key for unit in units}) == len(units) and {unit.seed for unit in units} == {0, 1, 2}


def test_the_page_gives_known_values() -> None:
    made = []
    for unit in trainings("zero-shot"):
        if unit.name != "contrastive, small" or unit.left_out != "monocyte":
            continue
        labels = np.repeat([3, 0], [4, 4])
        predicted = np.array([3, 3, 3, unit.seed, 0, 0, 0, 0])
        common = {"key": unit.key, "test": "wbcatt", "seconds": 60.0, "code": ""}
        rows = pd.DataFrame({"label": labels, "predicted": predicted, "group": np.arange(8).astype(str)})
        made.append(rows.assign(what="class", classes=5, confidence=0.5, **common))
        made.append(rows.assign(what="class", classes=5, confidence=0.5, **(common | {"test": "segwbc"})))
        made.append(pd.DataFrame({"what": ["new words"], "value": [3.0]}).assign(**common))
        for control in tables.CONTROLS:
            given = [1.0, 0, 0, 1, 1, 0, 0, 0] if control == study.NO_SENTENCE else [0.0] * 8
            about = {"metric": control, "query": range(8), "label": labels, "value": given}
            made.append(pd.DataFrame(about).assign(what="control", **common))
    page = tables.page(pd.concat(made, ignore_index=True))
    row, elsewhere = (line for line in page.splitlines() if line.startswith("| monocyte"))
    assert row.startswith("| monocyte | 0.750 (")
    none = "0.000 / 0.000"
    assert f"of 4 | 0.000 | {none} | {none} | 0.500 / 0.250 | {none} | {none} | {none} | 3 |" in row
    assert "chance is 0.20" in page and "\n| the rule | 0.750 (" in page
    assert f"\n| the rule minus {study.NO_SENTENCE} | 0.250 (" in page
    assert f"\n| {study.OWN_ALONE} minus {study.UNCERTAIN_ALONE} | 0.000 (no variation) |" in page
    assert elsewhere.startswith("| monocyte | 0.750 (") and elsewhere.endswith("of 4 | 0.000 | 1.000 |")


def test_the_page_of_attributes_and_retrieval_gives_known_values() -> None:
    made = []
    for stage, name in (("attributes", "attributes"), ("retrieval", "contrastive")):
        for unit in (unit for unit in trainings(stage) if unit.name == name):
            common = {"key": unit.key, "test": "wbcatt", "seconds": 60.0, "code": ""}
            if stage == "attributes":
                for k, (attribute, values) in enumerate(study.ATTRIBUTES.items()):
                    labels = np.array([0, 0, 1, 1])
                    predicted = np.array([0, 0, 1, k % 2])  # every second attribute has an error
                    rows = pd.DataFrame({"label": labels, "predicted": predicted, "group": list("abcd")})
                    rows = rows.assign(what=attribute, classes=len(values), confidence=1.0, **common)
                    made.append(rows)
                    for rule in (study.COMMONEST, study.COMMONEST_OF_CLASS):
                        made.append(rows.assign(metric=rule, predicted=0))
            else:
                for way in ("image to text", study.BY_FREQUENCY):
                    for metric in tables.METRICS:
                        rows = pd.DataFrame(
                            {"metric": f"{way}, {metric}", "query": range(2), "value": [0.0, 1.0]}
                        )
                        made.append(rows.assign(what="retrieval", answers=7, **common))
    page = tables.page(pd.concat(made, ignore_index=True))
    lines = {line.split(" | ")[0].strip("| "): line for line in page.splitlines() if line.startswith("|")}
    f1 = (2 * 2 / 5 + 2 * 1 / 3) / 2
    assert lines["cell size"].startswith("| cell size | 0.750 (") and f"| {f1:.3f} (" in lines["cell size"]
    assert lines["cell shape"].startswith(
        "| cell shape | 1.000 (no variation) | 1.000 (no variation) | 0.000"
    )
    assert lines["cell shape"].endswith("| 0.500 / 0.333 | 0.500 / 0.333 |")
    assert (
        lines["mean"].startswith(f"| mean | {1 - 6 / 11 / 4:.3f} (")
        and f"| {(5 + 6 * f1) / 11:.3f} (" in lines["mean"]
    )
    assert lines["none"] == f"| none | image to text, {study.BY_FREQUENCY} | 0.500 | 0.500 | 0.500 | 0.500 |"
    assert lines["`contrastive`"].startswith("| `contrastive` | image to text | 0.500 (0.000 to 1.000) |")


def test_macro_f1_is_the_mean_of_its_shares() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(3, size=50), rng.integers(3, size=50)
    part = pd.DataFrame({"label": labels, "predicted": predicted, "classes": 3})
    shares = tables._shares_of_f1(part)
    whole = f1_score(labels, predicted, average="macro")
    assert shares.mean() == pytest.approx(whole)
    without = [f1_score(np.delete(labels, i), np.delete(predicted, i), average="macro") for i in range(50)]
    jackknife = 50 * whole - 49 * np.array(without)
    assert shares.std() == pytest.approx(jackknife.std(), rel=0.1)


def test_an_interval_has_the_variance_of_images_and_seeds() -> None:
    values, seeds = np.tile([0.0, 1.0, 1.0, 0.0], 3), np.repeat([0, 1, 2], 4)
    assert (
        tables.interval(values, seeds) == "0.500 (0.000 to 1.000)"
    )  # 3 degrees of freedom: 0.5 ± 3.18 × 0.29
    assert tables.interval(np.ones(6), np.repeat([0, 1], 3)) == "1.000 (no variation, 2 seeds)"
    assert tables.interval(np.array([1.0, 0.0]), np.zeros(2)) == "0.500 (1 seed)"


def test_a_mean_over_sets_of_trainings_has_their_variance_together() -> None:
    seeds = np.repeat([0, 1, 2], 4)
    values = np.tile([0.0, 1.0, 1.0, 0.0], 3)
    one, two = (tables.mean_interval([(values, seeds)] * n, -1.0) for n in (1, 2))
    assert one == "0.500 (-0.419 to 1.000)"  # 0.5 ± 3.18 × 0.29
    assert tables.mean_interval([(values, seeds)]) == "0.500 (0.000 to 1.000)"
    fewer = [(values, seeds), (values[:8], seeds[:8])]
    assert tables.mean_interval(fewer).endswith(", 2 seeds)")
    assert two == "0.500 (0.001 to 0.999)"  # 6 degrees of freedom: 0.5 ± 2.45 × 0.20
    assert tables.mean_interval([(values, seeds), (values[:4], np.zeros(4))]) == "0.500 (1 seed)"


def test_combinations_are_the_commonest_and_the_rarest_of_a_class(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthesis, "ASKED", ("granularity", "cell_size"))
    monkeypatch.setattr(synthesis, "FEWEST", 2)
    monkeypatch.setattr(synthesis, "FEWEST_JUDGED", 1)
    train = pd.DataFrame({"label": np.repeat(CLASSES, 9), "granularity": "yes", "cell_size": "big"})
    beside, monocytes = train.copy(), train.index[train["label"] == "monocyte"]
    train.loc[monocytes[:2], "granularity"] = train.loc[monocytes[3:5], "cell_size"] = "no"
    train.loc[monocytes[8], "cell_size"] = "small"  # too few
    beside.loc[monocytes[0], "granularity"] = "no"  # and none of the size "no"
    found = [values for label, values in synthesis.combinations(train, beside) if label == "monocyte"]
    assert found == [{"granularity": "yes", "cell_size": "big"}, {"granularity": "no", "cell_size": "big"}]
    assert len(synthesis.combinations(train, beside)) == len(CLASSES) + 1
    data = prepared(small, small / "out", 32)
    table, images = synthesis.judged(data)
    assert len(table) == len(images) == 30
    monkeypatch.setattr(synthesis, "NEW", ({"granularity": "yes"},))
    with pytest.raises(ValueError, match="which no image should have"):
        synthesis.unseen(data)


def test_what_is_shown_is_what_the_reader_says() -> None:
    read = [np.zeros((4, n)) for n in VALUES]
    size, granularity = read[0], read[-1]
    size[:, 0] = granularity[:3, 1] = 1  # all big, three of four granular
    right = synthesis.shown(read, {"cell_size": "big", "granularity": "yes"})
    assert right.tolist() == [[True, True]] * 3 + [[True, False]]
    assert synthesis._all_shown(right) == "0.75 (0.30 to 0.95) of 4"
    assert synthesis._all_shown(right[:0]) == "– (0)"


@pytest.mark.slow
def test_the_page_of_synthesis_is_made_by_a_few_steps(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "FEWEST", 1)
    monkeypatch.setattr(synthesis, "FEWEST_JUDGED", 1)
    monkeypatch.setattr(synthesis, "IMAGES", 4)
    monkeypatch.setattr(synthesis, "CANDIDATES", 8)
    monkeypatch.setattr(synthesis, "NEW", ({"nucleus_shape": "segmented-multilobed", "granularity": "no"},))
    monkeypatch.setattr(synthesis, "STEPS", 2)
    data = prepared(small, small / "out", 64)
    page = synthesis.page(data, small / "synthesis", 0.064)
    rows = [line for line in page.splitlines() if line.startswith(tuple(f"| {label}" for label in CLASSES))]
    assert len(rows) >= len(CLASSES) and all(row.count(" of 4 | ") >= 1 and " of 8 | " in row for row in rows)


def test_heads_are_compared_image_by_image_in_every_arm() -> None:
    labels = np.repeat(["a", "b"], 40)

    def predictions(arms: dict[str, int]) -> pd.DataFrame:
        parts = []
        for arm, wrong in arms.items():
            for seed in (0, 1):
                said = labels.copy()
                said[:wrong] = "b"
                files = [f"{i:02d}" for i in range(80)]
                columns = {"arm": arm, "seed": seed, "split": "test", "file_name": files, "group": files}
                parts.append(pd.DataFrame(columns | {"label": labels, "predicted": said}))
        shuffled = pd.concat(parts).sample(frac=1, random_state=0)
        return pd.concat([shuffled, shuffled.assign(split="validation", predicted="a")])

    table = balancing.table(
        {"class": predictions({"unbalanced": 20, "gan": 0}), "text": predictions({"unbalanced": 0})},
        ["a", "b"],
    )
    header, _, unbalanced, gan = table.splitlines()
    assert header == "| arm | class | text | text minus class |"
    f1 = (2 * 20 / 60 + 2 * 40 / 100) / 2
    assert unbalanced.startswith(f"| unbalanced | {f1:.3f} (") and f"| {1 - f1:+.3f} (" in unbalanced
    assert gan.startswith("| gan | 1.000 (") and gan.endswith("| – | – |")


def test_chance_is_what_drawn_orders_come_to() -> None:
    relevant = np.arange(30) < np.array([1, 4, 12])[:, None]
    rng, found = np.random.default_rng(0), []
    for _ in range(3000):
        found += [
            [*(float(rank[0] <= k) for k in (1, 5, 10)), average_precision(rank)]
            for rank in ranks(rng.random(relevant.shape), relevant)
        ]
    assert tables.at_random(relevant.sum(axis=1), 30) == pytest.approx(np.mean(found, axis=0), abs=0.02)
