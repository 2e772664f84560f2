"""From a config to a plan: what remains, what a probe of it found, and what both come to."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from transformers.utils import logging as transformers_logging

from harness.errors import HarnessError
from harness.folder import RunFolder
from harness.llm.client import Price
from harness.plan.dry import Counter
from harness.plan.flags import flags_of
from harness.plan.probe import Findings, Sample, kind_of_layer, probe
from harness.plan.schema import (
    Amount,
    Basis,
    DiskPlan,
    Exactness,
    Flag,
    Level,
    MethodPlan,
    Power,
    RolePlan,
    RunPlan,
    SubjectPlan,
)
from harness.plan.stages import stages_of
from harness.plan.stand_in import Declared, checked_shape, make_stand_in
from harness.plan.work import Work, work_of
from harness.records import RoleUsage, Usage
from harness.run.decompose import bytes_kept
from harness.run.identity import check_same_run
from harness.run.setup import Setup
from harness.stats.power import Plan, neurons_needed, smallest_difference
from harness.subject import Subject
from harness.subject.architecture import ARCHITECTURES

#: Of a model that this machine could not run within a probe, if it has no GPU: bytes of its checkpoint.
TOO_LARGE = 2 << 30


@dataclass(frozen=True)
class Rate:
    """Tokens per second of one server, all requests together."""

    prompt: float
    completion: float


@dataclass(frozen=True)
class Assumptions:
    """What a plan cannot know, and its limits.

    Attributes:
        neurons: neurons that are tried.
        rates: tokens per second of each role's server; of any role under the empty name.
        teraflops: effective speed of the machine that a subject is run on which is not here.
        difference: win-rate difference that the run is to show.
        power: chance to see it.
        online: whether the network may be used.
        max_calls: most LLM calls that are allowed; none for no limit.
        max_cost: likewise what may be paid.
        max_hours: likewise the hours.
    """

    neurons: int = 4
    rates: Mapping[str, Rate] = field(default_factory=dict)
    teraflops: float = 50.0
    difference: float = 0.2
    power: float = 0.8
    online: bool = False
    max_calls: int | None = None
    max_cost: float | None = None
    max_hours: float | None = None

    def rate(self, role: str) -> Rate:
        """Return the speed of a role's server."""
        # Of one server of a model of some 30 billion parameters on one large GPU: an order of magnitude, no more.
        return self.rates.get(role) or self.rates.get("") or Rate(6000, 1200)


def plan_of(composed: DictConfig, assumptions: Assumptions | None = None) -> RunPlan:
    """Plan a run; no LLM is asked, no server started, and nothing written into the run's folder.

    Args:
        composed: its configuration.
        assumptions: what the plan cannot know.

    Raises:
        HarnessError: for everything that the run itself would refuse with before it looks at its folder.
    """
    return plan_of_setup(Setup.of(composed), assumptions)


