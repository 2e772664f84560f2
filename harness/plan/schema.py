"""The data of a plan: ``python -m harness.plan --json`` prints it."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, NamedTuple

import pydantic.dataclasses

from harness.validation import Count, Positive


class Rate(NamedTuple):
    """Tokens per second of one server, all requests together."""

    prompt: Positive
    completion: Positive


#: Order of magnitude for a model of 30 billion parameters on one large GPU.
DEFAULT_RATE = Rate(6000, 1200)


@pydantic.dataclasses.dataclass(frozen=True)
class Assumptions:
    """Assumptions of a plan, and its limits; ``python -m harness.plan --help`` explains them.

    ``rates`` is by role; the rate of the name "" holds for all other roles.
    """

    neurons: Count = 4
    rates: Mapping[str, Rate] = field(default_factory=dict)
    teraflops: Positive = 50.0
    difference: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.2
    max_calls: Count | None = None
    max_cost: Positive | None = None
    max_hours: Positive | None = None


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
    """Number of LLM calls and their tokens: in total, and ``paid`` for those that the cache does not answer."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    paid_calls: int = 0
    paid_prompt_tokens: int = 0
    paid_completion_tokens: int = 0

    def __add__(self, other: Amount) -> Amount:
        """Return the sum."""
        return Amount(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(Amount)))


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
    its longest allowed answer. ``cost`` (None without ``llm.ROLE.price``) and ``seconds`` (at the assumed speed of its
    server) are those of the calls that reach an LLM.
    """

    role: str
    model: str
    managed: bool
    amount: Amount
    exact: bool
    longest_tokens: int
    cost: float | None
    rate: Rate
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
    """Win-rate difference (wins less losses) that the run can detect, and neurons needed for ``--difference``.

    ``smallest_ratio`` is the same as wins divided by losses: (1 + difference) / (1 - difference); None if infinite.
    Two-sided tests without ties (which would make smaller differences detectable), of which ``tests`` share the level;
    several judges or signs of one neuron count once.
    """

    comparison: str
    tests: int
    smallest_difference: float | None
    smallest_ratio: float | None
    wanted: float
    neurons_needed: int


@dataclass(frozen=True)
class RunPlan:
    """A plan.

    ``state`` is new, unfinished, finished or another run's. ``described`` and ``tried`` (neurons of the trial) count
    each sign of a neuron. ``vectors`` are still to decompose, ``channels`` still to find. ``evidence`` of the trial:
    that of the run, that of the store, from a few documents (trial), or from a tiny random model (stand-in). ``calls``
    reach an LLM. ``cost`` is None if that of a role is unknown; ``seconds`` covers the stages with a known duration.
    ``stops``: why the run would be refused, and limits that it exceeds.
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
    power: list[Power]
    calls: int
    cost: float | None
    seconds: float
    trial_seconds: float
    stops: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def unpriced(roles: Sequence[RolePlan]) -> list[str]:
    """Return the called roles whose cost is unknown; servers that the run starts itself cost nothing per token."""
    return [role.role for role in roles if role.amount.paid_calls and role.cost is None and not role.managed]


def total_cost(roles: Sequence[RolePlan]) -> float | None:
    """Return the cost of all calls, None if that of a role is unknown."""
    return None if unpriced(roles) else sum(role.cost or 0.0 for role in roles)
