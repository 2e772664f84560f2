"""Human labels of pairs of descriptions, from a file: a judge like any other, and the reference for the other judges.

One label per row of a .csv, .tsv, .jsonl or .parquet file:

====================  ======================================================================================
``neuron``            the neuron's name: ``L3N17``; ``L3N17-`` for its negative sign
``first, second``     names of the two describers, in the order in which the rater saw them
``winner``            ``first``, ``second`` or ``tie``
``rater``             who gave the label; optional if there is only one rater
``first_text``,       what the rater read; optional. If they are given, a label counts only if the run's
``second_text``       descriptions are the same, and the verdict fails otherwise
====================  ======================================================================================
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, field_validator

from harness.errors import HarnessError
from harness.llm.client import Unanswered
from harness.methods import Comparator, JudgeCase, Judgement
from harness.records import Neuron, Side, Status, Vote, Winner
from harness.row_files import file_hash, read_records
from harness.validation import validated
from judges.panel import count_votes

SWAPPED = {Winner.FIRST: Winner.SECOND, Winner.SECOND: Winner.FIRST, Winner.TIE: Winner.TIE}


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

    @field_validator("neuron", "first", "second", "rater")
    @classmethod
    def _exact(cls, name: str) -> str:
        if name != name.strip():
            raise ValueError(f"remove the blanks around {name!r}")
        return name


class HumanLabels(Comparator):
    """Gives the verdict of most raters for each pair that was labelled.

    Pairs without a label are skipped, so they are missing and not failed. A label holds in both orders of a pair, so
    one record is the whole comparison; it keeps each rater's vote. The file is read strictly: two labels of one pair by
    one rater (in either order), a neuron or describer that is not in the run, or an unknown column or winner is an
    error that names the line.
    """

    symmetric = True
    is_human = True

    @validated
    def __init__(self, path: str, side: Side = Side.BOTH, columns: Mapping[str, str] | None = None) -> None:
        self.side = side
        self._path, self._columns = Path(path).expanduser(), dict(columns or {})

    @property
    def inputs(self) -> str:
        """A hash of the file."""
        return file_hash(self._path)

    def check(self, neurons: Sequence[Neuron], describers: Sequence[str]) -> None:
        """Read the file, and check that its labels belong to this run.

        Raises:
            HarnessError: if one does not, or the file has an error.
        """
        assert self._labels, "empty files are refused"
        known = {str(neuron) for neuron in neurons}
        for place, label in self._rows:
            for name in (label.first, label.second):
                if name not in describers:
                    raise HarnessError(
                        f"{self._path}, {place}: the describer {name!r} is not in this run ({', '.join(describers)})"
                    )
            if label.neuron not in known:
                raise HarnessError(
                    f"{self._path}, {place}: the neuron {label.neuron!r} is not in this run (such as {min(known)}): "
                    "choose the neurons that were labelled (neurons=listed), or remove the label"
                )

    def covers(self, neuron: Neuron, first: str, second: str) -> bool:
        """Return whether the pair has a label."""
        return bool(self._of(neuron, first, second))

    async def compare(self, case: JudgeCase, first: str, second: str) -> Judgement:
        """Look up the labels, and count."""
        names = case.contestants
        labels = self._of(case.neuron, *names)
        if not labels:
            raise Unanswered(Status.FAILED, "nobody labelled this pair")
        stale = "the descriptions are not those that were labelled"
        votes = []
        for label in labels:
            turned = label.first != names[0]
            read = (label.second_text, label.first_text) if turned else (label.first_text, label.second_text)
            if (read[0] or first, read[1] or second) == (first, second):
                votes.append(Vote(label.rater, SWAPPED[label.winner] if turned else label.winner))
            else:
                votes.append(Vote(label.rater, None, Status.FAILED, stale))
        return count_votes(votes, quorum=1)

    def _of(self, neuron: Neuron, first: str, second: str) -> list[Label]:
        return self._labels.get((str(neuron), *sorted((first, second))), [])

    @cached_property
    def _rows(self) -> list[tuple[str, Label]]:
        return list(read_records(self._path, Label, self._columns))

    @cached_property
    def _labels(self) -> dict[tuple[str, ...], list[Label]]:
        found: dict[tuple[str, ...], list[Label]] = defaultdict(list)
        places: dict[tuple[str, ...], str] = {}
        for place, label in self._rows:
            if label.first == label.second:
                raise HarnessError(f"{self._path}, {place}: {label.first} is compared with itself")
            pair = (label.neuron, *sorted((label.first, label.second)))
            if earlier := places.get((*pair, label.rater)):
                raise HarnessError(
                    f"{self._path}, {place}: {label.rater} labels this pair of {label.neuron} a second time ({earlier})"
                )
            places[*pair, label.rater] = place
            found[pair].append(label)
        if not found:
            raise HarnessError(f"the human labels {self._path} hold no label")
        return dict(found)
