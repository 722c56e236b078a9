"""Captions in other words, by language models behind OpenAI-compatible endpoints, without a change of facts.

Everything that a model answers is checked against the attributes of the caption; what fails is not used. Every answer is
kept in a file, so that none is asked for twice.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import queue
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
from filelock import FileLock

from balancer.data.attributes import completed
from balancer.data.wording import number
from balancer.errors import InputError
from balancer.progress import note, track
from classifier.phrases import stated, unsaid
from classifier.sentences import check_text

PROMPT = (
    "You rewrite short descriptions of a single blood cell under the microscope. Answer with the new description alone: one to "
    "three plain English sentences, one paragraph, no title, no list, no quotation marks. Keep every fact and every number, "
    "add none and leave none out. Change the order and the construction of the sentences; for the features themselves "
    "keep the words given. Never name a type of cell, a disease or a diagnosis, and do not judge or explain."
)
_TRIES = 3  # for a caption, of an endpoint that errs
_GIVEN_UP = 3  # captions in a row for which an endpoint erred
_BACKOFF = 0.5  # seconds before the second try, twice as many before the third
_THREADS = 4
_PATIENCE = 20  # times that an endpoint may ask to wait, for a caption
_LONGEST_WAIT = 60.0  # seconds
_MOST_BYTES = 2**20  # of an answer
_REASONS = 3  # that a note gives
_SECRET = 8  # characters of a key from which it is one
_SHORTEST, _LONGEST = 0.4, 2.5  # a new sentence, in lengths of the caption

# Names of classes and diseases, and of what is more than "a blood cell".
_NAMES = re.compile(
    r"\b(neutrophils?|eosinophils?|basophils?|monocyt\w*|\w*lympho\w*|\w*blasts?|platelets?|thrombocyt\w*|\w*granulocyt\w*|"
    r"\w*myel\w*|ha?ematogones?|\w*leuka?em\w*|leu[ck]ocyt\w*|white (blood )?cells?|cancer\w*|tumou?r\w*|malignan\w*|benign|"
    r"neoplas\w*|diseases?|disorders?|patients?|diagnos\w*|health\w*|normal|abnormal|infect\w*|aml|cll|cml|acute|chronic)\b",
    re.IGNORECASE,
)
# What is no description: markup, and talk about the task.
_TALK = re.compile(
    r"^here(?:['’]s| is)\b|\b(rewrit\w*|rephras\w*|description|caption|sure|certainly|sorry|as an ai)\b",
    re.I,
)


# Words that state nothing, beside those by which attributes are stated.
_PLAIN = frozenset(
    (
        "lie",
        "lies",
        "lying",
        "sit",
        "sits",
        "sitting",
        "rest",
        "rests",
        "together",
        "alongside",
        "about",
        "along",
        "through",
    )
    + (
        "image",
        "picture",
        "view",
        "under",
        "microscope",
        "shown",
        "here",
        "well",
        "whole",
        "entire",
        "itself",
    )
    + ("whereas", "although", "though")
)
# Letters, numbers and marks of plain sentences; another mark may say what no word does.
_MARKS = re.compile(r"[A-Za-z0-9µμ .,;:'’\"“”()/%‐‑–—-]*")


@dataclass(frozen=True)
class Endpoint:
    """A model behind an OpenAI-compatible endpoint.

    `url`: what stands before /chat/completions, as in http://localhost:8000/v1; `key_variable`: the environment variable
    that holds the key, None where none is needed; `timeout`: seconds that a whole answer may take. Raises InputError for a
    URL that is none, an empty model and a timeout that is no positive number.
    """

    url: str
    model: str
    key_variable: str | None = None
    timeout: float = 30.0

    def __post_init__(self) -> None:
        try:
            parts = httpx2.URL(self.url)
        except httpx2.InvalidURL:
            parts = httpx2.URL()
        if parts.scheme not in ("http", "https") or not parts.host:
            raise InputError("The endpoint's URL is none; give one like http://localhost:8000/v1.")
        if not self.model.strip():
            raise InputError(f"No model is named for {self.place}; name one that the endpoint serves.")
        if not 0 < self.timeout < float("inf"):
            raise InputError(f"The timeout of {self.timeout:g} s for {self.place} is none; give 30.")

    @property
    def place(self) -> str:
        """The URL without user, password and query, in which keys may stand."""
        return str(httpx2.URL(self.url).copy_with(username="", password="", query=None, fragment=None))

    @property
    def name(self) -> str:
        """Model and place, for notes."""
        return f"{self.model} at {self.place}"

    def key(self) -> str | None:
        """The key; InputError where its variable is not set or cannot be sent."""
        if self.key_variable is None:
            return None
        key = os.environ.get(self.key_variable, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise InputError(
                f"The environment variable {self.key_variable} holds no key for {self.place}; set it, or leave it out where the "
                "endpoint needs none."
            )
        return key


class _Failure(Exception):
    """An endpoint did not give an answer; the message says what it did instead. `wait`: seconds that it asks to wait for."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


