from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from balancer import progress
from balancer.data.attributes import ATTRIBUTES, completed
from balancer.errors import InputError
from classifier.captions import describe
from classifier.endpoints import Endpoint, Failure, Model, _seconds
from classifier.phrases import stated
from classifier.rewriting import _checked, rewrite

CHECKED = (
    "A small, round cell with no vacuoles.",
    {"cell_size": "small", "cell_shape": "round", "cytoplasm_vacuole": "no"},
)
REWORDED = "The round, small cell has no vacuoles."
Answer = Callable[[str, str], tuple[int, bytes]]  # model, caption → status, body


class Server:
    """A real server on this machine that answers as it is told and remembers what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.asked: list[tuple[str, str]] = []
        self.keys: list[str | None] = []
        self.paths: list[str] = []
        self.headers: dict[str, str] = {}  # of every answer
        lock, server = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                model, caption = body["model"], body["messages"][-1]["content"]
                with lock:
                    server.asked.append((model, caption))
                    server.keys.append(self.headers["Authorization"])
                    server.paths.append(self.path)
                status, content = answer(model, caption)
                try:
                    self.send_response(status)
                    for name, value in server.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except (BrokenPipeError, ConnectionResetError):
                    pass

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], Server]]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("classifier.endpoints._BACKOFF", 0.005)
    running: list[Server] = []

    def start(answer: Answer) -> Server:
        running.append(Server(answer))
        return running[-1]

    yield start
    for server in running:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    heard: list[str] = []
    monkeypatch.setattr(progress._display, "note", heard.append, raising=False)
    return heard


def completion(text: Any) -> tuple[int, bytes]:
    return 200, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def drawn(n: int) -> tuple[list[str], list[dict[str, str]]]:
    """n different captions and their attributes."""
    draw = random.Random(0)
    attributes = [
        {name: draw.choice(values) for name, values in ATTRIBUTES.items() if draw.random() < 0.8}
        for _ in range(n)
    ]
    return [describe(known, seed) for seed, known in enumerate(attributes)], attributes


CAPTIONS, KNOWN = drawn(12)
FACTS = dict(zip(CAPTIONS, KNOWN, strict=True))


def reworded(model: str, caption: str) -> str:
    """Other words for the same facts: those of another seed, of each model another."""
    return next(
        text
        for seed in range(1000, 1100)
        if (text := describe(FACTS[caption], seed * (2 if model == "b" else 1))) != caption
        and 0.5 * len(caption) < len(text) < 2 * len(caption)
    )


def good(model: str, caption: str) -> tuple[int, bytes]:
    return completion(reworded(model, caption))


def test_captions_come_back_in_other_words_and_in_their_order(
    serve: Callable[[Answer], Server], tmp_path: Path, notes: list[str]
) -> None:
    def slow_at_first(model: str, caption: str) -> tuple[int, bytes]:
        time.sleep(0.1 if caption == CAPTIONS[0] else 0)
        return good(model, caption)

    server = serve(slow_at_first)
    found = rewrite(CAPTIONS, KNOWN, [Endpoint(server.url, "a")], tmp_path / "sub" / "cache.jsonl", 0)
    assert found == [reworded("a", caption) for caption in CAPTIONS] != CAPTIONS
    assert all(
        stated(new) == {k: {v} for k, v in completed(known).items()}
        for new, known in zip(found, KNOWN, strict=True)
    )
    assert sorted(server.asked) == sorted(("a", caption) for caption in CAPTIONS)
    assert set(server.paths) == {"/v1/chat/completions"} and set(server.keys) == {None}
    assert notes == []


def test_models_take_turns_and_the_seed_picks_the_first(
    serve: Callable[[Answer], Server], tmp_path: Path
) -> None:
    server = serve(good)
    endpoints = [Endpoint(server.url, "a"), Endpoint(server.url + "/", "b")]
    found = rewrite(CAPTIONS, KNOWN, endpoints, tmp_path / "cache", 0)
    assert found == [reworded("ab"[i % 2], caption) for i, caption in enumerate(CAPTIONS)]
    assert set(server.paths) == {"/v1/chat/completions"}
    assert rewrite(CAPTIONS[:1], KNOWN[:1], endpoints, tmp_path / "other", 1) == [reworded("b", CAPTIONS[0])]


def test_what_was_answered_is_not_asked_again_after_a_kill(
    serve: Callable[[Answer], Server], tmp_path: Path
) -> None:
    first, second, cache = serve(good), serve(good), tmp_path / "cache"
    rewrite(CAPTIONS[:7], KNOWN[:7], [Endpoint(first.url, "a")], cache, 0)
    lines = cache.read_bytes().splitlines(keepends=True)[
        :7
    ]  # the answers; what became of the captions comes after
    assert len(lines) == 7
    cache.write_bytes(
        b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2]
    )  # killed while it wrote the last
    lost = json.loads(lines[-1])["answer"]
    for _ in range(2):
        found = rewrite(CAPTIONS, KNOWN, [Endpoint(second.url, "a")], cache, 0)
        assert found == [reworded("a", caption) for caption in CAPTIONS]
        expected = [caption for caption in CAPTIONS[:7] if reworded("a", caption) == lost] + CAPTIONS[7:]
        assert sorted(caption for _, caption in second.asked) == sorted(expected)


def test_a_kill_in_the_first_line_is_survived(serve: Callable[[Answer], Server], tmp_path: Path) -> None:
    server, cache = serve(good), tmp_path / "cache"
    cache.write_bytes(b'{"key": "ab')
    rewrite(CAPTIONS, KNOWN, [Endpoint(server.url, "a")], cache, 0)
    rewrite(CAPTIONS, KNOWN, [Endpoint(server.url, "a")], cache, 0)
    assert len(server.asked) == len(CAPTIONS)


def test_the_same_caption_is_asked_once(serve: Callable[[Answer], Server], tmp_path: Path) -> None:
    server = serve(good)
    found = rewrite(CAPTIONS[:1] * 9, KNOWN[:1] * 9, [Endpoint(server.url, "a")], tmp_path / "cache", 0)
    assert found == [reworded("a", CAPTIONS[0])] * 9 and len(server.asked) == 1


CELL = "A small, round cell with small pink granules and no vacuoles."
CELL_FACTS = {
    "cell_size": "small",
    "cell_shape": "round",
    "cytoplasm_vacuole": "no",
    "granule_type": "small",
    "granule_colour": "pink",
}


@pytest.mark.parametrize(
    "answer",
    [
        "Small pink granules lie in this small and round cell, which has no vacuoles.",
        "The cell is round and small. It contains tiny pink granules but lacks vacuoles.",
        '  "Without vacuoles, this small, circular cell holds fine pink granules."\n',
        "<think>Small. Round.\nPink.</think>\n\nA round, small cell that is free of vacuoles and has small pink granules.",
    ],
)
def test_other_words_for_the_same_facts_are_taken(
    serve: Callable[[Answer], Server], tmp_path: Path, answer: str
) -> None:
    server = serve(lambda model, caption: completion(answer))
    (found,) = rewrite([CELL], [CELL_FACTS], [Endpoint(server.url, "a")], tmp_path / "cache", 0)
    assert found != CELL and found in answer


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "A large, round cell with small pink granules and no vacuoles.",  # changed
        "A small cell with small pink granules and no vacuoles.",  # lost
        "A small, round cell with small pink granules and vacuoles.",  # negated
        "A small, round cell with small pink granules, no vacuoles and a bilobed nucleus.",  # added
        "A small, round neutrophil with small pink granules and no vacuoles.",
        "A small, round cell with small pink granules and no vacuoles, as in leukemia.",
        "A small, round cell, 12 µm across, with small pink granules and no vacuoles.",
        "Sure! A small, round cell with small pink granules and no vacuoles.",
        "A small, round cell.\n\nIt has small pink granules and no vacuoles.",
        "**A small, round cell** with small pink granules and no vacuoles.",
        "A small, round cell with small pink granules and no vacuoles. " + "It lies there. " * 10,
        "A small, round cell with small pink granules and no vacuoles. It progresses slowly.",  # known, not seen
        "A small, round cell with small pink granules, no vacuoles and prominent nucleoli.",  # not understood
        "An immature, small, round cell with small pink granules and no vacuoles.",  # outside the vocabulary
        "A small, round cell with numerous small pink granules and no vacuoles.",
        "A small, round cell with small pink granules, no vacuoles and an eccentric, oval nucleus.",
        "A small, round cell with small pink granules, no vacuoles and a pale nucleus.",
        "A small, round cell with small pink granules, no vacuoles and a blue nucleus.",  # a colour of something else
        "A small, round cell with small pink granules and no vacuoles. The nucleus is not round.",  # denied
        "A small, round cell with small pink granules and no vacuoles. It has no red granules.",
        "A small, round cell with small pink granules, no vacuoles and no nucleus.",
        "A small, round cell that may have small pink granules and has no vacuoles.",
        "Small, round cells with small pink granules and no vacuoles.",
        "A small, round cell with small pink granules in the nucleus and no vacuoles.",
        "The nucleus of the small cell is round. It has small pink granules and no vacuoles.",  # of something else
        "Маленькая круглая клетка.",
        "lorem ipsum dolor sit amet consectetur",
    ],
)
def test_an_answer_with_other_facts_is_not_taken_nor_asked_for_again(
    serve: Callable[[Answer], Server], tmp_path: Path, notes: list[str], answer: str
) -> None:
    server = serve(lambda model, caption: completion(answer))
    for _ in range(2):
        assert rewrite([CELL], [CELL_FACTS], [Endpoint(server.url, "a")], tmp_path / "cache", 0) == [CELL]
    assert len(server.asked) == 1
    assert len(notes) == 2 and "1 caption stays" in notes[0]


VACUOLES = ("The cytoplasm contains vacuoles.", {"cytoplasm_vacuole": "yes"})
NEITHER = (
    "The cytoplasm has neither vacuoles nor granules.",
    {"cytoplasm_vacuole": "no", "granularity": "no"},
)
PINK = ("The cytoplasm contains pink granules.", {"granule_colour": "pink"})
SMALL = (
    "A small cell with a round nucleus.",
    {"cell_size": "small", "nucleus_shape": "unsegmented-round"},
)
LOBES = (
    "The nucleus is multilobed. The cytoplasm is frosted.",
    {"nucleus_shape": "segmented-multilobed", "cytoplasm_texture": "frosted"},
)
RATIO = ("A large cell with a high N:C ratio.", {"cell_size": "big", "nuclear_cytoplasmic_ratio": "high"})
BUT = (
    "A round cell; there are no granules but vacuoles.",
    {"cell_shape": "round", "granularity": "no", "cytoplasm_vacuole": "yes"},
)
BAND = (
    "The small cell has a band-shaped nucleus.",
    {"cell_size": "small", "nucleus_shape": "unsegmented-band"},
)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (NEITHER, "The cytoplasm does not lack vacuoles or granules."),  # denied twice
        (NEITHER, "The cytoplasm is not free of granules or vacuoles."),
        (NEITHER, "Never is the cytoplasm without vacuoles or granules."),
        (NEITHER, "Neither vacuoles nor granules are absent."),
        (NEITHER, "There are no granules, no vacuoles and no nucleus."),
        (NEITHER, "There are no granules and no vacuoles in the nucleus."),
        (VACUOLES, "Vacuoles in the cytoplasm: none."),
        (VACUOLES, "Vacuoles – absent."),
        (VACUOLES, "The cytoplasm, as for vacuoles, has none."),
        (VACUOLES, "The nucleus is vacuolated."),  # of something else
        (VACUOLES, "The cytoplasm is foamy."),
        (PINK, "Of pink granules there are none."),
        (PINK, "The cytoplasm has none of the pink granules."),
        (PINK, "The nucleus carries pink granules."),
        (PINK, "The chromatin is seen here and includes pink granules."),
        (PINK, "Pink granules lie around the nucleus."),
        (PINK, "Pink granules surround the cell."),
        (PINK, "The cytoplasm contains pink 🔴 granules."),
        (PINK, "The cytoplasm contains one pink granule."),
        (SMALL, "A cell as small as its round nucleus."),
        (SMALL, "A cell that is small when its nucleus is round."),
        (SMALL, "A small cell with a round nucleus; it is not."),
        (SMALL, "Is it a small cell with a round nucleus?"),
        (SMALL, "Each small cell has a round nucleus."),
        (SMALL, "A small cell with a round nucleus, and also a nucleus."),
        (SMALL, "A very small cell with a round nucleus."),
        (SMALL, "The cell seems small with a round nucleus."),
        (SMALL, "A small cell with a round nucleus = cell."),
        (SMALL, "A small\u200b cell with a nucleus that is round."),
        (SMALL, "The small cell lacks its round nucleus."),
        (LOBES, "The cytoplasm is multilobed. The nucleus is ground-glass."),
        (LOBES, "The nucleus is hypersegmented. The cytoplasm is frosted."),
        (LOBES, "The nucleus has five lobes. The cytoplasm is frosted."),
        (RATIO, "A large cell; the cytoplasm fills most of the cell."),
        (BAND, "The small cell shows a band of cytoplasm around its nucleus."),
        (BAND, "The cell is small or has a band-shaped nucleus."),  # one of two
        (SMALL, "A small cell in its round nucleus."),
        (SMALL, "A SMALL CELL, with a round nucleus"),  # the caption itself, nearly
        (PINK, "The cytoplasm contains pink nuclear granules."),
        (PINK, "The cytoplasm has traces of pink granules."),
        (NEITHER, "It has no vacuoles or granules, but the nucleus has."),
        (NEITHER, "There are no vacuoles or granules but in the cytoplasm."),
        (BUT, "The nucleus and the cell are round; there are no granules but vacuoles."),  # two at once
        (BUT, "A round cell and nucleus; there are no granules but vacuoles."),
        (BUT, "The cell is round, as is its nucleus; there are no granules but vacuoles."),
        (BUT, "The nucleus has the cell shape, which is round; no granules but vacuoles."),
        (BUT, "The cell is round; there are no granules. In the nucleus: vacuoles."),  # elsewhere
        (BUT, "The cell is round, without granules. There are vacuoles; these lie in the nucleus."),
        (BUT, "The cell is round, without granules. There are vacuoles. The nucleus has these."),
        (BUT, "The cell is round; there are vacuoles and, in the nucleus, no granules."),
        (BUT, "A round cell; no granules but vacuoles. The nucleus lies on the cell outline."),
        (BUT, "A round cell; no granules along the cell outline but vacuoles."),
        (
            BUT,
            "The cell is round; there are no granules but in the cytoplasm, which has vacuoles.",
        ),  # but for
        (BUT, "A round cell without granules but for the cytoplasm with its vacuoles."),
        (BUT, "A round cell; no granules but around the vacuoles."),
        (BUT, "A round cell with vacuoles; no stained granules."),  # of one kind
        (PINK, "Both the nucleus and the cytoplasm contain pink granules."),
        (PINK, "Pink granules lie together in the cytoplasm."),
    ],
)
def test_an_answer_that_says_otherwise_in_disguise_is_not_taken(
    said: tuple[str, dict[str, str]], answer: str
) -> None:
    caption, attributes = said
    assert _checked(answer, caption, completed(attributes)) is None


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (NEITHER, "Vacuoles and granules are absent from the cytoplasm."),
        (NEITHER, "There is no evidence of granules or vacuoles."),
        (VACUOLES, "Vacuoles are seen in the cytoplasm."),
        (BUT, "The cell is round; the cytoplasm has vacuoles but is free of granules."),
        (BUT, "Round cell with vacuoles as well as no granules."),
        (PINK, "The cytoplasm displays granules that are pink."),
        (SMALL, "Under the microscope, this is a small cell; its nucleus is round."),
        (SMALL, "Shown here is a small cell whose nucleus appears round."),
        (LOBES, "The frosted cytoplasm is seen here; the nucleus is multilobed."),
        (RATIO, "The cell is large, and its nucleus fills most of the cell."),
        (BAND, "A small cell; the nucleus is shaped like a band."),
    ],
)
def test_plain_rewordings_are_taken(said: tuple[str, dict[str, str]], answer: str) -> None:
    caption, attributes = said
    assert _checked(answer, caption, completed(attributes)) == answer


CAPTION_OF = {
    "NEI": (
        "The cytoplasm has neither vacuoles nor granules.",
        {"cytoplasm_vacuole": "no", "granularity": "no"},
    ),
    "GR": (
        "A round cell with granules but no vacuoles.",
        {"cell_shape": "round", "granularity": "yes", "cytoplasm_vacuole": "no"},
    ),
    "GNV": (
        "The cytoplasm contains pink granules but no vacuoles.",
        {"granule_colour": "pink", "cytoplasm_vacuole": "no"},
    ),
    "NB": (
        "A cell with a bilobed nucleus and no vacuoles.",
        {"nucleus_shape": "segmented-bilobed", "cytoplasm_vacuole": "no"},
    ),
    "NG2": (
        "A small cell with dense chromatin and no granules.",
        {"cell_size": "small", "chromatin_density": "densely", "granularity": "no"},
    ),
    "GV": (
        "The cytoplasm contains pink granules and vacuoles.",
        {"granule_colour": "pink", "cytoplasm_vacuole": "yes"},
    ),
    "SM": (
        "A small cell with a round nucleus.",
        {"cell_size": "small", "nucleus_shape": "unsegmented-round"},
    ),
    "RC": ("The cell is small and round.", {"cell_size": "small", "cell_shape": "round"}),
    "BI": ("The nucleus is bilobed.", {"nucleus_shape": "segmented-bilobed"}),
    "BIG": ("This is a big blood cell with no granules.", {"cell_size": "big", "granularity": "no"}),
}


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("NEI", "The cytoplasm has no vacuoles and has granules."),
        ("NEI", "The cytoplasm has no granules and contains vacuoles."),
        ("NEI", "The cytoplasm lacks vacuoles and holds granules."),
        ("NEI", "The cytoplasm is free of vacuoles and has granules."),
        ("NEI", "The cytoplasm does not have vacuoles and has granules."),
        ("NEI", "In the cytoplasm there are no vacuoles and there are granules."),
        ("NEI", "No granules are seen and vacuoles are present in the cytoplasm."),
        ("NEI", "The cytoplasm has no granules and some vacuoles."),
        ("NEI", "The cytoplasm has no granules yet vacuoles."),
        ("NEI", "The cytoplasm has no vacuoles and visible granules."),
        ("NEI", "The cytoplasm is not granular and vacuolated."),
        ("GNV", "The cytoplasm is free of vacuoles and pink granules."),
        ("GNV", "The cytoplasm is without vacuoles and pink granules."),
        ("GNV", "The cytoplasm does not contain vacuoles and pink granules."),
        ("NB", "A cell without vacuoles and a bilobed nucleus."),
        ("NB", "A cell with no vacuoles or bilobed nucleus."),
        ("NB", "A cell without vacuoles or a bilobed nucleus."),
        ("NB", "A cell lacking vacuoles and a bilobed nucleus."),
        ("NB", "The cell does not have vacuoles and a bilobed nucleus."),
        ("NG2", "The small cell lacks granules and dense chromatin."),
        ("NG2", "A small cell without granules or dense chromatin."),
        ("NG2", "A small cell devoid of granules and of dense chromatin."),
        ("GR", "Vacuoles are missing from the round cell, as well as granules."),
        ("GR", "Vacuoles are absent from the round cell, also granules."),
        ("GR", "Vacuoles are absent from the round cell, granules as well."),
        ("GR", "There are no vacuoles in the round cell or granules."),
        ("GR", "The round cell has no vacuoles in its cytoplasm and granules."),
        ("GR", "A round cell without vacuoles or the granules."),
        ("GR", "A round cell without vacuoles and its granules."),
        ("GR", "Vacuoles are absent from the round cell and granules."),
        ("NEI", "The cytoplasm has no vacuoles without granules."),
        ("NEI", "No vacuoles lack granules in the cytoplasm."),
        ("NEI", "The cytoplasm has no granules without vacuoles."),
        ("NEI", "The cytoplasm has no vacuoles in which granules are absent."),
        ("BIG", "This big blood cell contains granules not visible here."),
        ("BIG", "A big blood cell with no granules that are stained."),
        ("BIG", "A big blood cell with no granules stained."),
        ("NEI", "Neither vacuoles nor granules are stained in the cytoplasm."),
        ("GNV", "The cytoplasm contains pink granules; the vacuoles are not cytoplasmic."),
        ("BI", "The nucleus is bilobed and unsegmented."),
        ("BI", "The nucleus has one lobe and is bilobed."),
        ("RC", "The nucleus is seen; it is small and round."),
        ("RC", "This is its nucleus. It is small and round."),
        ("RC", "The cytoplasm. It is small and round."),
        ("RC", "The cell is small and round; the nucleus as well."),
        ("RC", "The cell is small and round, as well as its nucleus."),
        ("RC", "A small, round cell as well as nucleus."),
        ("RC", "The cell is a little round."),
        ("RC", "The cell is small and about round."),
        ("RC", "A small, round cell nucleus."),
        ("RC", "The small cell is there, round its nucleus."),
        ("GV", "The cytoplasm's vacuoles contain pink granules."),
        ("GV", "The cytoplasm has pink granules with vacuoles."),
        ("GV", "Pink granules is vacuoles of the cytoplasm."),
        ("GNV", "The cytoplasm contains pink granules which are free of vacuoles."),
        ("SM", "The small cell is a round nucleus."),
        ("SM", "The small cell lies under its round nucleus."),
        ("SM", "Where the cell is small, the nucleus is round."),
        ("SM", "Such a small cell has a round nucleus."),
        ("SM", "Which small cell has a round nucleus."),
        ("NEI", "The cytoplasm has no vacuoles and no granules yet."),
        ("GV", "The cytoplasm contains pink granules and a vacuole."),
    ],
)
def test_what_common_english_may_mean_otherwise_is_not_taken(said: str, answer: str) -> None:
    caption, attributes = CAPTION_OF[said]
    assert _checked(answer, caption, completed(attributes)) is None


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("NEI", "The cytoplasm has no vacuoles and no granules."),
        ("NEI", "No vacuoles and no granules are seen in the cytoplasm."),
        ("NEI", "The cytoplasm contains no granules and no vacuoles."),
        ("NEI", "There are neither granules nor vacuoles in the cytoplasm."),
        ("NEI", "The cytoplasm lacks vacuoles and granules."),
        ("GR", "A round cell that has granules but no vacuoles."),
        ("GR", "The cell is round. It has granules but lacks vacuoles."),
        ("GR", "The round cell contains no vacuoles and contains granules."),
        ("GR", "The cell is round, with granules and without vacuoles."),
        ("GNV", "The cytoplasm has no vacuoles but contains pink granules."),
        ("GNV", "Pink granules are seen in the cytoplasm; there are no vacuoles."),
        ("GNV", "In the cytoplasm there are pink granules but no vacuoles."),
        ("NB", "The nucleus of the cell is bilobed; there are no vacuoles."),
        ("NB", "A cell with no vacuoles and with a bilobed nucleus."),
        ("NB", "A cell that has no vacuoles; its nucleus is bilobed."),
        ("NG2", "A small cell without granules; its chromatin is dense."),
        ("NG2", "The cell is small, has no granules, and its chromatin is dense."),
        ("SM", "The cell is small and its nucleus is round."),
        ("SM", "A small cell, the nucleus of which is round."),
        ("RC", "A round, small cell."),
        ("RC", "This cell is round and small."),
        ("BIG", "A big blood cell without any granules."),
        ("GV", "Pink granules and vacuoles are seen in the cytoplasm."),
        ("GV", "The cytoplasm holds vacuoles and pink granules."),
    ],
)
def test_common_english_for_the_same_is_taken(said: str, answer: str) -> None:
    caption, attributes = CAPTION_OF[said]
    assert _checked(answer, caption, completed(attributes)) == answer


def test_an_echo_is_no_rewriting_and_the_note_says_why_captions_stay(
    serve: Callable[[Answer], Server], tmp_path: Path, notes: list[str]
) -> None:
    answers = {
        CAPTIONS[0]: CAPTIONS[0],
        CAPTIONS[1]: CAPTIONS[1] + " It is eccentric.",
        CAPTIONS[2]: "A cell.",
    }
    server = serve(lambda model, caption: completion(answers[caption]))
    for _ in range(2):
        assert (
            rewrite(CAPTIONS[:3], KNOWN[:3], [Endpoint(server.url, "a")], tmp_path / "cache", 0)
            == CAPTIONS[:3]
        )
    assert notes[0] == notes[1]
    assert "3 captions stay" in notes[0] and "the caption itself (1)" in notes[0]
    assert "more is said: 'eccentric' (1)" in notes[0] and "much longer or shorter (1)" in notes[0]


def test_nothing_to_rewrite_asks_nobody(serve: Callable[[Answer], Server], tmp_path: Path) -> None:
    server = serve(lambda model, caption: completion(caption))
    assert rewrite([], [], [Endpoint(server.url, "a")], tmp_path / "cache", 0) == []
    assert (
        rewrite(CAPTIONS[:1], KNOWN[:1], [Endpoint(server.url, "a")], tmp_path / "cache", 0) == CAPTIONS[:1]
    )
    kept = (tmp_path / "cache").read_text().splitlines()
    (tmp_path / "cache").write_text(kept[1] + "\n")  # what became of it, without the answer
    assert (
        rewrite(CAPTIONS[:1], KNOWN[:1], [Endpoint(server.url, "a")], tmp_path / "cache", 0) == CAPTIONS[:1]
    )
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "when",
    [
        "0",
        "120",
        "Wed, 21 Oct 2015 07:28:00 GMT",
        "Fri, 31 Dec 2100 23:59:59 GMT",
    ],
)
def test_an_endpoint_that_asks_to_wait_is_asked_later(
    when: str,
    serve: Callable[[Answer], Server],
    tmp_path: Path,
    notes: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turned_away: list[str] = []

    def busy(model: str, caption: str) -> tuple[int, bytes]:
        if len(turned_away) < 30:
            turned_away.append(caption)
            return 429, b"slow down"
        return good(model, caption)

    server = serve(busy)
    server.headers = {"Retry-After": when}
    monkeypatch.setattr("classifier.endpoints._LONGEST_WAIT", 0.01)
    found = rewrite(CAPTIONS, KNOWN, [Endpoint(server.url, "a")], tmp_path / "cache", 0)
    assert found == [reworded("a", caption) for caption in CAPTIONS]
    assert len(notes) == 1 and "asks to wait" in notes[0]


@pytest.mark.parametrize("when", ["soon", "Wed, 21 Oct 2015 07:28:00 +99999999999999", "-1"])
def test_a_time_to_wait_that_is_none_is_no_time(when: str) -> None:
    assert _seconds(when) is None


def test_an_endpoint_that_always_asks_to_wait_is_given_up(
    serve: Callable[[Answer], Server], tmp_path: Path
) -> None:
    server = serve(lambda model, caption: (429, b"slow down"))
    server.headers = {"Retry-After": "0"}
    with pytest.raises(InputError, match=r"status 429 \(slow down\)"):
        rewrite(CAPTIONS, KNOWN, [Endpoint(server.url, "a")], tmp_path / "cache", 0)


def test_where_no_caption_is_answered_none_is_kept(serve: Callable[[Answer], Server], tmp_path: Path) -> None:
    bad, server = serve(NONSENSE["errs"]), serve(good)
    with pytest.raises(InputError, match="No endpoint answers any more"):
        rewrite(CAPTIONS[:1], KNOWN[:1], [Endpoint(bad.url, "a")], tmp_path / "cache", 0)
    found = rewrite(CAPTIONS[:1], KNOWN[:1], [Endpoint(server.url, "a")], tmp_path / "cache", 0)
    assert found == [reworded("a", CAPTIONS[0])]


@pytest.mark.parametrize("host", ["x" * 64 + ".org", "...."])
def test_a_host_that_none_can_be_is_told_at_once(host: str, tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(InputError, match="cannot be reached"):
        rewrite(CAPTIONS[:1], KNOWN[:1], [Endpoint(f"http://{host}/v1", "a")], tmp_path / "cache", 0)
    assert time.monotonic() - start < 10


def test_a_cache_that_cannot_be_written_is_told(serve: Callable[[Answer], Server], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/cache cannot be written"):
        rewrite(CAPTIONS, KNOWN, [Endpoint(serve(good).url, "a")], tmp_path / "file" / "cache", 0)


def test_the_next_model_is_asked_where_one_changes_facts(
    serve: Callable[[Answer], Server], tmp_path: Path, notes: list[str]
) -> None:
    bad = serve(lambda model, caption: completion("A cell with a U-shaped nucleus."))
    server = serve(good)
    endpoints = [Endpoint(bad.url, "bad"), Endpoint(server.url, "a")]
    assert rewrite(CAPTIONS, KNOWN, endpoints, tmp_path / "cache", 0) == [reworded("a", c) for c in CAPTIONS]
    assert len(bad.asked) == len(CAPTIONS) // 2 and notes == []


NONSENSE: dict[str, Answer] = {
    "errs": lambda model, caption: (500, b"out of memory"),
    "html": lambda model, caption: (200, b"<html>Welcome</html>"),
    "no choice": lambda model, caption: (200, b'{"choices": []}'),
    "null": lambda model, caption: completion(None),
    "list": lambda model, caption: (200, b"[1]"),
    "bytes": lambda model, caption: (200, b"\xff\xfe\x00"),
}
SAID = {"errs": "status 500 (out of memory)", "html": "(<html>Welcome</html>)"}


@pytest.mark.parametrize("kind", NONSENSE)
def test_an_endpoint_that_errs_is_given_up(
    serve: Callable[[Answer], Server], tmp_path: Path, notes: list[str], kind: str
) -> None:
    server = serve(NONSENSE[kind])
    with pytest.raises(InputError, match="No endpoint answers any more") as error:
        rewrite(CAPTIONS, KNOWN, [Endpoint(server.url, "a")], tmp_path / "cache", 0)
    assert SAID.get(kind, "something else than a chat completion") in str(error.value)
    assert server.url in str(error.value)
    # 3 tries for each of 3 captions, and of those that the other three threads had begun.
    assert 9 <= len(server.asked) <= 18 < 3 * len(CAPTIONS)
    assert len(notes) == 1 and "given up" in notes[0]


def test_the_others_go_on_without_it(
    serve: Callable[[Answer], Server], tmp_path: Path, notes: list[str]
) -> None:
    bad, server = serve(NONSENSE["errs"]), serve(good)
    endpoints = [Endpoint(bad.url, "bad"), Endpoint(server.url, "a")]
    assert rewrite(CAPTIONS, KNOWN, endpoints, tmp_path / "cache", 0) == [reworded("a", c) for c in CAPTIONS]
    assert len(notes) == 1 and "bad at" in notes[0]


def test_an_error_now_and_then_is_tried_again(
    serve: Callable[[Answer], Server], tmp_path: Path, notes: list[str]
) -> None:
    seen: set[str] = set()

    def second_time(model: str, caption: str) -> tuple[int, bytes]:
        if caption in seen:
            return good(model, caption)
        seen.add(caption)
        return 503, b""

    server = serve(second_time)
    found = rewrite(CAPTIONS, KNOWN, [Endpoint(server.url, "a")], tmp_path / "cache", 0)
    assert found == [reworded("a", caption) for caption in CAPTIONS]
    assert len(server.asked) == 2 * len(CAPTIONS) and notes == []


def test_what_became_of_the_captions_stays_whatever_the_endpoints_do_later(
    serve: Callable[[Answer], Server], tmp_path: Path, notes: list[str]
) -> None:
    def bad(model: str, caption: str) -> tuple[int, bytes]:
        return (400, b"") if caption in CAPTIONS[::6] else good(model, caption)

    first, later = serve(bad), serve(good)
    found = rewrite(CAPTIONS, KNOWN, [Endpoint(first.url, "a")], tmp_path / "cache", 0)
    assert [new == old for new, old in zip(found, CAPTIONS, strict=True)] == [
        i % 6 == 0 for i in range(len(found))
    ]
    assert rewrite(CAPTIONS, KNOWN, [Endpoint(later.url, "a")], tmp_path / "cache", 0) == found
    assert later.asked == [] and notes[0] == notes[1]
    again = rewrite(CAPTIONS, KNOWN, [Endpoint(later.url, "b")], tmp_path / "cache", 0)
    assert again == [reworded("b", caption) for caption in CAPTIONS]


def test_an_endpoint_that_hangs_is_given_up(serve: Callable[[Answer], Server], tmp_path: Path) -> None:
    release = threading.Event()

    def hang(model: str, caption: str) -> tuple[int, bytes]:
        release.wait(5)
        return 500, b""

    server = serve(hang)
    start = time.monotonic()
    try:
        with pytest.raises(InputError, match="did not answer within 0.05 s"):
            rewrite(CAPTIONS, KNOWN, [Endpoint(server.url, "a", timeout=0.05)], tmp_path / "cache", 0)
        assert time.monotonic() - start < 4
    finally:
        release.set()


def test_nobody_waits_for_an_endpoint_once_the_work_has_ended(serve: Callable[[Answer], Server]) -> None:
    release = threading.Event()

    def hang(model: str, caption: str) -> tuple[int, bytes]:
        release.wait(20)
        return 500, b""

    with httpx2.Client() as client:
        model = Model(Endpoint(serve(hang).url, "a", timeout=20), client, "")
        threading.Timer(0.1, model.stop.set).start()
        start = time.monotonic()
        try:
            with pytest.raises(Failure):
                model.ask("a cell")
            assert time.monotonic() - start < 10
        finally:
            release.set()


def test_an_answer_of_endless_thoughts_is_refused_at_once() -> None:
    start = time.monotonic()
    assert _checked("<think>" * 140_000, *CHECKED) is None
    assert _checked(f"<think>{'<think> ' * 100_000}</think>{REWORDED}", *CHECKED) == REWORDED
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "answer",
    [
        "The image is small and round. The cell has no vacuoles.",
        "This picture is small: a round cell without vacuoles.",
        "Here and there the small, round cell has no vacuoles.",
        "On the whole, a small, round cell without vacuoles.",
        "The cell has to be small and round, without vacuoles.",
    ],
)
def test_what_is_said_of_the_image_or_not_for_certain_is_refused(answer: str) -> None:
    assert _checked(answer, *CHECKED) is None


@pytest.mark.parametrize(
    "opening", ["The image shows", "This picture displays", "In this image, there is", "Shown here is"]
)
def test_an_image_may_show_the_cell(opening: str) -> None:
    answer = f"{opening} a round, small cell without vacuoles."
    assert _checked(answer, *CHECKED) == answer


@pytest.mark.parametrize("begun", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "])
def test_an_endpoint_that_drips_is_given_up(
    tmp_path: Path, serve: Callable[[Answer], Server], begun: bytes
) -> None:
    server = serve(good)

    def drip(self: BaseHTTPRequestHandler) -> None:
        self.wfile.write(begun)  # the body comes slowly, or the headers do
        try:
            for _ in range(200):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.02)
        except (BrokenPipeError, ConnectionResetError):
            pass

    server.http.RequestHandlerClass.do_POST = drip  # type: ignore[attr-defined]
    start = time.monotonic()
    with pytest.raises(InputError, match="did not answer within 0.1 s"):
        rewrite(CAPTIONS[:3], KNOWN[:3], [Endpoint(server.url, "a", timeout=0.1)], tmp_path / "cache", 0)
    assert time.monotonic() - start < 3


def test_an_endpoint_that_is_not_there_is_told(serve: Callable[[Answer], Server], tmp_path: Path) -> None:
    server = serve(good)
    server.http.server_close()
    with pytest.raises(InputError, match="cannot be reached"):
        rewrite(CAPTIONS, KNOWN, [Endpoint(server.url, "a", timeout=0.2)], tmp_path / "cache", 0)


def test_the_key_is_sent_and_neither_told_nor_kept(
    serve: Callable[[Answer], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes: list[str]
) -> None:
    monkeypatch.setenv("SOME_KEY", "very-secret")
    server = serve(good)
    url = server.url.replace("http://", "http://user:pass-secret@")
    endpoint = Endpoint(server.url, "a", "SOME_KEY")
    rewrite(CAPTIONS, KNOWN, [endpoint], tmp_path / "cache", 0)
    assert set(server.keys) == {"Bearer very-secret"}
    refusing = serve(lambda model, caption: (401, b"wrong key very-secret"))
    with pytest.raises(InputError, match="status 401") as error:
        rewrite(CAPTIONS, KNOWN, [Endpoint(refusing.url, "b", "SOME_KEY")], tmp_path / "cache", 0)
    told = (
        str(error.value)
        + "".join(notes)
        + (tmp_path / "cache").read_text()
        + repr(endpoint)
        + Endpoint(url, "a").name
    )
    assert "secret" not in told
    monkeypatch.setenv("SOME_KEY", "very/secret+1")
    for i, form in enumerate(("very/secret+1", r"very\/secret+1", "very/secret%2B1", "very%2Fsecret%2B1")):
        telling = serve(lambda model, caption, form=form: completion(f"A cell with the key {form}."))
        kept = tmp_path / f"cache{i}"
        rewrite(CAPTIONS[:4], KNOWN[:4], [Endpoint(telling.url, "c", "SOME_KEY")], kept, 0)
        telling = serve(lambda model, caption, form=form: (400, f"the key {form} is wrong".encode()))
        with pytest.raises(InputError, match="the key … is wrong") as error:
            rewrite(CAPTIONS[4:], KNOWN[4:], [Endpoint(telling.url, "d", "SOME_KEY")], kept, 0)
        assert "secret" not in kept.read_text() + str(error.value) + "".join(notes)
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(InputError, match="SOME_KEY holds no key"):
        rewrite(CAPTIONS, KNOWN, [endpoint], tmp_path / "cache", 0)


def test_other_mistakes_are_refused(tmp_path: Path) -> None:
    endpoint = Endpoint("http://localhost/v1", "a")
    with pytest.raises(InputError, match="no endpoint"):
        rewrite(CAPTIONS, KNOWN, [], tmp_path / "cache", 0)
    with pytest.raises(InputError, match="12 captions and attributes of 1"):
        rewrite(CAPTIONS, KNOWN[:1], [endpoint], tmp_path / "cache", 0)
    (tmp_path / "table.csv").write_text("label,sentence\n")
    with pytest.raises(InputError, match="table.csv is no cache"):
        rewrite(CAPTIONS, KNOWN, [endpoint], tmp_path / "table.csv", 0)
    assert (tmp_path / "table.csv").read_text() == "label,sentence\n"
    with pytest.raises(InputError, match="cannot be written"):
        rewrite(CAPTIONS, KNOWN, [endpoint], tmp_path, 0)
