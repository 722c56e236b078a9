"""Do the explanations show what the network looks at? Their sanity on a network that was trained on PBC.

    python -m benchmarks.explanations [--out DIR] [--sets DIR] [--steps N]

Of test images that the network gets right, 25 of each class, and `classifier.explain.attributions` of their class:

- cell: the share of the attribution (its absolute value) that lies on the cell as segmented, beside the cell's share of the image.
- deletion: how far the probability of the class falls when the tenth or fifth of the pixels with the highest attribution is
  replaced by the colour of the edge, beside as many pixels at random, and at random of the cell (Petsiuk et al. 2018,
  arXiv 1806.07421, at two points of their curve).
- weights: Spearman's correlation of the maps with those of the same network with random weights, which a map of the image
  alone would survive (Adebayo et al. 2018, arXiv 1810.03292), and with those of a second training, seed 1: of the signed maps,
  smoothed as pictures show them, and of the absolute values of single pixels.

Means with 95 % bootstrap intervals over the images. The table goes to stdout and to benchmarks/results/explanations.md.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy.stats import bootstrap, spearmanr

from balancer.data import PreparedDataset
from balancer.files import write_text
from balancer.imaging.scale import edge_colour
from balancer.imaging.segmentation import segment
from benchmarks.classifiers.study import COMPARED, fitted, prepared
from benchmarks.parts import markdown_table, training_parser
from classifier import training
from classifier.explain import attributions, smoothed
from classifier.models.classifier import Classifier
from classifier.training import TrainingConfig, predict_probabilities
from classifier.transforms import Transform

EACH = 25  # images of a class
SHARES = (0.1, 0.2)  # of the pixels that are deleted
RESULTS = Path(__file__).parent / "results" / "explanations.md"
Row = tuple[str, str, str]


def untrained(data: PreparedDataset, transform: Transform) -> Classifier:
    """The same network with the weights that a training begins with."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return training.build(
            TrainingConfig(arch=COMPARED).resolved(), len(data.classes), data.resolution, transform
        ).eval()


def recognised(model: Classifier, data: PreparedDataset) -> np.ndarray:
    """Indices of the first `EACH` test images of every class that the network gets right."""
    labels = data.labels("test")
    right = predict_probabilities(model, data.images("test")).argmax(1) == labels
    return np.concatenate([np.flatnonzero(right & (labels == k))[:EACH] for k in range(len(data.classes))])


def deleted(images: np.ndarray, order: np.ndarray, share: float) -> np.ndarray:
    """Images (uint8 N×R×R×3) of which the first `share` of the pixels, by `order` (int N×R²), has the colour of the edge."""
    n, side = len(images), images.shape[1]
    flat = images.reshape(n, -1, 3).copy()
    for pixels, image, chosen in zip(flat, images, order[:, : round(share * side * side)], strict=True):
        pixels[chosen] = edge_colour(image)
    return flat.reshape(images.shape)


def shown(maps: np.ndarray) -> np.ndarray:
    """Maps (float N×R²) as pictures show them."""
    side = round(maps.shape[1] ** 0.5)
    return np.stack([smoothed(values.reshape(side, side)).ravel() for values in maps])


def interval(values: np.ndarray) -> str:
    """Mean and 95 % interval."""
    ci = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    return f"{values.mean():.2f} ({ci.low:.2f} to {ci.high:.2f})"


def table(data: PreparedDataset, steps: int) -> str:
    """The table in Markdown."""
    model, other = (fitted(data, steps, seed, arch=COMPARED).model for seed in (0, 1))
    rows = recognised(model, data)
    images, targets = data.images("test")[rows], data.labels("test")[rows]
    seen = model.transform.prepare(images)
    signed = attributions(model, seen, targets).reshape(len(rows), -1)
    strength = np.abs(signed)
    cells = np.stack([found.mask > 0 for found in segment(images)]).reshape(len(rows), -1)

    rng = np.random.default_rng(0)
    chance = rng.random(signed.shape)
    orders = {
        "of the highest attribution": np.argsort(-signed, axis=1),
        "at random": np.argsort(chance, axis=1),
        "at random, of the cell first": np.argsort(chance - cells, axis=1),
    }
    index = np.arange(len(rows))
    before = predict_probabilities(model, images)[index, targets]
    result: list[Row] = [
        (
            "cell",
            "share of the attribution on the cell",
            interval((strength * cells).sum(1) / strength.sum(1)),
        ),
        ("cell", "share of the image that is cell", interval(cells.mean(1))),
    ]
    for share in SHARES:
        for which, order in orders.items():
            after = predict_probabilities(model, deleted(images, order, share))[index, targets]
            what = f"loss of probability without {share:.0%} of the pixels, {which}"
            result.append(("deletion", what, interval(before - after)))
    for what, against in (
        ("with random weights", untrained(data, model.transform)),
        ("with a second training", other),
    ):
        maps = attributions(against, seen, targets).reshape(signed.shape)
        for which, ours, theirs in (
            ("pictures", shown(signed), shown(maps)),
            ("absolute maps", strength, np.abs(maps)),
        ):
            alike = np.array([spearmanr(a, b).statistic for a, b in zip(ours, theirs, strict=True)])
            result.append(("weights", f"correlation of the {which} {what}", interval(alike)))
    return (
        f"{markdown_table(('check', 'figure', 'mean (95 % interval)'), result)}\n\n"
        f"`python -m benchmarks.explanations --steps {steps}`: `{COMPARED}` trained on PBC at {data.resolution} px, "
        f"{len(rows)} test images that it gets right."
    )


def main() -> None:
    options = training_parser("benchmarks.explanations", __doc__, 600).parse_args()
    with tempfile.TemporaryDirectory() as aside:
        data = prepared(options.sets.resolve(), options.out or Path(aside), "pbc")
        text = f"# What explanations show, measured\n\n{table(data, options.steps)}\n"
    write_text(RESULTS, text)
    print(text)


if __name__ == "__main__":
    main()