def rewrite(
    captions: Sequence[str],
    attributes: Sequence[Mapping[str, str]],
    endpoints: Sequence[Endpoint],
    cache: Path,
    seed: int,
) -> list[str]:
    """The captions in other words, in their order; `attributes` are what each of them states.

    Models take turns over the captions, starting with one that `seed` picks. A new sentence is taken where `stated` finds
    in it the same attributes, it has the same numbers, is about as long and names no class or disease; else the next
    model is asked, and after the last the caption stays as it is, which a note counts. Answers are kept in `cache` (JSON
    lines, each on disk before the next is used), and none that is there is asked for again. What became of each caption is
    kept too, once all are done: the same captions, models and seed give the same again, whatever the endpoints do then.

    An endpoint that errs is asked thrice, and one that asks to wait (Retry-After) later; one that errs for three captions in
    a row is given up, with a note. Raises InputError when all are or none gave any answer, for a key that is not set, and for a
    cache that is another file or cannot be written. Several processes may share a cache: what stands in it first holds.
    """
    if not endpoints:
        raise InputError("Captions are to be rewritten and no endpoint is given; name at least one.")
    if len(captions) != len(attributes):
        raise InputError(
            f"There are {len(captions)} captions and attributes of {len(attributes)}; give as many."
        )
    facts = [completed(known) for known in attributes]
    with _Answers(Path(cache)) as answers, httpx2.Client() as client:
        models = [_Model(endpoint, client) for endpoint in endpoints]
        turns = [
            models[(i + seed) % len(models) :] + models[: (i + seed) % len(models)]
            for i in range(len(captions))
        ]
        # The same caption under the same model is one piece of work.
        work = {
            (caption, id(turn[0])): (caption, known, turn)
            for caption, known, turn in zip(captions, facts, turns, strict=True)
        }
        pool = ThreadPoolExecutor(_THREADS)
        try:
            futures = {key: pool.submit(_rewritten, *task, models, answers) for key, task in work.items()}
            done = {
                key: future.result()
                for key, future in track(futures.items(), "Rewriting captions", len(futures))
            }
        finally:
            for model in models:
                model.stop.set()
            pool.shutdown(cancel_futures=True)
        asked = [
            (caption, turn)
            for caption, _, turn in work.values()
            if _key(_names(turn), caption) not in answers
        ]
        if asked and not any(
            _key(model.endpoint.model, caption) in answers for caption, turn in asked for model in turn
        ):
            raise InputError(_no_answer(models))
        for key, (caption, known, turn) in work.items():
            outcome = done[key] or caption
            held = answers.add(_key(_names(turn), caption), _names(turn), outcome)
            if held != outcome:  # another process's
                done[key] = _checked(held, caption, known)
    found = [done[caption, id(turn[0])] for caption, turn in zip(captions, turns, strict=True)]
    if kept := [i for i, new in enumerate(found) if new is None]:
        reasons = Counter(_reason(captions[i], facts[i], turns[i], answers) for i in kept)
        told = "; ".join(f"{reason} ({n})" for reason, n in reasons.most_common(_REASONS))
        note(
            f"{number(len(kept), 'caption stays', 'captions stay')} as written by templates, of {len(captions)}: no model "
            f"answered with the same facts in other words. Most often: {told}."
        )
    return [caption if new is None else new for caption, new in zip(captions, found, strict=True)]


def _rewritten(
    caption: str,
    facts: Mapping[str, str],
    turn: Sequence[_Model],
    models: Sequence[_Model],
    answers: _Answers,
) -> str | None:
    """The caption in the words of the first model that keeps its facts; None where none does, or did the last time."""
    last = _key(_names(turn), caption)
    if last in answers:
        return _checked(answers[last], caption, facts)
    for model in turn:
        key = _key(model.endpoint.model, caption)
        if key not in answers and not model.given_up:
            try:
                answers.add(key, model.endpoint.model, model.ask(caption))
            except _Failure:
                continue
        if key in answers and (new := _checked(answers[key], caption, facts)):
            return new
    if all(model.given_up for model in models):
        raise InputError(_no_answer(models))
    return None


def _no_answer(models: Sequence[_Model]) -> str:
    last = " ".join(f"{model.endpoint.name} {model.last}." for model in models)
    return (
        f"No endpoint answers any more: {last} What was answered is kept; run again when they do, or leave the captions as "
        "templates write them."
    )


