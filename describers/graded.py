"""Descriptions of known quality, which judge the judges: they compete in the leaderboard like other descriptions.

There are two ways to know the quality. :class:`Graded` takes descriptions from a source of truth: a planted subject or
a file. :class:`Corrupted` makes another describer's descriptions worse by rule, on any subject: the original may be
wrong, but the corruption cannot have improved it.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from describers.others import description_by, donor
from harness.errors import HarnessError
from harness.fillers import EMPTY, GENERIC, padded
from harness.llm.asking import ask
from harness.llm.client import Unanswered
from harness.llm.prompts import Prompt
from harness.methods import Describer, DescriberCase, Draft
from harness.records import Corruption, Description, Neuron, Side, SignedTokens, Status
from harness.row_files import file_hash, read_records
from harness.seeds import derive_rng
from harness.subject import Subject
from harness.text import word_count
from harness.validation import FractionOrZero, Number, validated

#: Separators of a description's items, except for full stops of abbreviations and commas after these.
_SEPARATORS = re.compile(r"(\s*(?<!e\.g)(?<!i\.e)(?<!cf)(?<!vs)(?<!e\.g\.)(?<!i\.e\.)[,;.|](?:\s+|$))", re.IGNORECASE)


@runtime_checkable
class KnowsTruth(Protocol):
    """A source of graded descriptions: a planted subject, a file, or a class of your own."""

    def graded(self, neuron: Neuron, among: Sequence[Neuron], *, side: Side, seed: int) -> Mapping[str, str]:
        """Return descriptions of a neuron by grade (``right``, ``too broad``, ...), which may be empty texts.

        Args:
            neuron: the neuron at its sign.
            among: the neurons of the run, from which another neuron's description may be taken.
            side: what is described: what the neuron responds to, its effect on the output, or both.
            seed: the run's seed.
        """


class Graded(Describer):
    """Describes a neuron with a text that is known to be right, or wrong in a given way."""

    @validated
    def __init__(
        self,
        grade: str,
        quality: Number,
        strength: FractionOrZero = 1.0,
        truth: KnowsTruth | None = None,
        side: Side = Side.BOTH,
    ) -> None:
        self.corruption = Corruption(grade, quality, strength)
        self._grade, self._side, self._truth = grade, side, truth

    @property
    def inputs(self) -> str | None:
        """A hash of the file, if the truth is one."""
        return self._truth.fingerprint if isinstance(self._truth, GradedFile) else None

    def check(self, neurons: Sequence[Neuron], subject: Subject) -> None:
        """Check that the truth has descriptions of this grade of any of the neurons."""
        source = self._source(subject)
        graded = [source.graded(neuron, neurons, side=self._side, seed=0) for neuron in neurons]
        known = list(dict.fromkeys(grade for texts in graded for grade in texts))
        if self._grade not in known:
            raise HarnessError(
                f"there is no description of grade {self._grade!r} of any of the {len(neurons)} neurons on side="
                f"{self._side}: the truth has {', '.join(repr(str(grade)) for grade in known) or 'none of them'}"
            )

    async def describe(self, case: DescriberCase) -> Draft:
        """Look up the description."""
        given = self._source(case.subject).graded(case.neuron, case.neurons, side=self._side, seed=case.seed)
        text = given.get(self._grade)
        if text is None:
            raise Unanswered(Status.FAILED, f"there is no description of grade {self._grade!r} of this neuron")
        return Draft(text or EMPTY, f"known to be {self._grade}")

    def _source(self, subject: Subject) -> KnowsTruth:
        truth: object = self._truth or subject
        if not isinstance(truth, KnowsTruth):
            raise HarnessError(
                f"nobody knows the truth about the neurons of {subject.name}: take a planted subject "
                "(subject=planted), or a file of graded descriptions "
                "(truth={_target_: describers.graded.GradedFile, path: FILE}), or describers=[maxact,corrupted]"
            )
        return truth


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid")

    neuron: str
    grade: str = Field(min_length=1)
    text: str = ""
    side: Side = Side.BOTH


class GradedFile:
    """Graded descriptions from a file with the columns ``neuron`` (L3N17), ``grade``, ``text`` and ``side``.

    ``side`` is what the text describes (``input``, ``output`` or ``both``); a file without this column describes both.

    Args:
        path: the file: .jsonl, .csv, .tsv or .parquet.
    """

    @validated
    def __init__(self, path: str) -> None:
        self._path = Path(path).expanduser()

    @property
    def fingerprint(self) -> str:
        """A hash of the file."""
        return file_hash(self._path)

    def graded(self, neuron: Neuron, among: Sequence[Neuron], *, side: Side, seed: int) -> Mapping[str, str]:
        """Return the file's descriptions of a neuron on a side."""
        return self._texts.get((str(neuron), side), {})

    @cached_property
    def _texts(self) -> dict[tuple[str, Side], dict[str, str]]:
        found: dict[tuple[str, Side], dict[str, str]] = defaultdict(dict)
        for place, row in read_records(self._path, _Row):
            known = found[row.neuron, row.side]
            if row.grade in known:
                raise HarnessError(f"{self._path}, {place}: {row.neuron} has a second description of {row.grade}")
            known[row.grade] = row.text
        return found


