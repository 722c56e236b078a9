"""Do images show the attributes that were asked for? Read by a classifier that chose none of them, beside real images.

    python -m benchmarks.vision_language.synthesis --out DIR [--sets DIR] [--kimg K]

Two ways on PBC with WBCAtt's attributes at 64 px, both begun from the generator in the box: a generator that is told
attributes, asked for combinations of the train images and for some that no image has; and one that is told classes, of
whose images those are kept that fit a text (`balancer synth --text`). The reader is a network of another kind and seed than the
scorer. Runs that are there are not made again. Writes results/vision-language-synthesis.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from balancer.data import PreparedDataset
from balancer.data.attributes import ATTRIBUTES
from balancer.files import write_text
from balancer.generators import GeneratorConfig, read_source
from balancer.generators import train as train_generator
from balancer.generators.checkpoints import load_generator
from balancer.synth import least_similarity
from benchmarks.parts import markdown_table, sets_option
from benchmarks.vision_language.study import CLASSES, prepared
from classifier.attributes import attribute_probabilities
from classifier.captions import describe
from classifier.checkpoints import load_run
from classifier.config import TrainingConfig
from classifier.runs import train_run
from classifier.vision_language import text_scorer

RESULTS = Path(__file__).parents[1] / "results/vision-language-synthesis.md"
RESOLUTION = 64
IMAGES = 64  # made for each combination
CANDIDATES = 320  # made for each text: five for each image, as `balancer synth` makes at most
STEPS = 1000  # of reader and scorer
FEWEST, FEWEST_JUDGED = 50, 15  # images in train, and real ones beside, of a combination that is asked for
# What a combination of the train images is asked by: none of it follows from the class.
ASKED = ("cell_size", "nucleus_shape", "cytoplasm_vacuole")
NEW: tuple[dict[str, str], ...] = (  # no image has them; each value by itself is one that the reader knows
    {"nucleus_shape": "segmented-bilobed", "nuclear_cytoplasmic_ratio": "high"},
    {"cytoplasm_colour": "blue", "granule_colour": "pink", "granularity": "yes"},
    {"granule_type": "round", "granule_colour": "purple", "granularity": "yes"},
)


def generator(data: PreparedDataset, out: Path, condition: str, kimg: float) -> Path:
    """The run of a generator that is told `condition`, begun from the builtin one and fine-tuned as the docs advise."""
    run = out / f"generator-{condition}-{kimg:g}"
    if not (run / "generator.safetensors").is_file():
        config = GeneratorConfig(
            generator="projected",
            kimg=kimg,
            condition=condition,
            unconditional_kimg=kimg / 20,
            ramp_kimg=1.5 * kimg / 20,
            seed=0,
        )
        source = read_source("builtin", RESOLUTION)
        train_generator(data, config, run, init=source, resume=run.exists(), device="cpu")
    return run


def classifier(data: PreparedDataset, out: Path, name: str, **settings: object) -> Path:
    """The classifier run of that name."""
    run = out / name
    if not (run / "classifier.safetensors").is_file():
        train_run(data, [], TrainingConfig(**settings), run, resume=run.exists())  # type: ignore[arg-type]
    return run


def judged(data: PreparedDataset) -> tuple[pd.DataFrame, np.ndarray]:
    """The images of WBCAtt's val split, uint8 N×R×R×3, and their rows; the reader is not chosen by any of them."""
    splits = ("validation", "test")
    table = pd.concat([data.tables[split] for split in splits], ignore_index=True)
    return table, np.concatenate([data.images(split)[:] for split in splits])


def combinations(train: pd.DataFrame, judged: pd.DataFrame) -> list[tuple[str, dict[str, str]]]:
    """For each class its commonest and its rarest values of `ASKED` in train, of those that have `FEWEST` images there and
    `FEWEST_JUDGED` among those that are judged."""
    chosen = []
    for label in CLASSES:
        own, beside = (
            table[table["label"] == label].groupby(list(ASKED)).size() for table in (train, judged)
        )
        enough = own[(own >= FEWEST) & (beside.reindex(own.index, fill_value=0) >= FEWEST_JUDGED)]
        order = enough.sort_values(ascending=False, kind="stable").index
        for values in dict.fromkeys((order[0], order[-1])):
            chosen.append((label, dict(zip(ASKED, values, strict=True))))
    return chosen


def shown(read: Sequence[np.ndarray], asked: Mapping[str, str]) -> np.ndarray:
    """Which of the attributes asked for N images show, bool N×A, by the probabilities that the reader gives, for each attribute
    float N×values."""
    return np.stack(
        [
            read[list(ATTRIBUTES).index(name)].argmax(axis=1) == ATTRIBUTES[name].index(value)
            for name, value in asked.items()
        ],
        axis=1,
    )


