"""The two commands, `balancer` and `classifier`: parse, call, print."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from balancer.errors import InputError

EXISTING = click.Path(exists=True, path_type=Path)
FOLDER = click.Path(path_type=Path)


class Group(click.Group):
    """A click group that turns errors for users into a sentence on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        from balancer import console, progress

        progress.install(console.RichDisplay())
        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo(
                "Interrupted: no half output is left; the same command starts again or resumes.", err=True
            )
            ctx.exit(1)
        except OSError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(1)


def out_options(command: Callable) -> Callable:
    """`--out` and `--overwrite`."""
    command = click.option("--overwrite", is_flag=True, help="Replace an output that exists.")(command)
    return click.option(
        "--out", type=FOLDER, metavar="DIR", help="Output folder; new under ./runs by default."
    )(command)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout and nothing else.")
seed_option = click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="Random seed."
)
device_option = click.option(
    "--device", default=None, metavar="NAME", help="cpu, cuda, cuda:1 …  [default: the best]"
)


def print_result(value: dict[str, Any], sentence: str, as_json: bool) -> None:
    click.echo(json.dumps(value, ensure_ascii=False) if as_json else sentence)
