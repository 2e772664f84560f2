"""Several judges as one: the verdict that most of them give.

A panel of different judges is less affected by the bias of each (Verga et al. 2024, arXiv:2404.18796). Listing the same
judges separately (``judges=[a,b,c]``) asks the same questions, and reports a leaderboard for each judge and the mean
over all; a panel turns each pair into one verdict first.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import HarnessError
from harness.llm.asking import all_answers
from harness.methods import Comparator, JudgeCase, Judgement, outcome, roles_of
from harness.records import Neuron, Side, Status, Vote, Winner
from harness.validation import Count, validated

POINTS = {Winner.FIRST: 1.0, Winner.TIE: 0.5, Winner.SECOND: 0.0}


class Panel(Comparator):
    """Asks every member and takes the verdict that most of them give; a tie if several verdicts are equally frequent.

    The record keeps every member's vote, also failed ones. With fewer answers than ``quorum`` the verdict is a failure,
    because it would be that of another panel. The soft preference is the mean over the members (0, 1/2 or 1 for a
    member without one).
    """

    @validated
    def __init__(self, members: Mapping[str, Any], quorum: Count | None = None) -> None:
        others = [name for name, member in members.items() if not isinstance(member, Comparator)]
        if len(members) < 2 or others:
            what = f"{others[0]} is not a comparator" if others else f"there is {len(members)}"
            raise HarnessError(f"a panel needs at least two comparators as members: {what} (members)")
        self.quorum = len(members) if quorum is None else quorum
        if not 1 <= self.quorum <= len(members):
            raise HarnessError(f"quorum is {quorum}; it must be from 1 to the number of members, {len(members)}")
        comparators: list[Comparator] = list(members.values())
        self.members, self.inner = dict(zip(members, comparators, strict=True)), tuple(comparators)
        # A member that ignores the order gives the same vote in both.
        self.symmetric = all(member.symmetric for member in comparators)
        sides = {member.side for member in comparators}
        self.side = sides.pop() if len(sides) == 1 else Side.BOTH
        self.needs_effects = any(member.needs_effects for member in comparators)
        self.needs_steered = any(member.needs_steered for member in comparators)
        self.llm_required = False  # its members have their own
        self.extra_roles = roles_of(comparators)

    def check(self, neurons: Sequence[Neuron], describers: Sequence[str]) -> None:
        """Let every member check."""
        for name, member in self.members.items():
            try:
                member.check(neurons, describers)
            except HarnessError as error:
                raise HarnessError(f"{name}: {error}") from error

    def covers(self, neuron: Neuron, first: str, second: str) -> bool:
        """Return whether enough members cover the pair."""
        return sum(member.covers(neuron, first, second) for member in self.members.values()) >= self.quorum

    async def compare(self, case: JudgeCase, first: str, second: str) -> Judgement:
        """Ask all members concurrently, and count."""
        votes = await all_answers(
            _vote(name, member, case, first, second)
            for name, member in self.members.items()
            if member.covers(case.neuron, *case.contestants)
        )
        return count_votes(votes, self.quorum)


def count_votes(votes: Sequence[Vote], quorum: int) -> Judgement:
    """Return the most frequent verdict; a tie if several are equally frequent.

    Args:
        votes: the votes, including failed ones.
        quorum: minimum number of ok votes; with fewer, the judgement is failed.
    """
    winners = [vote.winner for vote in votes if vote.winner is not None]
    if len(winners) < max(quorum, 1):
        reasons = "; ".join(f"{vote.judge} {vote.status}: {vote.reason}" for vote in votes if vote.winner is None)
        detail = f"{len(winners)} of {len(votes)} members gave a verdict, and {quorum} must ({reasons})"
        return Judgement(None, detail, votes=tuple(votes), status=Status.FAILED)
    (winner, count), *others = Counter(winners).most_common()
    if others and others[0][1] == count:
        winner = Winner.TIE
    preferences = [
        POINTS[vote.winner] if vote.preference is None else vote.preference for vote in votes if vote.winner is not None
    ]
    reason = ", ".join(f"{vote.judge} {vote.winner or vote.status}" for vote in votes)
    return Judgement(winner, reason, round(sum(preferences) / len(preferences), 6), votes=tuple(votes))


async def _vote(name: str, member: Comparator, case: JudgeCase, first: str, second: str) -> Vote:
    """Ask one member; an exception is a failed vote."""
    inner = dataclasses.replace(case, llm=case.llms.get(member.role or ""))
    judged, status, detail = await outcome(member.compare(inner, first, second))
    if judged is None:
        return Vote(name, None, status, detail)
    if judged.winner is None:
        return Vote(name, None, judged.status if judged.status is not Status.OK else Status.FAILED, judged.reason)
    return Vote(name, judged.winner, Status.OK, judged.reason, judged.preference, judged.mass)