def having(table: pd.DataFrame, asked: Mapping[str, str], label: str | None = None) -> np.ndarray:
    """Rows (int) of images that have the attributes, of the class where one is named."""
    has = np.ones(len(table), dtype=bool) if label is None else (table["label"] == label).to_numpy()
    for name, value in asked.items():
        has = has & (table[name] == value).to_numpy()
    return np.flatnonzero(has)


def unseen(data: PreparedDataset) -> list[dict[str, str]]:
    """`NEW`; ValueError where an image of `data` has one of them."""
    for values in NEW:
        if n := sum(len(having(table, values)) for table in data.tables.values() if len(table)):
            raise ValueError(f"{n} images have {values}, which no image should have")
    return list(NEW)


def page(data: PreparedDataset, out: Path, kimg: float) -> str:
    """The Markdown page; makes the runs that are missing."""
    reader = load_run(
        classifier(data, out, "reader", arch="resnet18", head="attributes", steps=STEPS, seed=1)
    )
    scorer = classifier(
        data, out, "scorer", arch="convnextv2", head="joint", steps=STEPS, sampling="balanced"
    )
    told = load_generator(generator(data, out, "attributes", kimg), "cpu")
    plain = load_generator(generator(data, out, "class", kimg), "cpu")
    table, images = judged(data)
    real = attribute_probabilities(reader.model, images)
    seeds, many = list(range(IMAGES)), list(range(1000, 1000 + CANDIDATES))

    def read(made: np.ndarray) -> list[np.ndarray]:
        return attribute_probabilities(reader.model, made)

    rows, by_attribute = [], []
    for label, values in combinations(data.tables["train"], table):
        candidates = plain.generate(label, many)
        score = text_scorer(scorer, describe(values, 0), data)
        fits = score.scores(candidates) >= least_similarity(score, data, label, 0)
        own = having(table, values, label)
        from_class = shown(read(candidates), values)
        arms = (
            shown([p[own] for p in real], values),
            shown(read(told.generate_attributes(values, seeds, label=label)), values),
            from_class,
            from_class[fits],
        )
        rows.append((label, _said(values), *map(_all_shown, arms)))
        by_attribute.append([arm.mean(axis=0) if len(arm) else np.full(len(ASKED), np.nan) for arm in arms])
    means = np.nanmean(by_attribute, axis=0).T  # attributes × arms
    singly = [
        (name.replace("_", " "), *(f"{x:.2f}" for x in of)) for name, of in zip(ASKED, means, strict=True)
    ]
    new = []
    for values in unseen(data):
        made = shown(read(told.generate_attributes(values, seeds)), values)
        alone = [
            _all_shown(shown([p[having(table, {name: value})] for p in real], {name: value}))
            for name, value in values.items()
        ]
        each = zip(values, made.mean(axis=0), alone, strict=True)
        new.append(
            (_said(values), _all_shown(made), "; ".join(f"{name} {x:.2f}, real {y}" for name, x, y in each))
        )
    ways = ("real", "told attributes", "told the class", "… and kept by the text")
    return (
        "# Images by a text or by attributes\n\n"
        f"PBC with WBCAtt's attributes at {data.resolution} px, generators of {kimg:g} kimg from the one in the box, one of each kind. Read by a "
        "ResNet-18 (head `attributes`, another seed) that chose none of the images and was trained on WBCAtt's train split; real images are those of "
        f"its val split with these attributes. By text those of {CANDIDATES} candidates are kept that fit it better than three of four real train images of the class, "
        "as `balancer synth --text` does before the gate, by a ConvNeXt V2 (head `joint`). The generator in the box saw a half of PBC, images of the val "
        "split among them; nothing here is judged by likeness to these.\n\n"
        "Share of images that show all that was asked for, 95 % interval (Wilson) and number of images:\n\n"
        f"{markdown_table(('class', 'asked for', *ways), rows)}\n\n"
        f"Share that shows each attribute, mean over these combinations:\n\n{markdown_table(('attribute', *ways), singly)}\n\n"
        "Combinations that no image has, each attribute beside its share among the real images that have it:\n\n"
        f"{markdown_table(('asked for', 'told attributes: all shown', 'each'), new)}\n"
    )


def _said(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def _all_shown(right: np.ndarray) -> str:
    """The share of N images that show all attributes, from bool N×A."""
    if not len(right):
        return "– (0)"
    n = int(right.all(axis=1).sum())
    low, high = binomtest(n, len(right)).proportion_ci(method="wilson")
    return f"{n / len(right):.2f} ({low:.2f} to {high:.2f}) of {len(right)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vision_language.synthesis", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--kimg", type=float, default=20.0, metavar="K", help="thousands of images of fine-tuning"
    )
    sets_option(parser)
    options = parser.parse_args()
    text = page(prepared(options.sets.resolve(), options.out, RESOLUTION), options.out, options.kimg)
    write_text(RESULTS, text)
    print(text)


if __name__ == "__main__":
    main()
