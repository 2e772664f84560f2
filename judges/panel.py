"""Several judges as one: the verdict that most of them give.

A panel of different judges is less swayed by the bias of any one of them (Verga et al. 2024, arXiv:2404.18796).
Listing the same judges singly (``judges=[a,b,c]``) asks the same questions, and reports each judge's board and the mean
over all; a panel makes of each pair one verdict, which is what decides.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from harness.errors import HarnessError
from harness.llm.asking import all_answers
from harness.llm.client import Unanswered
from harness.methods import Comparator, JudgeCase, Judgement
from harness.records import Neuron, Side, Status, Vote, Winner

POINTS = {Winner.FIRST: 1.0, Winner.TIE: 0.5, Winner.SECOND: 0.0}


class Panel(Comparator):
    """Asks every member and takes the verdict that most of those who answered give; if several are as many, a tie.

    Every member's vote is kept with the verdict, its failures too. Fewer answers than ``quorum`` make the verdict a
    failure, since a verdict of fewer members is one by another panel. The soft preference is the mean over the members'
    (0, 1/2 or 1 of a member that has none): for equal members, the share of votes.

    Args:
        members: the judges by name, each a comparator of its own.
        quorum: members that must answer; none for all of them.
    """

    def __init__(self, members: Mapping[str, Comparator], quorum: int | None = None) -> None:
        odd = [name for name, member in members.items() if not isinstance(member, Comparator)]
        if len(members) < 2 or odd:
            what = f"{odd[0]} is none" if odd else f"there is {len(members)}"
            raise HarnessError(f"a panel needs at least two comparators as members, and {what} (members)")
        self.quorum = len(members) if quorum is None else quorum
        if not 1 <= self.quorum <= len(members):
            raise HarnessError(f"quorum is {quorum}; it must lie between 1 and the number of members, {len(members)}")
        self.members, self.inner = dict(members), tuple(members.values())
        # A member that ignores the order gives the same vote in both.
        self.symmetric = all(member.symmetric for member in members.values())
        sides = {member.side for member in members.values()}
        self.side = sides.pop() if len(sides) == 1 else Side.BOTH
        self.needs_effects = any(member.needs_effects for member in members.values())
        self.needs_steered = any(member.needs_steered for member in members.values())
        self.llm_required = False  # its members say what they need
        roles: dict[str, bool] = {}
        for member in self.inner:
            for role, needs_logprobs in member.roles.items():
                roles[role] = roles.get(role, False) or needs_logprobs
        self.extra_roles = roles

    def check(self, neurons: Sequence[Neuron], describers: Sequence[str]) -> None:
        """Let every member check."""
        for name, member in self.members.items():
            try:
                member.check(neurons, describers)
            except HarnessError as error:
                raise HarnessError(f"{name}: {error}") from error

    def covers(self, neuron: Neuron, first: str, second: str) -> bool:
        """Tell whether enough members have anything to say."""
        return sum(member.covers(neuron, first, second) for member in self.members.values()) >= self.quorum

    async def compare(self, case: JudgeCase, first: str, second: str) -> Judgement:
        """Ask all members at once, and count."""
        asked = (
            _vote(name, member, case, first, second)
            for name, member in self.members.items()
            if member.covers(case.neuron, *case.contestants)
        )
        return count_votes(await all_answers(asked), self.quorum)


def count_votes(votes: Sequence[Vote], quorum: int) -> Judgement:
    """Return the verdict of several votes: the one that most give; if several are as many, a tie.

    Args:
        votes: the votes, failed ones too.
        quorum: how many must be ok; with fewer the judgement is failed.
    """
    said = [vote.winner for vote in votes if vote.winner is not None]
    counts = Counter(said)
    told = ", ".join(f"{vote.judge} {vote.winner or vote.status}" for vote in votes)
    if len(said) < max(quorum, 1):
        reasons = "; ".join(f"{vote.judge} {vote.status}: {vote.reason}" for vote in votes if vote.winner is None)
        detail = f"{len(said)} of {len(votes)} members gave a verdict, and {quorum} must ({reasons})"
        return Judgement(None, detail, votes=tuple(votes), status=Status.FAILED)
    most = max(counts.values())
    leading = [winner for winner, count in counts.items() if count == most]
    winner = leading[0] if len(leading) == 1 else Winner.TIE
    soft = [
        vote.preference if vote.preference is not None else POINTS[vote.winner]
        for vote in votes
        if vote.winner is not None
    ]
    return Judgement(winner, told, round(sum(soft) / len(soft), 6), votes=tuple(votes))


async def _vote(name: str, member: Comparator, case: JudgeCase, first: str, second: str) -> Vote:
    """Ask one member; what it raises is its failure, and only a user's mistake goes through."""
    own = dataclasses.replace(case, llm=case.llms.get(member.role or ""))
    try:
        judged = await member.compare(own, first, second)
    except HarnessError:
        raise
    except Unanswered as error:
        return Vote(name, None, error.status, str(error))
    except Exception as error:
        return Vote(name, None, Status.FAILED, f"{type(error).__name__}: {error}")
    if judged.winner is None:
        return Vote(name, None, judged.status if judged.status is not Status.OK else Status.FAILED, judged.reason)
    return Vote(name, judged.winner, Status.OK, judged.reason, judged.preference, judged.mass)
