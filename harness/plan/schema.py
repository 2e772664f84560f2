"""What a plan says, as data: ``python -m harness.plan --json`` prints it, and ``--schema`` prints its JSON schema."""

from __future__ import annotations

import enum

from pydantic import BaseModel, ConfigDict, Field


class Exactness(enum.StrEnum):
    """How sure a count is."""

    EXACT = "exact"  # counted, or the same for every item that was tried
    ESTIMATE = "estimate"  # the mean of the items that were tried, for all; scorers' on evidence that is not the run's


class Basis(enum.StrEnum):
    """Where a time comes from."""

    MEASURED = "measured"  # in a short probe on this machine
    ASSUMED = "assumed"  # from a speed that nobody measured; an option changes it
    NOTHING = "nothing to do"
    UNKNOWN = "unknown"


class Level(enum.StrEnum):
    """How bad something is."""

    STOP = "stop"  # the run would be refused, or a limit is exceeded
    WARNING = "warning"  # it would run, and cost or show something else than what was hoped for
    NOTE = "note"


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Flag(_Data):
    """Something that looks wrong."""

    level: Level
    text: str


class SubjectPlan(_Data):
    """The model under study. ``here``: whether its files are on this machine."""

    name: str
    here: bool
    layers: int
    d_model: int
    d_mlp: int
    vocabulary: int


class Amount(_Data):
    """What is asked of LLMs: calls and tokens in and out; those that the cache answers are ``cached``, and not paid."""

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
        """Tokens in, of these calls."""
        return self.prompt_tokens - self.cached_prompt_tokens

    @property
    def paid_completion_tokens(self) -> int:
        """Tokens out, of these calls."""
        return self.completion_tokens - self.cached_completion_tokens

    def __add__(self, other: Amount) -> Amount:
        """Return the sum."""
        return Amount(**{name: getattr(self, name) + getattr(other, name) for name in type(self).model_fields})


class MethodPlan(_Data):
    """What one describer, comparator or scorer still has to answer.

    ``items`` are neurons to describe, pairs to compare in each order, or descriptions to grade; ``retests`` those asked
    for a second time. ``roles``: what is asked of each LLM role.
    ``local_seconds``: what its own work takes here, of methods that ask no LLM.
    """

    name: str
    kind: str = Field(description="describer, comparator or scorer")
    control: bool = False
    items: int
    done: int
    retests: int = 0
    exactness: Exactness
    roles: dict[str, Amount] = {}
    local_seconds: float | None = None

    @property
    def total(self) -> Amount:
        """What it asks of all roles."""
        return sum(self.roles.values(), Amount())


class RolePlan(_Data):
    """What is asked of one LLM role. Cost and paid cost are in the currency of ``llm.ROLE.price``; none without one."""

    role: str
    model: str
    managed: bool = Field(description="whether the run starts a server for it")
    amount: Amount
    exactness: Exactness
    tokens_by: str = Field(description="how tokens were counted")
    longest_tokens: int = Field(description="the longest conversation, its longest allowed answer included")
    cost: float | None = Field(description="of the calls that are not cached")
    saved: float | None = Field(description="of those that are")
    prompt_tokens_per_second: float
    completion_tokens_per_second: float
    rate_is: Basis
    seconds: float


class StagePlan(_Data):
    """A stage of the run and the seconds that it takes."""

    name: str
    seconds: float | None
    basis: Basis
    note: str = ""


class DiskPlan(_Data):
    """Bytes that the run writes into one place, and what is free there."""

    what: str
    path: str
    bytes: int | None
    free: int


class Power(_Data):
    """What so many neurons can show: differences are win rate of one method less that of the other.

    Assumed are two-sided tests at ``level`` with ``power``, no ties (more of them only help), and that several judges
    or signs of one neuron add nothing. ``tests``: pairs of describers that share the level.
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


class RunPlan(_Data):
    """All that a plan says. Nothing was spent for it."""

    name: str
    folder: str
    state: str = Field(description="new, unfinished, finished, or another run's")
    subject: SubjectPlan
    layers: list[int]
    neurons: int
    described: int = Field(description="neurons at their signs")
    kinds: list[str]
    vectors: int = Field(description="weight vectors still to decompose")
    channels: int = Field(description="channels still to find")
    pairs: int = Field(description="pairs of describers")
    schedule: str
    tried: int = Field(description="neurons of the probe, at their signs")
    evidence: str = Field(description="of the probe: run, store, probe or stand-in")
    methods: list[MethodPlan]
    roles: list[RolePlan]
    stages: list[StagePlan]
    disk: list[DiskPlan]
    power: Power | None
    flags: list[Flag]
    probe_seconds: float

    @property
    def seconds(self) -> float:
        """Of all stages whose time is known."""
        return sum(stage.seconds or 0 for stage in self.stages)

    @property
    def calls(self) -> int:
        """Calls that reach an LLM."""
        return sum(role.amount.paid_calls for role in self.roles)

    @property
    def cost(self) -> float | None:
        """What is paid, if every role's is known; servers of one's own that have no price are not paid by the token."""
        return None if self.unpriced else sum(role.cost or 0.0 for role in self.roles if role.amount.paid_calls)

    @property
    def unpriced(self) -> list[str]:
        """Roles that are paid for, nobody knows how much."""
        return [role.role for role in self.roles if role.amount.paid_calls and role.cost is None and not role.managed]

    @property
    def stopped(self) -> bool:
        """Whether something would stop the run, or exceeds a limit."""
        return any(flag.level is Level.STOP for flag in self.flags)
