"""Official StyleGAN2-ADA pickles as generator runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from balancer.files import new_directory, refuse_existing, write_json, write_with
from balancer.generators import registry
from balancer.generators.checkpoints import save_tensors
from balancer.generators.run import COLUMNS, sample_classes, sample_sheet
from balancer.generators.transfer import read_pickle
from balancer.progress import note


def import_checkpoint(
    path: Path, out: Path, *, overwrite: bool = False, classes: Sequence[str] | None = None
) -> Path:
    """Write an official `network-snapshot.pkl` as a generator run at `out`; nothing from the file is executed.

    The run has config.json, generator.safetensors, discriminator.safetensors (where the file has a discriminator of
    the paper's architecture) and a sheet of samples. It has no seen.csv, no optimizers and no data: what such
    networks have seen is unknown, so they can be sampled and trained from (`balancer train --init`), but not resumed.
    `classes` names the classes in the order of the file; they are class-0, class-1 … otherwise.

    Raises InputError as `read_pickle` does, and when `out` may not be written.
    """
    path, out = Path(path), Path(out)
    refuse_existing(out, overwrite, [path])
    source = read_pickle(path, classes)
    origin = {"path": source.path, "sha256": source.sha256}
    data = {"path": "unknown", "fingerprint": None, "source": "unknown"}
    info = source.info | {"data": data, "imported": origin, "step": 0, "kimg": None}
    family = registry.family(source.generator)
    G = family.generator(info["network"]).eval()
    G.load_state_dict(source.weights["G_ema"])
    sheet = sample_sheet(sample_classes(family, G, info, COLUMNS))
    with new_directory(out, overwrite) as run:
        head = {key: info[key] for key in ("classes", "known", "resolution", "data", "imported")}
        write_json(
            run / "config.json", {"format": 1, "kind": "generator", **head, "training": info["config"]}
        )
        save_tensors(run / "generator.safetensors", source.weights["G_ema"], info)
        if "D" in source.weights:
            save_tensors(run / "discriminator.safetensors", source.weights["D"], info)
        (run / "samples").mkdir()
        write_with(run / "samples" / "00000000.png", lambda aside: sheet.save(aside, format="PNG"))
    known = ", ".join(info["classes"]) if info["network"]["c_dim"] else "none"
    note(
        f"{path} makes images of {info['resolution']} px; classes: {known}. What it was trained on is not in the file."
    )
    return out
