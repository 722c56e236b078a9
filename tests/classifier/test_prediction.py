from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from balancer import smear
from balancer.data import PreparedDataset, expand_paths, prepare
from classifier import prediction
from classifier.checkpoints import load_run
from classifier.prediction import predict_files
from classifier.runs import train_run
from classifier.training import TrainingConfig

QUICK = TrainingConfig(arch="resnet18", steps=4, batch_size=16, evaluations=1)


def test_deep_files_are_predicted_as_they_were_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    smear.write_source(source, {"lymphocyte": 20, "neutrophil": 20}, 40, seed=0)
    for i, path in enumerate(sorted(source.rglob("*.png"))):
        if "masks" not in path.parts:
            pixels = np.asarray(Image.open(path)).astype(np.uint16) * (4 + i % 9)  # each of a brightness
            tifffile.imwrite(path.with_suffix(".tif"), pixels, photometric="rgb")
            path.unlink()
    (source / "metadata.csv").write_text((source / "metadata.csv").read_text().replace(".png", ".tif"))
    prepare(source, tmp_path / "data", resolution=32)
    data = PreparedDataset.load(tmp_path / "data")
    run = load_run(train_run(data, [], QUICK, tmp_path / "run"))
    assert run.config["white_level"] == data.info["white_level"] > 1000

    expected = pd.read_csv(run.root / "predictions.csv")[[f"p_{label}" for label in data.classes]].to_numpy()
    files = [source / name for name in data.tables["test"]["source_file"]]
    answers = [list(line["probabilities"].values()) for line in predict_files(run, files)]
    assert np.abs(np.array(answers) - expected).max() < 1e-6

    notes: list[str] = []
    monkeypatch.setattr(prediction, "note", notes.append)
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("a.tif", "b.tif"):
        (folder / name).symlink_to(files[0] if name == "a.tif" else tmp_path / "gone.tif")
    assert len(list(predict_files(run, expand_paths([folder])))) == 1
    assert any(one.startswith("Left out:") and "b.tif is a link that leads nowhere" in one for one in notes)