def _reason(caption: str, facts: Mapping[str, str], turn: Sequence[_Model], answers: _Answers) -> str:
    """Why a caption stays, for a note: what is wrong with the first answer there is."""
    for model in turn:
        if (key := _key(model.endpoint.model, caption)) in answers:
            return _objection(_plain(answers[key]), caption, facts) or "an earlier outcome was kept"
    return "no endpoint answered"


def _names(models: Sequence[_Model]) -> str:
    """What a caption's outcome is kept under: the models in their order. No model has such a name."""
    return json.dumps([model.endpoint.model for model in models])


def _key(model: str, caption: str) -> str:
    return hashlib.sha256(json.dumps([model, PROMPT, caption]).encode()).hexdigest()


def _checked(answer: str, caption: str, facts: Mapping[str, str]) -> str | None:
    """The sentence in a model's answer, where it says what the caption says; else None."""
    text = _plain(answer)
    return text if _objection(text, caption, facts) is None else None


def _plain(answer: str) -> str | None:
    """An answer without a model's thoughts and quotation marks around it, None where it is not plain sentences in one line."""
    text = re.sub(r"<think>.*?</think>", "", answer, flags=re.DOTALL).strip(" \r\n\t\"'“”")
    try:
        line = check_text(text)
    except InputError:
        return None
    return line if "\n" not in text and _MARKS.fullmatch(line) and not _TALK.search(line) else None


def _objection(text: str | None, caption: str, facts: Mapping[str, str]) -> str | None:
    """Why what `_plain` gives may not stand for a caption, None where it may."""
    if text is None:
        return "no plain sentences"
    if re.findall(r"\w+", text.lower()) == re.findall(r"\w+", caption.lower()):
        return "the caption itself"
    if not _SHORTEST * len(caption) <= len(text) <= _LONGEST * len(caption):
        return "much longer or shorter"
    numbers = [Counter(re.findall(r"\d+(?:[.,]\d+)?", sentence)) for sentence in (text, caption)]
    if numbers[0] != numbers[1]:
        return "other numbers"
    if _NAMES.search(text):
        return "a class or disease is named"
    if stated(text) != {name: {value} for name, value in facts.items()}:
        return "other facts"
    # What is not understood cannot be checked: it may be a fact that the caption does not state.
    if more := unsaid(text) - _PLAIN - unsaid(caption):
        return f"more is said: '{min(more)}'"
    return None


def _seconds(wait: str) -> float | None:
    """The seconds that a Retry-After asks for (RFC 9110, section 10.2.3), None for none."""
    if wait.isdecimal():
        return float(wait)
    try:
        return max(0.0, parsedate_to_datetime(wait).timestamp() - time.time())
    except ValueError:
        return None


