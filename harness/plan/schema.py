"""The data of a plan: ``python -m harness.plan --json`` prints it."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field, fields


class Basis(enum.StrEnum):
    """Where a time comes from."""

    MEASURED = "measured"  # in a short trial on this machine
    ASSUMED = "assumed"  # from a speed that was not measured; an option changes it
    NOTHING = "nothing to do"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class SubjectPlan:
    """Size of the model under study; ``here``: whether its files are on this machine."""

    name: str
    here: bool
    layers: int
    d_model: int
    d_mlp: int
    vocabulary: int


@dataclass(frozen=True)
class Amount:
    """Number of LLM calls and their tokens, and how many of them the cache answers."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_calls: int = 0
    cached_prompt_tokens: int = 0
    cached_completion_tokens: int = 0

    @property
    def paid_calls(self) -> int:
        """Calls that reach an LLM."""
        return self.calls - self.cached_calls

    @property
    def paid_prompt_tokens(self) -> int:
        """Prompt tokens of the calls that reach an LLM."""
        return self.prompt_tokens - self.cached_prompt_tokens

    @property
    def paid_completion_tokens(self) -> int:
        """Completion tokens of the calls that reach an LLM."""
        return self.completion_tokens - self.cached_completion_tokens

    def __add__(self, other: Amount) -> Amount:
        """Return the sum."""
        return Amount(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(Amount)})


@dataclass(frozen=True)
class MethodPlan:
    """What one describer, comparator or scorer (``kind``) still has to do.

    ``items`` are neurons to describe, pairs to compare (in each order), or descriptions to score; ``retests`` are items
    that a judge answers a second time; ``done`` counts answered items; ``roles`` has the LLM calls by role. ``exact``:
    whether calls were counted or are equal for all items of the trial; else they are extrapolated from its mean.
    """

    name: str
    kind: str
    control: bool
    items: int
    retests: int
    done: int
    exact: bool
    roles: dict[str, Amount]

    @property
    def total(self) -> Amount:
        """LLM calls of all roles."""
        return sum(self.roles.values(), Amount())


@dataclass(frozen=True)
class RolePlan:
    """LLM calls of one role.

    ``managed``: whether the run starts its server. ``longest_tokens``: tokens of the longest conversation, including
    its longest allowed answer. ``cost`` and ``seconds`` are those of the calls that reach an LLM: the cost by
    ``llm.ROLE.price`` (None without one), the time at the assumed speed of its server, all requests together.
    """

    role: str
    model: str
    managed: bool
    amount: Amount
    exact: bool
    longest_tokens: int
    cost: float | None
    prompt_tokens_per_second: float
    completion_tokens_per_second: float
    seconds: float


@dataclass(frozen=True)
class StagePlan:
    """A stage of the run and its duration; None if it is unknown."""

    name: str
    seconds: float | None
    basis: Basis
    note: str = ""


@dataclass(frozen=True)
class DiskPlan:
    """Bytes that the run writes to one folder (None if unknown), and the bytes that are free there."""

    what: str
    path: str
    bytes: int | None
    free: int


@dataclass(frozen=True)
class Power:
    """Win-rate differences (wins less losses) that the run can detect, None if it can detect none.

    Two-sided tests without ties (which would make smaller differences detectable); several judges or signs of one
    neuron count once. ``tests`` pairs of describers share the level.
    """

    neurons: int
    level: float
    power: float
    tests: int
    smallest_of_one_pair: float | None
    smallest_of_every_pair: float | None
    wanted: float
    needed_for_one_pair: int
    needed_for_every_pair: int


@dataclass(frozen=True)
class RunPlan:
    """A plan.

    ``state`` is new, unfinished, finished or another run's. ``described`` and ``tried`` (neurons of the trial) count
    each sign of a neuron. ``vectors`` are still to decompose, ``channels`` still to find. ``evidence`` of the trial:
    that of the run, that of the store, from a few documents (trial), or from a tiny random model (stand-in). ``stops``:
    why the run would be refused, and limits that it exceeds.
    """

    name: str
    folder: str
    state: str
    subject: SubjectPlan
    layers: list[int]
    neurons: int
    described: int
    kinds: list[str]
    vectors: int
    channels: int
    tried: int
    evidence: str
    methods: list[MethodPlan]
    roles: list[RolePlan]
    stages: list[StagePlan]
    disk: list[DiskPlan]
    power: Power | None
    trial_seconds: float
    stops: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Total duration of the stages with a known duration."""
        return sum(stage.seconds or 0 for stage in self.stages)

    @property
    def calls(self) -> int:
        """Calls that reach an LLM."""
        return sum(role.amount.paid_calls for role in self.roles)

    @property
    def cost(self) -> float | None:
        """Cost of all calls, None if that of a role is unknown."""
        return total_cost(self.roles)


def unpriced(roles: Sequence[RolePlan]) -> list[str]:
    """Return the called roles whose cost is unknown; servers that the run starts itself cost nothing per token."""
    return [role.role for role in roles if role.amount.paid_calls and role.cost is None and not role.managed]


def total_cost(roles: Sequence[RolePlan]) -> float | None:
    """Return the cost of all calls, None if that of a role is unknown."""
    return None if unpriced(roles) else sum(role.cost or 0.0 for role in roles if role.amount.paid_calls)
