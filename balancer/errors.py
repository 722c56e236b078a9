"""The error that speaks to the user."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Wrong input or usage. Its message is a sentence: what is wrong, with which file, what to do.

    The command line prints it without a traceback and exits with code 2.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that does not exist: the known names listed, the nearest suggested.

    >>> print(unknown_name("class", "basofil", ["basophil", "monocyte"]))
    There is no class 'basofil'; known: basophil, monocyte. Did you mean 'basophil'?
    """
    known = list(known)
    by_lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    hint = f" Did you mean '{by_lower[near[0]]}'?" if near else ""
    return InputError(f"There is no {kind} '{name}'; known: {', '.join(known) or 'none'}.{hint}")
