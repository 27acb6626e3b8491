"""A language model as judge, behind any server that speaks OpenAI's chat protocol. Optional, and never a default.

A judge is slow, costs money, has tastes of its own and changes without notice; where continuations or a classifier can
measure the same, they are better. Each text is one request with temperature 0; the answer must hold one number.
"""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import DataError, JudgeError
from ..items import Array
from ..samples import Sampling
from .generated import TextTarget

#: The environment variable a key is taken from unless one is given; it is never stored or shown.
KEY_VARIABLE = "STEERSMAN_JUDGE_KEY"
RUBRIC = (
    "You rate texts. Rate from 0 to 100 how strongly the text shows the following: {trait}. 0 means not at all, 100 "
    "means as strongly as possible. Rate only that, not quality or length. Answer with the number alone."
)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
#: Answers of a server that may pass: too many requests, and its own failures.
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
#: The longest a server may ask us to wait, and the most it may answer.
LONGEST_WAIT, LARGEST_ANSWER = 30.0, 1 << 20


@dataclass(frozen=True)
class Judge(TextTarget):
    """How strongly texts show a trait, 0 to 100, as another language model sees it.

    Attributes:
        url: of the server, up to and including ``/v1``.
        model: the judge's name there.
        trait: what is rated, in words.
        rubric: the system message; ``{trait}`` stands for the trait.
        key: a bearer token; from the environment variable ``STEERSMAN_JUDGE_KEY`` unless given.
        timeout: seconds for each request.
        retries: how often a request is tried again after a passing failure, an answer without a number included.
        workers: requests at once.
        sampling, seed: how texts are drawn; one greedy text per prompt unless given.
        instruction: asks the model for the trait in words.
    """

    url: str
    model: str
    trait: str
    rubric: str = RUBRIC
    key: str | None = field(default=None, repr=False)
    timeout: float = 60.0
    retries: int = 3
    workers: int = 4
    sampling: Sampling = field(default_factory=lambda: Sampling(texts=1, temperature=None))
    seed: int = 0
    instruction: str | None = None

    kind = "judge"

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise DataError(f"the judge's url must begin with http:// or https://, got {self.url!r}")
        if not self.trait.strip() or "{trait}" not in self.rubric:
            raise DataError("a judge needs a trait to rate, and a rubric with {trait} in it")
        if self.retries < 0 or self.workers < 1 or not self.timeout > 0:
            raise DataError("a judge needs retries of at least 0, at least 1 worker and a timeout above 0")

    @property
    def unit(self) -> str:
        """Points of a hundred."""
        return "points of 100"

    def score_texts(self, prompts: Sequence[str], texts: Sequence[str]) -> Array:
        """One rating per text.

        Raises:
            JudgeError: a request that failed for good, or answers without a number; nothing is made up in their place.
        """
        with ThreadPoolExecutor(self.workers) as pool:
            return np.array(list(pool.map(self._rate, prompts, texts)))

    def _rate(self, prompt: str, text: str) -> float:
        why = ""
        for attempt in range(self.retries + 1):
            wait, why, rating = self._ask(prompt, text)
            if rating is not None:
                return rating
            if attempt < self.retries:
                time.sleep(min(LONGEST_WAIT, 0.25 * 2**attempt if wait is None else wait))
        raise JudgeError(f"the judge at {self.url} failed {self.retries + 1} times, at last with: {why}")

    def _ask(self, prompt: str, text: str) -> tuple[float | None, str, float | None]:
        """One request: how long to wait before the next, what went wrong, or the rating."""
        asked = "A text that continues a prompt is to be rated.\n\n"
        asked += f"<prompt>\n{prompt}\n</prompt>\n\n<text>\n{text}\n</text>"
        body = {
            "model": self.model, "temperature": 0, "max_tokens": 16,
            "messages": [
                {"role": "system", "content": self.rubric.format(trait=self.trait)}, {"role": "user", "content": asked},
            ],
        }  # fmt: skip
        try:
            with urllib.request.urlopen(self._request(body), timeout=self.timeout) as answer:
                raw = answer.read(LARGEST_ANSWER)
            content = json.loads(raw)["choices"][0]["message"]["content"]
        except urllib.error.HTTPError as error:
            said = error.read(2000).decode("utf-8", "replace").strip()
            if error.code not in _PASSING:
                raise JudgeError(
                    f"the judge at {self.url} refused the request with status {error.code}: {said[:300]}; check its "
                    f"url, the model's name {self.model!r}, and the key in {KEY_VARIABLE}"
                ) from error
            return _seconds(error.headers.get("Retry-After")), f"status {error.code}: {said[:200]}", None
        except (OSError, TimeoutError) as error:  # the network
            return None, f"{type(error).__name__}: {error}", None
        except (ValueError, KeyError, IndexError, TypeError) as error:
            return None, f"an answer that is not of the protocol ({type(error).__name__}: {error})", None
        numbers = _NUMBER.findall(content) if isinstance(content, str) else []
        if len(numbers) != 1 or not 0 <= float(numbers[0]) <= 100:
            return 0.0, f"an answer without one number from 0 to 100: {content!r:.100}", None
        return None, "", float(numbers[0])

    def _request(self, body: dict[str, Any]) -> urllib.request.Request:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        key = self.key or os.environ.get(KEY_VARIABLE)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        address = f"{self.url.rstrip('/')}/chat/completions"
        return urllib.request.Request(address, json.dumps(body).encode(), headers, method="POST")

    def describe(self) -> dict[str, Any]:
        """What it measures, as JSON-able values; without the key."""
        return {**super().describe(), "url": self.url, "model": self.model, "trait": self.trait, "rubric": self.rubric}

    def in_words(self) -> str:
        """The instruction given, or one that names the trait."""
        return self.instruction or f"Answer in a way that shows this: {self.trait}."


def _seconds(value: str | None) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None