def plan_of_setup(setup: Setup, assumptions: Assumptions | None = None) -> RunPlan:
    """Plan a run whose objects are already made; as :func:`plan_of`."""
    assumptions = assumptions or Assumptions()
    for role in assumptions.rates.keys() - {"", *setup.backends}:
        known = f"it has {', '.join(sorted(setup.backends))}" if setup.backends else "it has none"
        raise HarnessError(f"this run has no LLM role {role!r}, {known} (--tokens-per-second)")
    start = time.monotonic()
    with _quiet(), tempfile.TemporaryDirectory(prefix="plan-", ignore_cleanup_errors=True) as place:
        return _Planner(setup, assumptions, Path(place)).plan(start)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the stages log to themselves: it is of a run that does not take place."""
    stages, bars = logging.getLogger("harness"), transformers_logging.is_progress_bar_enabled()
    level = stages.level
    stages.setLevel(logging.CRITICAL)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        stages.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


class _Planner:
    def __init__(self, setup: Setup, assumptions: Assumptions, scratch: Path) -> None:
        self._assumed, self._scratch = assumptions, scratch
        self._flags: list[Flag] = []
        self._stand_in: Path | None = None
        self.setup = self._with_subject(setup)

    def _with_subject(self, setup: Setup) -> Setup:
        """Return the setup with the subject itself, or if it is not here with what is known of it."""
        subject = setup.subject
        try:
            layers, paths = subject.num_layers, subject.checkpoint.paths
        except HarnessError as error:
            shape = subject.shape
            if shape is None:
                raise HarnessError(
                    f"{error}; a plan does without the model if subject.shape tells its size, see conf/subject"
                ) from error
            shape = checked_shape(shape)
            self._stand_in = make_stand_in(self._scratch / "stand-in", shape)
            why = str(error) if self._assumed.online else "and a plan downloads nothing without --online"
            self._flags.append(
                Flag(
                    level=Level.NOTE,
                    text=f"{subject.name} is not on this machine ({why}): its size is that of subject.shape, methods "
                    "were tried on a tiny random model in its place, and its times are assumed",
                )
            )
            return dataclasses.replace(setup, subject=Declared(subject.name, self._stand_in, shape))
        size = sum(path.stat().st_size for path in paths)
        if size > TOO_LARGE and setup.executor.device == "cpu":
            shape = {"family": _stand_in_family(subject), "layers": layers}
            self._stand_in = make_stand_in(self._scratch / "stand-in", shape)
            self._flags.append(
                Flag(
                    level=Level.NOTE,
                    text=f"{subject.name} ({size / 1e9:.0f} GB) is too large to be tried on a CPU: methods were tried "
                    "on a tiny random model in its place, and its times are assumed",
                )
            )
        return setup

    def plan(self, start: float) -> RunPlan:
        setup, assumed = self.setup, self._assumed
        setup.check()
        folder, state = self._folder()
        work = work_of(setup, folder, subject_is_here=self._stand_in is None)
        if state == "unfinished" and work.empty:
            state = "finished"
        counters = {role: _counter(backend.model) for role, backend in setup.backends.items()}
        found = probe(
            setup,
            folder,
            work,
            self._scratch / "run",
            count=assumed.neurons,
            counters={role: counter for role, counter in counters.items() if counter is not None},
            stand_in=self._stand_in,
            online=assumed.online,
        )
        methods = [self._method(name, work, found, folder) for name in {**setup.describers, **setup.judges}]
        roles = [self._role(role, methods, found, counters[role] is not None) for role in setup.backends]
        stages = stages_of(setup, work, found, folder, methods, roles, self._stand_in is not None, assumed.teraflops)
        disk = self._disk(work, found, methods, folder)
        subject = setup.subject
        plan = RunPlan(
            name=str(setup.config["name"]),
            folder=str(setup.folder),
            state=state,
            subject=SubjectPlan(
                name=subject.name,
                here=not isinstance(subject, Declared),
                layers=subject.num_layers,
                d_model=subject.d_model,
                d_mlp=subject.d_mlp,
                vocabulary=subject.vocab_size,
            ),
            layers=sorted({neuron.layer for neuron in setup.neurons}),
            neurons=len(setup.neurons),
            described=len(setup.described) if setup.compares else 0,
            kinds=[kind.value for kind in setup.kinds],
            vectors=sum(len(block.neurons) for block in work.vectors),
            channels=sum(
                len(block.neurons) * setup.decomposition.config(block.layer, block.kind).num_channels
                for block in work.vectors
            ),
            pairs=len(setup.comparisons.pairs(setup.describers)),
            schedule=setup.comparisons.schedule,
            tried=found.neurons,
            evidence=found.evidence,
            methods=methods,
            roles=roles,
            stages=stages,
            disk=disk,
            power=self._power(),
            flags=[],
            probe_seconds=round(time.monotonic() - start, 1),
        )
        flags = [*self._flags, *flags_of(setup, plan, work, found, assumed)]
        order = list(Level)
        return plan.model_copy(update={"flags": sorted(flags, key=lambda flag: order.index(flag.level))})

    @cached_property
    def _kinds(self) -> dict[int, tuple[int, ...]]:
        return {layer: kind_of_layer(self.setup, layer) for layer in {neuron.layer for neuron in self.setup.neurons}}

    def _folder(self) -> tuple[RunFolder, str]:
        """Return the run's folder and its state; of another run's, one that does not exist in its place."""
        folder = RunFolder(self.setup.folder)
        if not folder.manifest.exists():
            return folder, "new"
        unknown = ("subject.fingerprint", "subject.ignored_tokens") if isinstance(self.setup.subject, Declared) else ()
        try:
            check_same_run(self.setup, folder, unknown=unknown)
        except HarnessError as error:
            self._flags.append(Flag(level=Level.STOP, text=f"{error}. The plan is that of a new folder"))
            return RunFolder(self._scratch / "nothing"), "another run's"
        return folder, "unfinished"

    def _method(self, name: str, work: Work, found: Findings, folder: RunFolder) -> MethodPlan:
        setup = self.setup
        items, samples = work.neurons_of(name), found.samples.get(name, [])
        again = [item[0] for item in work.retests.get(name, ())]
        roles, constant = self._scaled(items, samples, 1.0)
        retested, _ = self._scaled(again, samples, 1.0, paid=True)
        every = len(samples) == len(items)
        kind = "describer" if name in setup.describers else "comparator" if name in setup.comparators else "scorer"
        # How many questions a scorer has follows from the windows that the pass over the corpus finds.
        guessed = kind == "scorer" and found.evidence not in ("run", "store")
        counted = (constant or every) and not guessed
        exactness = Exactness.EXACT if counted else Exactness.ESTIMATE
        asks = any(amount.calls for amount in roles.values())
        roles = {role: roles.get(role, Amount()) + retested.get(role, Amount()) for role in {*roles, *retested}}
        return MethodPlan(
            name=name,
            kind=kind,
            control=name in setup.controls,
            items=len(items),
            done=work.done.get(name, 0),
            retests=len(again),
            exactness=exactness,
            roles=_as_recorded(name, folder, dict(sorted(roles.items()))),
            local_seconds=None if asks or not items else _local(name, found, len(items) + len(again)),
        )

    def _scaled(
        self, items: Sequence[Any], samples: Sequence[Sample], share: float, *, paid: bool = False
    ) -> tuple[dict[str, Amount], bool]:
        """Return what so many items ask of each role, and whether every one that was tried asks alike.

        Items of layers in which as many channels are sought are taken to be alike.
        """
        groups: dict[tuple[int, ...], list[Sample]] = defaultdict(list)
        for sample in samples:
            groups[self._kinds[sample.neuron.layer]].append(sample)
        wanted: dict[tuple[int, ...], int] = defaultdict(int)
        for neuron in items:
            wanted[self._kinds[neuron.layer]] += 1
        totals: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(Amount.model_fields, 0.0))
        constant = True
        for kind, count in wanted.items():
            own = groups.get(kind) or list(samples)
            if not own:
                return {}, False
            constant &= kind in groups and len({_calls(sample) for sample in own}) == 1
            for role in {role for sample in own for role in sample.roles}:
                for name in Amount.model_fields:
                    mean = sum(getattr(sample.roles.get(role, RoleUsage()), name) for sample in own) / len(own)
                    if not (paid and name.startswith("cached")):
                        totals[role][name] += mean * count * share
        found = {role: Amount(**{name: round(value) for name, value in sums.items()}) for role, sums in totals.items()}
        return found, constant

    def _role(self, role: str, methods: Sequence[MethodPlan], found: Findings, tokenizer: bool) -> RolePlan:
        backend = self.setup.backends[role]
        askers = [method for method in methods if role in method.roles]
        amount = sum((method.roles[role] for method in askers), Amount())
        rate = self._assumed.rate(role)
        servers = _servers(self.setup.config["llm"].get(role, {}))
        price = backend.price
        kinds = {method.exactness for method in askers}
        return RolePlan(
            role=role,
            model=backend.model,
            managed=backend.server is not None,
            amount=amount,
            exactness=Exactness.ESTIMATE if Exactness.ESTIMATE in kinds else Exactness.EXACT,
            tokens_by="the model's tokenizer" if tokenizer else "4 characters a token",
            longest_tokens=found.longest.get(role, 0),
            cost=_paid(price, amount.paid_prompt_tokens, amount.paid_completion_tokens),
            saved=_paid(price, amount.cached_prompt_tokens, amount.cached_completion_tokens),
            prompt_tokens_per_second=rate.prompt * servers,
            completion_tokens_per_second=rate.completion * servers,
            rate_is=Basis.ASSUMED,
            seconds=round(
                amount.paid_prompt_tokens / rate.prompt / servers
                + amount.paid_completion_tokens / rate.completion / servers,
                1,
            ),
        )

    def _disk(self, work: Work, found: Findings, methods: Sequence[MethodPlan], folder: RunFolder) -> list[DiskPlan]:
        setup = self.setup
        described = len(setup.described) if setup.compares else 0
        exemplars = None if found.exemplar_bytes is None else found.exemplar_bytes * described
        sizes = found.record_bytes
        files = {"describer": "descriptions.jsonl", "comparator": "verdicts.jsonl", "scorer": "scores.jsonl"}
        records = sum((method.items + method.retests) * sizes.get(files[method.kind], 0) for method in methods)
        own = bytes_kept(setup, work.vectors) + records + found.effect_bytes * described
        known = folder.exemplars.exists() or not described
        rooms = [("run folder", setup.folder, None if exemplars is None and not known else own + (exemplars or 0))]
        if setup.evidence.store is not None and not known and found.evidence != "store":
            rooms.append(("evidence store", Path(setup.evidence.store), exemplars))
        if setup.backends:
            # An answer and its row; where log-probabilities are asked for, some 20 alternatives at each token.
            amounts = [amount for method in methods for amount in method.roles.values()]
            answers = sum(
                500 * amount.paid_calls + (0 if amount.completion_tokens else 100) * amount.paid_prompt_tokens
                for amount in amounts
            )
            rooms.append(("LLM cache", Path(setup.config["serving"]["cache"]), answers))
        return [
            DiskPlan(
                what=what,
                path=str(path),
                bytes=None if size is None else round(size),
                free=shutil.disk_usage(_existing(path.expanduser())).free,
            )
            for what, path, size in rooms
        ]

    def _power(self) -> Power | None:
        setup, assumed = self.setup, self._assumed
        if not setup.comparators:
            return None
        tests = len(setup.comparisons.pairs(setup.describers))
        one = Plan(level=1 - setup.statistics.confidence, power=assumed.power)
        every = dataclasses.replace(one, tests=max(tests, 1))
        neurons = len(setup.neurons)
        return Power(
            neurons=neurons,
            level=round(one.level, 6),
            power=one.power,
            tests=tests,
            smallest_of_one_pair=_rounded(smallest_difference(neurons, one)),
            smallest_of_every_pair=_rounded(smallest_difference(neurons, every)),
            wanted=assumed.difference,
            needed_for_one_pair=neurons_needed(assumed.difference, one),
            needed_for_every_pair=neurons_needed(assumed.difference, every),
        )


def _stand_in_family(subject: Subject) -> str:
    family = str(subject.config.get_text_config().model_type)
    known = ARCHITECTURES.get(family)
    return family if known is not None and known.experts is None else "llama"


def _calls(sample: Sample) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((role, usage.calls) for role, usage in sample.roles.items()))


def _local(name: str, found: Findings, items: int) -> float:
    return round(found.loading.get(name, 0.0) + found.working.get(name, 0.0) * items, 2)


def _as_recorded(name: str, folder: RunFolder, roles: dict[str, Amount]) -> dict[str, Amount]:
    """Correct the tokens of a method's calls by those of the answers that the run already has, if there are enough."""
    given: list[Usage] = [item.usage for item in folder.descriptions().records() if item.describer == name]
    given += [item.usage for item in folder.verdicts().records() if item.judge == name]
    given += [item.usage for item in folder.scores().records() if item.scorer == name]
    corrected = {}
    for role, amount in roles.items():
        used = [usage.roles[role] for usage in given if role in usage.roles and usage.roles[role].calls]
        calls = sum(one.calls for one in used)
        prompt, completion = (sum(getattr(one, f"{end}_tokens") for one in used) for end in ("prompt", "completion"))
        if len(used) < 3 or not prompt:
            corrected[role] = amount
            continue
        paid = amount.paid_calls
        corrected[role] = amount.model_copy(
            update={
                "prompt_tokens": amount.cached_prompt_tokens + round(paid * prompt / calls),
                "completion_tokens": amount.cached_completion_tokens + round(paid * completion / calls),
            }
        )
    return corrected


def _counter(model: str) -> Counter | None:
    """Return a count of a model's own tokens, if its tokenizer is on this machine."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    except Exception:  # whatever the libraries beneath raise at a name that is no folder, no cached model, no tokenizer
        return None
    known: dict[str, int] = {}

    def count(text: str) -> int:
        if text not in known:
            known[text] = len(tokenizer(text, add_special_tokens=False).input_ids)
        return known[text]

    return count


def _servers(config: Mapping[str, Any]) -> int:
    """Return how many servers share a role's requests."""
    for name in ("servers", "base_url"):
        given = config.get(name)
        if isinstance(given, list):
            return max(1, len(given))
        if isinstance(given, int):
            return max(1, given)
    return 1


def _paid(price: Price | None, prompt: int, completion: int) -> float | None:
    return None if price is None else round(price.cost(prompt, completion), 4)


def _existing(path: Path) -> Path:
    path = path.absolute()
    return path if path.exists() else _existing(path.parent)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
