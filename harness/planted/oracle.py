"""A script in place of an LLM that knows the words of every planted concept, and reads descriptions perfectly.

It tests the metrics of judges with an LLM, not the LLM: ``llm@llm.judge=planted_oracle``. A description names a concept
if it contains the concept's name, and a text fits a description if it contains a word of a concept that it names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

from harness.llm.client import Message, PromptLogprobs, PromptToken
from harness.llm.scripted import Request, ScriptedBackend
from harness.planted.settings import Planting
from harness.planted.truth import Concept, Truth
from harness.validation import validated

_DESCRIPTION = re.compile(r"<description(_[AB])?>(.*?)</description(?:_[AB])?>", re.DOTALL)
_ITEM = re.compile(r"<(?:excerpt|text)_(\d+)>(.*?)</(?:excerpt|text)_\1>", re.DOTALL)
_CLAIM = re.compile(r"<claim_(\d+)>(.*?)</claim_\1>", re.DOTALL)
_SHOWN = re.compile(r"<(active|silent|silent_but_similar)>(.*?)</\1>", re.DOTALL)
_MARKED = re.compile(r"«(.*?)»", re.DOTALL)
_WORD = re.compile(r"[a-z]+")
#: Log-probability of a word that a description names, and of any other token.
_EXPECTED, _OTHER = -1.0, -6.0


class PlantedOracle(ScriptedBackend):
    """The oracle as a back end.

    Args:
        planting: the section ``subject.planting`` of the config.

    Raises:
        HarnessError: if the subject is not a planted one.
    """

    @validated
    def __init__(self, planting: Planting | None) -> None:
        super().__init__(self._generate, self._token_logprobs, model="planted oracle")
        self._planting = Planting.of(planting)
        self._named = lru_cache(maxsize=4096)(self._words_named)

    @cached_property
    def _truth(self) -> Truth:
        from harness.planted.planting import truth_of  # imports PyTorch

        return truth_of(self._planting)

    def _words_named(self, description: str) -> frozenset[str]:
        """Return the words of the concepts that a description names."""
        return frozenset(word for concept in self._concepts(description) for word in concept.words)

    def _concepts(self, description: str) -> list[Concept]:
        """Return the concepts that a description names."""
        lower = description.lower()
        return [concept for concept in self._truth.concepts if concept.name.lower() in lower]

    def _fits(self, description: str, text: str) -> bool:
        return not self._named(description).isdisjoint(_WORD.findall(text.lower()))

    def _generate(self, request: Request) -> str:
        described = dict(_DESCRIPTION.findall(request.text))
        properties = list((request.schema or {}).get("properties", ()))
        if "verdict" in properties:
            return json.dumps({"reason": "by its words", "verdict": self._verdict(request.text, described)})
        if "claims" in properties:
            return json.dumps({"claims": self._claims(described[""], request.schema or {})})
        claims = [claim for _, claim in _CLAIM.findall(request.text)]
        items = [text for _, text in _ITEM.findall(request.text)]
        marked = [" ".join(found) if (found := _MARKED.findall(text)) else text for text in items]
        fits = [self._fits(described.get("", ""), text) for text in marked]
        answers: dict[str, Any] = {"reason": "by its words"} if "reason" in properties else {}
        for name in properties:
            if name.startswith("choice"):
                answers[name] = 1 + (fits.index(True) if any(fits) else 0)
            elif name.startswith(("text_", "sentence_")):
                answers[name] = self._written(described[""], name, len(properties))
            elif claims and name != "reason":
                text = items[int(name.rpartition("_")[2]) - 1]
                answers[name] = next((place for place, one in enumerate(claims, 1) if self._fits(one, text)), 0)
            elif name != "reason":
                levels = (request.schema or {})["properties"][name].get("enum", [0, 1])
                answers[name] = max(levels) if fits[int(name.rpartition("_")[2]) - 1] else min(levels)
        return json.dumps(answers)

    def _written(self, description: str, name: str, count: int) -> str:
        """Return a text with a word that the description names; of sentences, only the first half has one."""
        kind, _, number = name.rpartition("_")
        words = sorted(self._named(description))
        if not words or (kind == "sentence" and int(number) > count // 2):
            return "There is something else that is not here."
        return f"There is something about {words[7 * int(number) % len(words)]} in it."

    def _claims(self, description: str, schema: Mapping[str, Any]) -> list[dict[str, str]]:
        """Return one claim for each concept that a description names, as many as the schema allows."""
        (claim,) = schema["$defs"].values()
        sentences = [name for name in claim["properties"] if name.startswith("sentence_")]
        found = []
        for concept in self._concepts(description)[: schema["properties"]["claims"]["maxItems"]]:
            words = [concept.words[place % len(concept.words)] for place in range(len(sentences))]
            texts = (f"There is something about {word} in it." for word in words)
            found.append({"claim": concept.name, **dict(zip(sentences, texts, strict=True))})
        return found

    def _verdict(self, prompt: str, described: Mapping[str, str]) -> str:
        """Return the description with the higher share of excerpts that it is right about, both kinds alike."""
        shown = [(kind == "active", text) for kind, text in _SHOWN.findall(prompt)]

        def right(description: str) -> float:
            parts = [
                [self._fits(description, text) is kind for active, text in shown if active is kind]
                for kind in (True, False)
            ]
            return sum(sum(part) / len(part) for part in parts if part)

        one, two = right(described["_A"]), right(described["_B"])
        return "tie" if one == two else "A" if one > two else "B"

    def _token_logprobs(self, request: Request) -> PromptLogprobs:
        *_, question, answer = request.messages
        words = self._named(question.content)
        tokens = [PromptToken("", {}), *(PromptToken(piece, {}) for piece in _pieces(request.messages[:-1]))]
        if answer.content.startswith("[token]"):
            return PromptLogprobs((*tokens, *self._levels(answer.content, words)))
        spoken = (
            PromptToken(piece, {piece: _EXPECTED if piece.strip().lower() in words else _OTHER})
            for piece in re.findall(r"\s*[A-Za-z]+|\s*[^\sA-Za-z]+|\s+", answer.content)
        )
        return PromptLogprobs((*tokens, *spoken))

    def _levels(self, lines: str, words: frozenset[str]) -> list[PromptToken]:
        """Return the lines of a simulation, with the highest level expected after each named word, otherwise 0."""
        found: list[PromptToken] = []
        for piece in re.findall(r"\t|\n|[^\t\n]+", lines):
            expected = {piece: 0.0}
            if found and found[-1].text == "\t" and len(found) > 1:
                expected = {"10" if found[-2].text.strip().lower() in words else "0": 0.0}
            found.append(PromptToken(piece, expected))
        return found


def _pieces(messages: Sequence[Message]) -> list[str]:
    """Return the text of messages in pieces of which a level is one."""
    text = "\n".join(message.content for message in messages)
    return re.findall(r"\t|\n|[^\t\n]+", f"{text}\n")
