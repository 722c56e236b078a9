"""Language models behind OpenAI-compatible endpoints: what one answers, or that it does not."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import httpx2

from balancer.errors import InputError
from balancer.progress import note

_TRIES = 3  # for a caption, of an endpoint that errs
_GIVEN_UP = 3  # captions in a row for which an endpoint erred
_BACKOFF = 0.5  # seconds before the second try, twice as many before the third
_PATIENCE = 20  # times that an endpoint may ask to wait, for a caption
_LONGEST_WAIT = 60.0  # seconds
_GLANCE = 0.2  # seconds between looks at whether anybody still waits
_MOST_BYTES = 2**20  # of an answer
_SECRET = 8  # characters of a key from which it is one


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


class Failure(Exception):
    """An endpoint did not give an answer; the message says what it did instead. `wait`: seconds that it asks to wait for."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


def _seconds(wait: str) -> float | None:
    """The seconds that a Retry-After asks for (RFC 9110, section 10.2.3), None for none."""
    if wait.isdecimal():
        return float(wait)
    try:
        return max(0.0, parsedate_to_datetime(wait).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


class Model:
    """An endpoint, what it is asked to do with each caption, and how it fares; several threads ask it."""

    def __init__(self, endpoint: Endpoint, client: httpx2.Client, task: str) -> None:
        self.endpoint, self.client, self.key, self.task = endpoint, client, endpoint.key(), task
        self.stop = threading.Event()
        self.last = ""  # what it did instead of answering
        self.given_up = False
        self._erred = 0  # captions in a row
        self._waited = False  # whether it has asked to wait
        self._lock = threading.Lock()

    def ask(self, caption: str) -> str:
        """What the model answers to a caption, unchecked; Failure after the last try."""
        tries = waits = 0
        while True:
            try:
                answer = self._answer(caption)
            except Failure as failure:
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
        if self.stop.is_set():
            raise Failure("was not asked")
        came: queue.SimpleQueue[str | Failure] = queue.SimpleQueue()

        def ask() -> None:
            try:
                came.put(self._request(caption))
            except Failure as failure:
                came.put(failure)

        threading.Thread(target=ask, daemon=True).start()
        until = time.monotonic() + self.endpoint.timeout
        answer: str | Failure | None = None
        while answer is None:
            try:
                answer = came.get(timeout=min(max(until - time.monotonic(), 0), _GLANCE))
            except queue.Empty:
                if self.stop.is_set():
                    raise Failure("was not waited for") from None
                if time.monotonic() >= until:
                    raise Failure(f"did not answer within {self.endpoint.timeout:g} s") from None
        if isinstance(answer, Failure):
            raise answer
        return answer

    def _request(self, caption: str) -> str:
        """What the endpoint answers, however long it takes between two reads."""
        e = self.endpoint
        message = [{"role": "system", "content": self.task}, {"role": "user", "content": caption}]
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
                        raise Failure("answered with more than a megabyte")
        except httpx2.TimeoutException:
            raise Failure(f"did not answer within {e.timeout:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, RuntimeError, UnicodeError) as error:
            # A RuntimeError: the client was closed, since nobody waits any more. A UnicodeError: a name that no host can have.
            raise Failure(f"cannot be reached ({type(error).__name__}: {self._shown(str(error))})") from None
        text = body.decode("utf-8", "replace")
        if response.status_code != 200:
            what = f"answered with status {response.status_code} ({self._shown(text)})"
            raise Failure(what, _seconds(response.headers.get("Retry-After", "")))
        try:
            content: Any = json.loads(text)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            content = None
        if not isinstance(content, str):
            raise Failure(f"answered with something else than a chat completion ({self._shown(text)})")
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
