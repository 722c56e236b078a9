"""What a trained classifier is, was trained on and is worth, in words for whoever is to use it: MODEL_CARD.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from balancer.data import PreparedDataset
from balancer.pages import templates
from classifier.calibration import UNSEEN_SHARE
from classifier.training import ENOUGH_TO_SELECT, selects

ROUGH_BELOW = 100  # validation images, by which a temperature and the 0.99 quantile of unlikeness are rough
FEW = 30  # test images of a class, below which its figures are rough


def model_card(
    config: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    validation: Mapping[str, float],
    data: PreparedDataset,
) -> str:
    """The card as Markdown, filled from a run's config.json and evaluation.json and the metrics of its best step."""
    environment = templates("classifier")
    environment.autoescape = False  # Markdown, read as text
    rows = [
        {
            "label": label,
            "train": config["data"]["counts"][label],
            "validation": data.counts("validation")[label],
            "synthetic": sum(images["counts"].get(label, 0) for images in config["synthetic"]),
            "few": (figures["images"] or 0) < FEW,
        }
        | figures
        for label, figures in evaluation["per_class"].items()
    ]
    return environment.get_template("model_card.md.j2").render(
        config=config,
        evaluation=evaluation,
        validation=validation,
        licence=data.info.get("licence"),
        rows=rows,
        few=FEW,
        calibrated_on=sum(data.counts("validation").values()),
        rough_below=ROUGH_BELOW,
        selected=selects(
            config["training"]["head"],
            [row["validation"] for row in rows if row["train"] or row["synthetic"]],
        ),
        enough=ENOUGH_TO_SELECT,
        unseen_share=UNSEEN_SHARE,
        most_confused=_most_confused(evaluation["confusion"]),
        patients=any("patient_id" in table for table in data.tables.values()),
    )


def _most_confused(confusion: Mapping[str, Any]) -> list[tuple[int, str, str]]:
    """The three largest entries beside the diagonal: number of images, true class, predicted class."""
    matrix = np.array(confusion["matrix"])
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:3]
    classes = confusion["classes"]
    cells = [divmod(int(k), len(classes)) for k in order]
    return [(int(matrix[i, j]), classes[i], classes[j]) for i, j in cells if matrix[i, j]]