class Corrupted(Describer):
    """Makes another describer's descriptions worse by rule.

    ========== =====================================================================================================
    right      no change
    swapped    a share of the items (``strength``) is replaced by another neuron's; 1 takes the other description
    dropped    a share of the items is left out; at least one remains
    added      as many of another neuron's items are added as ``strength`` times the number of items
    padded     about as many words are added that say nothing, which does not make the description worse
    generic    the same text for all neurons
    empty      a text that says that there is no description
    ========== =====================================================================================================

    Items are separated by commas, semicolons and full stops: the tokens of an extractive description, the clauses of a
    sentence. Separators between the remaining items, and the last one, stay. Which items change is drawn by neuron, in
    the same order for every strength, so a stronger corruption includes the weaker one. A text in which nothing changes
    (a quarter of a single item, or the last item dropped) is not worse, and is left out of the checks of the judges.
    """

    @validated
    def __init__(
        self,
        source: str,
        grade: Literal["right", "swapped", "dropped", "added", "padded", "generic", "empty"],
        strength: FractionOrZero = 1.0,
    ) -> None:
        self.after = (source,)
        self._source, self._grade, self._strength = source, grade, strength
        # Of the items after adding, strength / (1 + strength) are false.
        false = {"right": 0.0, "swapped": strength, "dropped": strength, "added": strength / (1 + strength)}
        done = false.get(grade, 1.0)
        self.corruption = Corruption(grade, 1.0 if grade == "padded" else round(1 - done, 6), round(done, 6))

    async def describe(self, case: DescriberCase) -> Draft:
        """Take the source's description and corrupt it."""
        given = description_by(self._source, case)
        detail = f"{self._source}'s, {self._grade}"
        if self._grade == "padded":
            return Draft(padded(given.text), detail, tokens=given.tokens)
        if self._grade in ("generic", "empty"):
            return Draft(GENERIC if self._grade == "generic" else EMPTY, detail)
        if self._grade == "dropped":
            items, separators = _items(given)
            dropped = self._chosen(case, len(items))[: len(items) - 1]
            kept = {index: item for index, item in enumerate(items) if index not in dropped}
            return _rejoined(kept, separators, detail)
        if self._grade in ("swapped", "added"):
            other = donor(case, "corrupted", self._source)
            corrupt = self._swapped if self._grade == "swapped" else self._added
            return corrupt(case, given, description_by(self._source, case, other), f"{detail} with {other}")
        return Draft(given.text, detail, tokens=given.tokens)

    def _added(self, case: DescriberCase, given: Description, other: Description, detail: str) -> Draft:
        """Return the description followed by the chosen items of ``other`` that it does not contain."""
        if given.tokens is None or other.tokens is None:
            given, other = (dataclasses.replace(one, tokens=None) for one in (given, other))
        (items, separators), (other_items, _) = _items(given), _items(other)
        count = round(self._strength * len(items))
        order = derive_rng(case.seed, "corrupted", self._source, case.neuron).permutation(len(other_items))
        new = [other_items[index] for index in order if other_items[index] not in items][:count]
        if separators and new:
            between = separators[0] if len(items) > 1 else "; "
            separators = [*separators[:-1], *([between] * len(new)), separators[-1]]
        return _rejoined(dict(enumerate([*items, *new])), separators, detail)

    def _swapped(self, case: DescriberCase, given: Description, other: Description, detail: str) -> Draft:
        """Return the description with the chosen items replaced by those of ``other`` at the same positions."""
        if given.tokens is None or other.tokens is None:
            given, other = (dataclasses.replace(one, tokens=None) for one in (given, other))
        (items, separators), (other_items, other_separators) = _items(given), _items(other)
        chosen = self._chosen(case, len(items))
        mixed = {
            index: other_items[index] if index in chosen else item
            for index, item in enumerate(items)
            if index not in chosen or index < len(other_items)  # items without a replacement are left out
        }
        if not mixed:
            mixed, separators = dict(enumerate(other_items)), other_separators
        if list(mixed.values()) != items:
            first = {item: index for index, item in reversed(mixed.items())}
            mixed = {index: item for index, item in mixed.items() if first[item] == index}  # without repetitions
        return _rejoined(mixed, separators, detail)

    def _chosen(self, case: DescriberCase, count: int) -> list[int]:
        """Return the positions of the items that change."""
        order = derive_rng(case.seed, "corrupted", self._source, case.neuron).permutation(count)
        return [int(index) for index in order[: round(self._strength * count)]]


