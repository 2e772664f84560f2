"""Descriptions of known quality, to judge judges with: they compete as contestants, through the ordinary stages.

Two ways to know the quality. :class:`Graded` takes descriptions from who knows the truth: a planted subject, or a file.
:class:`Corrupted` takes another describer's descriptions and makes them worse by rule, on any subject: then it is not
known that the description is right, but that what was done to it cannot have made it better.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import HarnessError
from harness.fillers import EMPTY, GENERIC, padded
from harness.llm.asking import ask
from harness.llm.client import Unanswered
from harness.llm.prompts import Prompt
from harness.methods import Describer, DescriberCase, Draft
from harness.records import Corruption, Neuron, Side, Status
from harness.seeds import derangement, derive_rng
from harness.subject import Subject

#: What parts the items of a description: not the full stops of abbreviations inside a sentence, nor commas behind them.
_PARTS = re.compile(r"(\s*(?<!e\.g)(?<!i\.e)(?<!cf)(?<!vs)(?<!e\.g\.)(?<!i\.e\.)[,;.](?:\s+|$))", re.IGNORECASE)


class GradedText(Protocol):
    """A description of known quality."""

    @property
    def grade(self) -> str:
        """How it was made: ``right``, ``too broad``, ``half`` and so on."""

    @property
    def text(self) -> str:
        """The description; may be empty."""


@runtime_checkable
class KnowsTruth(Protocol):
    """Who can grade descriptions: a planted subject, a file, or a class of your own."""

    def graded(self, neuron: Neuron, among: Sequence[Neuron], *, side: Side, seed: int) -> Sequence[GradedText]:
        """Return descriptions of a neuron by grade; none if nothing is known of it on that side.

        Args:
            neuron: the neuron at its sign.
            among: the neurons that take part, from whom another one's description may be taken.
            side: what is described: what the neuron responds to, what it does to the output, or both.
            seed: the run's seed.
        """


class Graded(Describer):
    """Says of a neuron what is known to be right, or what is known to be wrong in a given way.

    Args:
        grade: the grade of its descriptions, as the source names it.
        quality: how good they are; higher is better, equal ones have no order.
        strength: how much was done to them, from 0 to 1; 0 of the right ones alone.
        truth: who knows; none for the subject itself, which must be a planted one then.
        side: what they describe: ``input`` (what the neuron responds to), ``output`` (what it does to the output) or
            ``both``. A judge that is shown one side is fairly asked about that one alone.
    """

    def __init__(
        self,
        grade: str,
        quality: float,
        strength: float = 1.0,
        truth: KnowsTruth | None = None,
        side: str = "both",
    ) -> None:
        if side not in set(Side):
            raise HarnessError(f"side is {side!r}; choose from {', '.join(Side)}")
        self.corruption = Corruption(grade, quality, strength)
        self._grade, self._side, self._truth = grade, Side(side), truth

    @property
    def inputs(self) -> str | None:
        """What the file of the truth holds, if it is one."""
        return self._truth.fingerprint if isinstance(self._truth, GradedFile) else None

    def check(self, neurons: Sequence[Neuron], subject: Subject) -> None:
        """See that somebody knows the truth, and has such descriptions of any of the neurons."""
        if not any(self._found(neuron, neurons, subject, 0) for neuron in neurons):
            raise HarnessError(
                f"there is no description of grade {self._grade!r} of any of the {len(neurons)} neurons on side="
                f"{self._side}: the truth has {', '.join(map(repr, self._known(neurons, subject))) or 'none of them'}"
            )

    async def describe(self, case: DescriberCase) -> Draft:
        """Look the description up."""
        found = self._found(case.neuron, case.neurons, case.subject, case.seed)
        if not found:
            raise Unanswered(Status.FAILED, f"there is no description of grade {self._grade!r} of this neuron")
        return Draft(found[0].text or EMPTY, f"known to be {self._grade}")

    def _found(self, neuron: Neuron, among: Sequence[Neuron], subject: Subject, seed: int) -> list[GradedText]:
        given = self._source(subject).graded(neuron, among, side=self._side, seed=seed)
        return [item for item in given if item.grade == self._grade]

    def _known(self, neurons: Sequence[Neuron], subject: Subject) -> list[str]:
        source = self._source(subject)
        given = (item for neuron in neurons for item in source.graded(neuron, neurons, side=self._side, seed=0))
        return list(dict.fromkeys(str(item.grade) for item in given))

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
    """Graded descriptions from a file: CSV with a header or JSON lines, with ``neuron`` (L3N17), ``grade``, ``text``.

    A further column ``side`` says what the text describes (``input``, ``output`` or ``both``); without it, both.

    Args:
        path: the file, ``.csv`` or ``.jsonl``.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path).expanduser()

    @property
    def fingerprint(self) -> str:
        """A hash of the file."""
        return hashlib.sha256(self._content.encode()).hexdigest()[:16]

    def graded(self, neuron: Neuron, among: Sequence[Neuron], *, side: Side, seed: int) -> Sequence[GradedText]:
        """Return the file's descriptions of a neuron on a side."""
        return self._rows.get((str(neuron), side), [])

    @cached_property
    def _content(self) -> str:
        try:
            return self._path.read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise HarnessError(f"the graded descriptions {self._path} cannot be read ({error})") from error

    @cached_property
    def _rows(self) -> dict[tuple[str, Side], list[_Row]]:
        found: dict[tuple[str, Side], list[_Row]] = {}
        for number, values in self._lines():
            try:
                row = _Row.model_validate(values)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"]))
                raise HarnessError(f"{self._path} line {number}: {where}: {first['msg']}") from error
            known = found.setdefault((row.neuron, row.side), [])
            if any(other.grade == row.grade for other in known):
                raise HarnessError(f"{self._path} line {number}: {row.neuron} has a second description of {row.grade}")
            known.append(row)
        return found

    def _lines(self) -> Iterator[tuple[int, Any]]:
        if self._path.suffix == ".csv":
            reader = csv.DictReader(io.StringIO(self._content, newline=""))
            yield from ((reader.line_num, row) for row in reader)
            return
        for number, line in enumerate(self._content.split("\n"), start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError as error:
                    raise HarnessError(f"{self._path} line {number} is no JSON ({error})") from error


class Corrupted(Describer):
    """Makes another describer's descriptions worse by rule.

    ========== ===================================================================================================
    right      nothing is done
    swapped    a share of the items (``strength``) gives way to as many of another neuron's; at 1 it is another's
    dropped    a share of the items is left out; at least one stays
    padded     about as many words again that say nothing, which is no worse
    generic    the same text for all neurons
    empty      no word but that there is none
    ========== ===================================================================================================

    Items are what commas, semicolons and full stops part: the tokens of an extractive description, the clauses of a
    sentence. The marks between those that stay, and the last one, stay as they are. Which of them go is drawn by
    neuron, the same for every strength: a stronger corruption does what a weaker one does, and more. Where nothing goes
    (a single item of which a quarter is to be swapped, the last one left) the text stays as it is, letter for letter:
    it is no worse, and is left out of what judges are judged by.

    Args:
        source: the describer whose descriptions are taken.
        grade: what is done to them.
        strength: how much, from 0 to 1; for ``swapped`` and ``dropped``.
    """

    QUALITY = ("right", "swapped", "dropped", "padded", "generic", "empty")

    def __init__(self, source: str, grade: str, strength: float = 1.0) -> None:
        if grade not in self.QUALITY:
            raise HarnessError(f"grade is {grade!r}; choose from {', '.join(self.QUALITY)}")
        if not 0 <= strength <= 1:
            raise HarnessError(f"strength is {strength}; it must lie between 0 and 1")
        self.after = (source,)
        self._source, self._grade, self._strength = source, grade, strength
        done = {"right": 0.0, "swapped": strength, "dropped": strength}.get(grade, 1.0)
        self.corruption = Corruption(grade, 1.0 if grade == "padded" else round(1 - done, 6), done)

    async def describe(self, case: DescriberCase) -> Draft:
        """Take the description, and do to it what is to be done."""
        text = self._of(case, case.neuron)
        detail = f"{self._source}'s, {self._grade}"
        if self._grade == "padded":
            text = padded(text)
        elif self._grade in ("generic", "empty"):
            text = GENERIC if self._grade == "generic" else EMPTY
        elif self._grade == "dropped":
            items, marks = _parted(text)
            gone = set(self._chosen(case, len(items))[: len(items) - 1])
            text = _joined({place: item for place, item in enumerate(items) if place not in gone}, marks)
        elif self._grade == "swapped":
            donor = self._donor(case)
            (own, marks), (theirs, their_marks) = _parted(text), _parted(self._of(case, donor))
            # Places beyond the end of the other's have nothing to be swapped for; they go, at full strength.
            gone = set(self._chosen(case, len(own)))
            mixed = {
                place: theirs[place] if place in gone else item
                for place, item in enumerate(own)
                if place not in gone or place < len(theirs)
            }
            if not mixed:
                mixed, marks = dict(enumerate(theirs)), their_marks
            if list(mixed.values()) != own:
                first = {item: place for place, item in reversed(mixed.items())}  # none stands there twice
                mixed = {place: item for place, item in mixed.items() if first[item] == place}
            text, detail = _joined(mixed, marks), f"{detail} with {donor}"
        return Draft(text, detail)

    def _chosen(self, case: DescriberCase, count: int) -> list[int]:
        order = derive_rng(case.seed, "corrupted", self._source, case.neuron).permutation(count)
        return [int(place) for place in order[: round(self._strength * count)]]

    def _donor(self, case: DescriberCase) -> Neuron:
        neurons = sorted({neuron.unsigned for neuron in case.neurons})
        if len(neurons) < 2:
            raise Unanswered(Status.FAILED, "a single neuron has nobody to swap with")
        order = derangement(len(neurons), case.seed, "corrupted", self._source)
        return neurons[order[neurons.index(case.neuron.unsigned)]].with_sign(case.neuron.sign)

    def _of(self, case: DescriberCase, neuron: Neuron) -> str:
        given = case.others[self._source].get(neuron)
        if given is None or given.status is not Status.OK:
            raise Unanswered(Status.FAILED, f"{self._source} has no description of {neuron}")
        return given.text


class _Rephrased(BaseModel):
    description: str = Field(description="the same statement in your own words", max_length=600)


class Rephrased(Describer):
    """Says the same as another describer in the explainer's words: no better and no worse, but the explainer's own.

    A judge that is the same model as the explainer, and prefers these to what they were made from, prefers itself
    (Panickssery et al. 2024, arXiv:2404.13076).

    Args:
        source: the describer whose descriptions are rephrased, one of known quality.
        quality: the quality of the source's.
        role: the LLM role that writes.
    """

    prompt = Prompt("describers", "prompts/rephrased.j2")
    llm_required = True

    def __init__(self, source: str, quality: float = 1.0, role: str = "explainer") -> None:
        self.after, self.role = (source,), role
        self.corruption = Corruption("rephrased", quality)

    async def describe(self, case: DescriberCase) -> Draft:
        """Ask for other words."""
        (source,) = self.after
        given = case.others[source].get(case.neuron)
        if given is None or given.status is not Status.OK:
            raise Unanswered(Status.FAILED, f"{source} has no description of {case.neuron}")
        prompt = self.prompt.render(description=given.text, words=len(given.text.split()))
        return Draft((await ask(case.require_llm(), prompt, _Rephrased)).description, f"{source}'s, rephrased")


def _parted(text: str) -> tuple[list[str], list[str]]:
    """Return a description's items, and the mark behind each; joined they are the description."""
    parts = [*_PARTS.split(text), ""]
    items, marks = [], []
    for item, mark in zip(parts[::2], parts[1::2], strict=True):
        if item:
            items.append(item)
            marks.append(mark)
        elif marks:
            marks[-1] += mark
    return (items, marks) if items else ([text], [""])


def _joined(items: Mapping[int, str], marks: Sequence[str]) -> str:
    """Return the items at some places with the marks that stood there; the last one ends as the whole text did."""
    *before, last = items
    return "".join(f"{items[place]}{marks[place]}" for place in before) + items[last] + marks[-1]
