"""What people said of pairs of descriptions, from a file: a judge like any other, and the yardstick of the others.

One label a line, as CSV with a header, or as JSON lines (``.jsonl``):

====================  ======================================================================================
``neuron``            the neuron's name: ``L3N17``; ``L3N17-`` for its negative sign
``first, second``     names of the two describers, in the order in which the person saw them
``winner``            ``first``, ``second`` or ``tie``
``rater``             who said it; may be missing if there is one rater only
``first_text``,       what the person read. Optional; where they are given, a label counts only if the run's
``second_text``       descriptions still are those, and otherwise the verdict fails and says so
====================  ======================================================================================
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import HarnessError
from harness.llm.client import Unanswered
from harness.methods import Comparator, JudgeCase, Judgement
from harness.records import Neuron, Side, Status, Vote, Winner
from judges.panel import count_votes

TURNED = {Winner.FIRST: Winner.SECOND, Winner.SECOND: Winner.FIRST, Winner.TIE: Winner.TIE}


class Label(BaseModel):
    """One label of one rater."""

    model_config = ConfigDict(extra="forbid")

    neuron: str
    first: str
    second: str
    winner: Winner
    rater: str = "rater"
    first_text: str | None = None
    second_text: str | None = None

    def turned(self) -> Label:
        """Return the same label with the two descriptions the other way round."""
        return Label(
            neuron=self.neuron,
            first=self.second,
            second=self.first,
            winner=TURNED[self.winner],
            rater=self.rater,
            first_text=self.second_text,
            second_text=self.first_text,
        )


class HumanLabels(Comparator):
    """Says what people said, as a file has it: for each pair that was labelled, what most raters preferred.

    Pairs without a label are not asked, so that they are missing and not failed. A person's label is taken for what the
    person meant, whatever the order on the screen: one record is the whole comparison, and each rater's vote is kept
    with it. The file is read strictly: a rater who labels a pair twice, in either order, a describer that is not in the
    run, an unknown column or winner are mistakes, told with their line.

    Args:
        path: the file, ``.csv`` or ``.jsonl``.
        side: which side of the neuron the raters looked at: ``input``, ``output`` or ``both``.
        columns: the file's own names of columns that are called otherwise there, such as ``{rater: annotator}``.
    """

    symmetric = True
    is_human = True

    def __init__(self, path: str, side: str = "both", columns: Mapping[str, str] | None = None) -> None:
        if side not in list(Side):
            raise HarnessError(f"side is {side!r}; choose input, output or both")
        self.side = Side(side)
        self._path, self._columns = Path(path).expanduser(), dict(columns or {})

    @property
    def inputs(self) -> str:
        """A hash of the file."""
        return hashlib.sha256(self._content.encode()).hexdigest()[:16]

    def check(self, neurons: Sequence[Neuron], describers: Sequence[str]) -> None:
        """Read the file, and check that every label is of this run.

        Raises:
            HarnessError: naming the first line that is not as it should be.
        """
        known = {str(neuron) for neuron in neurons}
        labels = [label for found in self._labels.values() for label in found]
        for label in labels:
            for name in (label.first, label.second):
                if name not in describers:
                    raise HarnessError(
                        f"{self._path} has labels of the describer {name!r}, which is not in this run "
                        f"({', '.join(describers)})"
                    )
        if labels and not any(label.neuron in known for label in labels):
            raise HarnessError(
                f"{self._path} has no label of any neuron of this run (such as {min(known)}; it has "
                f"{labels[0].neuron}): choose the neurons that were labelled (neurons=listed)"
            )

    def covers(self, neuron: Neuron, first: str, second: str) -> bool:
        """Tell whether anybody labelled the pair."""
        return bool(self._of(neuron, first, second))

    async def compare(self, case: JudgeCase, first: str, second: str) -> Judgement:
        """Look the labels up, and count."""
        labels = self._of(case.neuron, *case.contestants)
        if not labels:
            raise Unanswered(Status.FAILED, "nobody labelled this pair")
        votes = []
        for label in labels:
            stale = (label.first_text or first, label.second_text or second) != (first, second)
            if stale:
                votes.append(
                    Vote(label.rater, None, Status.FAILED, "the descriptions are not those that were labelled")
                )
            else:
                votes.append(Vote(label.rater, label.winner))
        return count_votes(votes, quorum=1)

    def _of(self, neuron: Neuron, first: str, second: str) -> list[Label]:
        found = self._labels.get((str(neuron), *sorted((first, second))), [])
        return [label if label.first == first else label.turned() for label in found]

    @cached_property
    def _content(self) -> str:
        try:
            return self._path.read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise HarnessError(f"the human labels {self._path} cannot be read ({error}); give another path") from error

    @cached_property
    def _labels(self) -> dict[tuple[str, ...], list[Label]]:
        found: dict[tuple[str, ...], list[Label]] = defaultdict(list)
        lines: dict[tuple[str, ...], int] = {}
        for number, row in self._rows():
            own = {known: row.pop(theirs) for known, theirs in self._columns.items() if theirs in row}
            try:
                label = Label.model_validate({name: value for name, value in (row | own).items() if value is not None})
            except ValidationError as error:
                first = error.errors()[0]
                raise self._mistake(number, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
            if label.first == label.second:
                raise self._mistake(number, f"{label.first} is compared with itself")
            pair = (label.neuron, *sorted((label.first, label.second)))
            if (*pair, label.rater) in lines:
                earlier = lines[*pair, label.rater]
                raise self._mistake(
                    number, f"{label.rater} labels this pair of {label.neuron} a second time (line {earlier})"
                )
            lines[*pair, label.rater] = number
            found[pair].append(label)
        if not found:
            raise HarnessError(f"the human labels {self._path} hold no label")
        return dict(found)

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        if self._path.suffix == ".jsonl":
            for number, line in enumerate(self._content.split("\n"), start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise self._mistake(number, f"is no JSON ({error})") from error
                if not isinstance(row, dict):
                    raise self._mistake(number, "is no JSON object")
                yield number, row
        elif self._path.suffix == ".csv":
            reader = csv.DictReader(io.StringIO(self._content, newline=""), strict=True)
            try:
                for row in reader:
                    if None in row or None in row.values():
                        raise self._mistake(reader.line_num, "has more or fewer fields than the header")
                    yield reader.line_num, {name: value for name, value in row.items() if value != ""}
            except csv.Error as error:
                raise self._mistake(reader.line_num, str(error)) from error
        else:
            raise HarnessError(f"the human labels {self._path} must be a .csv or a .jsonl file")

    def _mistake(self, number: int, what: str) -> HarnessError:
        return HarnessError(f"{self._path} line {number}: {' '.join(what.split())}")