class _Rephrased(BaseModel):
    description: str = Field(description="the same statement in your own words", max_length=600)


class Rephrased(Describer):
    """Rewrites another describer's descriptions in the explainer's words: equally good, but the explainer's own.

    A judge that is the same model as the explainer and prefers these to the originals prefers its own text (Panickssery
    et al. 2024, arXiv:2404.13076).
    """

    prompt = Prompt("describers", "prompts/rephrased.j2")
    llm_required = True

    @validated
    def __init__(self, source: str, quality: Number = 1.0, role: str = "explainer") -> None:
        self._source, self.after, self.role = source, (source,), role
        self.corruption = Corruption("rephrased", quality)

    async def describe(self, case: DescriberCase) -> Draft:
        """Ask the explainer to rephrase the description."""
        text = description_by(self._source, case).text
        prompt = self.prompt.render(description=text, words=word_count(text))
        return Draft((await ask(case.require_llm(), prompt, _Rephrased)).description, f"{self._source}'s, rephrased")


def _split(text: str) -> tuple[list[str], list[str]]:
    """Return a description's items, and the separator after each; joined they are the description."""
    parts = [*_SEPARATORS.split(text), ""]
    items, separators = [], []
    for item, separator in zip(parts[::2], parts[1::2], strict=True):
        if item:
            items.append(item)
            separators.append(separator)
        elif separators:
            separators[-1] += separator
    return (items, separators) if items else ([text], [""])


def _items(given: Description) -> tuple[list[Any], list[str]]:
    """Return a description's items and separators: tokens with their roles if it is extractive, else parts of it."""
    return (given.tokens.items, []) if given.tokens is not None else _split(given.text)


def _rejoined(items: Mapping[int, Any], separators: Sequence[str], detail: str) -> Draft:
    """Return the description that consists of ``items``, the inverse of :func:`_items`."""
    if separators:
        return Draft(_joined(items, separators), detail)
    tokens = SignedTokens.of(items.values())
    return Draft(tokens.text, detail, tokens=tokens)


def _joined(items: Mapping[int, str], separators: Sequence[str]) -> str:
    """Join items by position with their separators; the last item ends as the whole text did."""
    *before, last = items
    return "".join(f"{items[index]}{separators[index]}" for index in before) + items[last] + separators[-1]
