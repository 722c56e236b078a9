"""Captions in other words, by language models behind OpenAI-compatible endpoints, without a change of facts.

Everything that a model answers is checked against the attributes of the caption; what fails is not used. Every answer is
kept in a file, so that none is asked for twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2

from balancer.data.attributes import completed
from balancer.data.wording import number
from balancer.errors import InputError
from balancer.progress import note, track
from classifier.answers import Answers
from classifier.endpoints import Endpoint, Failure, Model
from classifier.phrases import stated
from classifier.sentences import check_text
from classifier.surplus import surplus

PROMPT = (
    "You rewrite short descriptions of a single blood cell under the microscope. Answer with the new description alone: one to "
    "three plain English sentences, one paragraph, no title, no list, no quotation marks. Keep every fact and every number, "
    "add none and leave none out. Change the order and the construction of the sentences; for the features themselves "
    "keep the words given. Never name a type of cell, a disease or a diagnosis, and do not judge or explain."
)
_THREADS = 4
_REASONS = 3  # that a note gives
_SHORTEST, _LONGEST = 0.4, 2.5  # a new sentence, in lengths of the caption

# Names of classes and diseases, and of what is more than "a blood cell".
_NAMES = re.compile(
    r"\b(neutrophils?|eosinophils?|basophils?|monocyt\w*|\w*lympho\w*|\w*blasts?|platelets?|thrombocyt\w*|\w*granulocyt\w*|"
    r"\w*myel\w*|ha?ematogones?|\w*leuka?em\w*|leu[ck]ocyt\w*|white (blood )?cells?|cancer\w*|tumou?r\w*|malignan\w*|benign|"
    r"neoplas\w*|diseases?|disorders?|patients?|diagnos\w*|health\w*|normal|abnormal|infect\w*|aml|cll|cml|acute|chronic)\b",
    re.IGNORECASE,
)
# Sentences that ask, or say when.
_ASKS = re.compile(r"(?:^|[.;:]\s*)(?:is|are|do|does|has|have|which|what|where|when|if)\b", re.I)
# What is no description: markup, and talk about the task.
_TALK = re.compile(
    r"^here(?:['’]s| is)\b|\b(rewrit\w*|rephras\w*|description|caption|sure|certainly|sorry|as an ai)\b",
    re.I,
)
# Words that state nothing, beside those by which attributes are stated.
_PLAIN = "lie lies lying sit sits sitting well whereas although though"
# Begins a sentence and says nothing of the cell; elsewhere what stands beside an image might be taken for the cell's.
_OPENING = re.compile(
    r"(?:^|(?<=[.!?] ))(?:(?:this|the) (?:image|picture|view) (?:shows|displays|presents|depicts) (?=an? )|"
    r"in (?:this|the) (?:image|picture|view), |(?:shown|seen) here is (?=an? ))|"
    r"(?<=(?:shown| seen)) here(?=[.;]|$)",
    re.I,
)
# Letters, numbers and marks of plain sentences; another mark may say what no word does.
_MARKS = re.compile(r"[A-Za-z0-9µμ .,;:'’\"“”()/%‐‑–—-]*")


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
    with Answers(Path(cache)) as answers, httpx2.Client() as client:
        models = [Model(endpoint, client, PROMPT) for endpoint in endpoints]
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
    turn: Sequence[Model],
    models: Sequence[Model],
    answers: Answers,
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
            except Failure:
                continue
        if key in answers and (new := _checked(answers[key], caption, facts)):
            return new
    if all(model.given_up for model in models):
        raise InputError(_no_answer(models))
    return None


def _no_answer(models: Sequence[Model]) -> str:
    last = " ".join(f"{model.endpoint.name} {model.last}." for model in models)
    return (
        f"No endpoint answers any more: {last} What was answered is kept; run again when they do, or leave the captions as "
        "templates write them."
    )


def _reason(caption: str, facts: Mapping[str, str], turn: Sequence[Model], answers: Answers) -> str:
    """Why a caption stays, for a note: what is wrong with the first answer there is."""
    for model in turn:
        if (key := _key(model.endpoint.model, caption)) in answers:
            return _objection(_plain(answers[key]), caption, facts) or "an earlier outcome was kept"
    return "no endpoint answered"


def _names(models: Sequence[Model]) -> str:
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
    text = answer.rpartition("</think>")[2].strip(" \r\n\t\"'“”")
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
    if _ASKS.search(text):
        return "a question or a condition"
    if re.search(r"\b(vacuole|granule)\b", text, re.I):
        return "other numbers"
    if stated(text) != {name: {value} for name, value in facts.items()}:
        return "other facts"
    # What is not understood cannot be checked: it may be a fact that the caption does not state.
    if more := surplus(_OPENING.sub("", text)) - set(_PLAIN.split()) - surplus(caption):
        return f"more is said: '{min(more)}'"
    return None