class _Model:
    """An endpoint and how it fares; several threads ask it."""

    def __init__(self, endpoint: Endpoint, client: httpx2.Client) -> None:
        self.endpoint, self.client, self.key = endpoint, client, endpoint.key()
        self.stop = threading.Event()
        self.last = ""  # what it did instead of answering
        self.given_up = False
        self._erred = 0  # captions in a row
        self._waited = False  # whether it has asked to wait
        self._lock = threading.Lock()

    def ask(self, caption: str) -> str:
        """What the model answers to a caption, unchecked; _Failure after the last try."""
        tries = waits = 0
        while True:
            try:
                answer = self._answer(caption)
            except _Failure as failure:
                if failure.wait is not None and waits < _PATIENCE:
                    waits, wait = waits + 1, min(max(failure.wait, _BACKOFF), _LONGEST_WAIT)
                    self._say_waiting(wait)
                else:
                    tries, wait = tries + 1, _BACKOFF * 2**tries
                # No more tries where others found out meanwhile, or the work has ended.
                if tries < _TRIES and not self.given_up and not self.stop.wait(wait):
                    continue
                self._count(str(failure))
                raise
            with self._lock:
                self._erred = 0
            return answer

    def _say_waiting(self, wait: float) -> None:
        with self._lock:
            news, self._waited = not self._waited, True
        if news:
            note(f"{self.endpoint.name} asks to wait ({wait:g} s): captions are asked for as it lets them.")

    def _count(self, what: str) -> None:
        with self._lock:
            self.last = what
            self._erred += 1
            news = self._erred >= _GIVEN_UP and not self.given_up and not self.stop.is_set()
            self.given_up |= news
        if news:
            note(f"{self.endpoint.name} is given up: it {what}, for {_GIVEN_UP} captions in a row.")

    def _answer(self, caption: str) -> str:
        """Ask once. A server that sends a byte now and then never lets a read time out: the whole has to arrive in time."""
        came: queue.SimpleQueue[str | _Failure] = queue.SimpleQueue()

        def ask() -> None:
            try:
                came.put(self._request(caption))
            except _Failure as failure:
                came.put(failure)

        threading.Thread(target=ask, daemon=True).start()
        try:
            answer = came.get(timeout=self.endpoint.timeout)
        except queue.Empty:
            raise _Failure(f"did not answer within {self.endpoint.timeout:g} s") from None
        if isinstance(answer, _Failure):
            raise answer
        return answer

    def _request(self, caption: str) -> str:
        """What the endpoint answers, however long it takes between two reads."""
        e = self.endpoint
        message = [{"role": "system", "content": PROMPT}, {"role": "user", "content": caption}]
        url = httpx2.URL(e.url)
        url = url.copy_with(path=url.path.rstrip("/") + "/chat/completions")
        headers = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        body = b""
        try:
            with self.client.stream(
                "POST", url, json={"model": e.model, "messages": message}, headers=headers, timeout=e.timeout
            ) as response:
                for part in response.iter_bytes():
                    body += part
                    if len(body) > _MOST_BYTES:
                        raise _Failure("answered with more than a megabyte")
        except httpx2.TimeoutException:
            raise _Failure(f"did not answer within {e.timeout:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, RuntimeError, UnicodeError) as error:
            # A RuntimeError: the client was closed, since nobody waits any more. A UnicodeError: a name that no host can have.
            raise _Failure(f"cannot be reached ({type(error).__name__}: {self._shown(str(error))})") from None
        text = body.decode("utf-8", "replace")
        if response.status_code != 200:
            what = f"answered with status {response.status_code} ({self._shown(text)})"
            raise _Failure(what, _seconds(response.headers.get("Retry-After", "")))
        try:
            content: Any = json.loads(text)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            content = None
        if not isinstance(content, str):
            raise _Failure(f"answered with something else than a chat completion ({self._shown(text)})")
        return self._hidden(content)

    def _hidden(self, text: str) -> str:
        """A text of the server's without the key that it may repeat, as it is or escaped; a short one is a placeholder."""
        if self.key is not None and len(self.key) >= _SECRET:
            slashed = self.key.replace("/", "\\/")
            for key in {
                self.key,
                slashed,
                quote(self.key),
                quote(self.key, safe=""),
                quote(slashed, safe="\\/"),
            }:
                text = text.replace(key, "…")
        return text

    def _shown(self, text: str) -> str:
        """The beginning of what a server said, for a note."""
        return " ".join(self._hidden(text).split())[:120] or "nothing"


class _Answers:
    """Answers by key, kept in a file of JSON lines that only grows, and that several processes may share.

    What stands in it first holds; a line that a kill cut short counts as none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, str] = {}
        self._lock = threading.Lock()
        self._cut = False  # whether the file ends within a line
        self._among_processes = FileLock(path.with_name(f"{path.name}.lock"))

    def __enter__(self) -> _Answers:
        with self._told():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file: io.FileIO = self._path.open(
                "a+b", buffering=0
            )  # nothing is left to write when it is closed
        self._file.seek(0)
        with self._told(), self._among_processes:
            lines = self._take_in()
            start = b'{"key": "'  # of a line, or of what a kill left of the first
            if not self._known and any(line[: len(start)] != start[: len(line)] for line in lines):
                self._file.close()
                raise InputError(
                    f"{self._path} is no cache of captions and is left as it is; choose another."
                )
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> str:
        return self._known[key]

    def add(self, key: str, model: str, answer: str) -> str:
        """Keep an answer, on disk first, and return the one that holds: another process may have been first."""
        with self._lock, self._told():
            if key not in self._known:
                with self._among_processes:
                    self._take_in()
                    if key not in self._known:
                        line = json.dumps({"key": key, "model": model, "answer": answer})
                        # A line that a kill cut short is ended first.
                        self._write((b"\n" if self._cut else b"") + line.encode() + b"\n")
                        self._known[key], self._cut = answer, False
            return self._known[key]

    def _take_in(self) -> list[bytes]:
        """Read on from where the file was left: its lines."""
        lines = self._file.read().split(b"\n")
        self._cut = bool(lines[-1]) or (self._cut and len(lines) == 1)
        for line in lines:
            try:
                row = json.loads(line)
                self._known.setdefault(row["key"], str(row["answer"]))
            except (ValueError, LookupError, TypeError, RecursionError):
                continue
        return lines

    def _write(self, line: bytes) -> None:
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._file.fileno())

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"The cache {self._path} cannot be written ({error.strerror}); choose another."
            ) from None
