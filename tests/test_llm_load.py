"""The limit on concurrent requests, the failure budget, and what happens to a method's items."""

from __future__ import annotations

import asyncio
import re
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.endpoint import HELLO

from harness.folder import Journal, RunFolder
from harness.llm.asking import ask
from harness.llm.budget import BudgetedClient, FailureBudget
from harness.llm.cache import ResponseCache
from harness.llm.client import Completion, LLMClient, Message, NotCached, Price, Unanswered
from harness.llm.concurrency import START, AdaptiveLimit
from harness.llm.scripted import Request, ScriptedBackend, ScriptedClient
from harness.llm.serving import Serving
from harness.records import Description, Neuron, Status
from harness.run.answers import answer_all, attempt, clients_of

# --- the adaptive limit -----------------------------------------------------------------------------------------------


class Line:
    """A server that answers all requests at each tick, and is overloaded beyond a capacity."""

    def __init__(self, limit: AdaptiveLimit, capacity: float) -> None:
        self.limit, self.capacity = limit, capacity
        self.waiting: deque[asyncio.Future[bool]] = deque()
        self.overloads = 0
        self.most = 0

    async def request(self) -> None:
        async with self.limit.slot() as slot:
            self.most = max(self.most, self.limit.under_way)
            answer = asyncio.get_running_loop().create_future()
            self.waiting.append(answer)
            slot.overloaded = await answer
            slot.answered = not slot.overloaded
            self.overloads += slot.overloaded

    async def tick(self) -> int:
        """Answer all requests under way, and return their number."""
        for _ in range(3):  # so that every request with a slot is sent
            await asyncio.sleep(0)
        now, self.waiting = self.waiting, deque()
        for answer in now:
            answer.set_result(len(now) > self.capacity)
        for _ in range(3):
            await asyncio.sleep(0)
        return len(now)


def rounds(limit: AdaptiveLimit, capacity: Callable[[int], float], count: int) -> list[int]:
    """Return how many requests were under way in each of several rounds, with more requests than slots."""

    async def run() -> list[int]:
        line = Line(limit, 0)
        tasks = [asyncio.create_task(line.request()) for _ in range(20 * count * limit.maximum)]
        seen = []
        for number in range(count):
            line.capacity = capacity(number)
            seen.append(await line.tick())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert limit.under_way == 0
        return seen

    return asyncio.run(run())


def test_the_limit_doubles_up_to_the_maximum() -> None:
    assert rounds(AdaptiveLimit(100), lambda number: 1e9, 5) == [16, 32, 64, 100, 100]
    assert rounds(AdaptiveLimit(3), lambda number: 1e9, 3) == [3, 3, 3]


def test_the_limit_halves_once_per_overload_and_then_grows_by_one_a_round() -> None:
    # 64 are too many: all of them fail, and the limit halves once. It grows from 32 to 41, and halves again.
    seen = rounds(AdaptiveLimit(64), lambda number: 40, 14)
    assert seen[:5] == [16, 32, 64, 32, 33]
    assert seen[5:12] == [34, 35, 36, 37, 38, 39, 40]
    assert seen[12:] == [41, 20]


def test_the_limit_never_falls_below_one() -> None:
    assert rounds(AdaptiveLimit(64), lambda number: 0, 6) == [16, 8, 4, 2, 1, 1]


def test_the_limit_does_not_grow_if_no_request_waits_for_it() -> None:
    limit = AdaptiveLimit(64)

    async def run() -> None:
        line = Line(limit, 1e9)
        for _ in range(50):
            task = asyncio.create_task(line.request())
            await line.tick()
            await task

    asyncio.run(run())
    assert limit.limit == START


@given(st.lists(st.sampled_from(["ask", "cancel", "answer", "overload"]), max_size=60), st.integers(1, 5))
def test_no_slot_is_lost_or_given_twice(steps: list[str], maximum: int) -> None:
    limit = AdaptiveLimit(maximum)

    async def run() -> None:
        line = Line(limit, 1e9)
        tasks: list[asyncio.Task[None]] = []
        for step in steps:
            if step == "ask":
                tasks.append(asyncio.create_task(line.request()))
            elif step == "cancel" and tasks:
                tasks.pop(len(tasks) // 2).cancel()
            else:
                line.capacity = 0 if step == "overload" else 1e9
                for answer in [item for item in line.waiting if item.cancelled()]:
                    line.waiting.remove(answer)
                await line.tick()
            await asyncio.sleep(0)
            assert 0 <= limit.under_way <= maximum
        while not all(task.done() for task in tasks):
            for answer in [item for item in line.waiting if item.cancelled()]:
                line.waiting.remove(answer)
            line.capacity = 1e9
            await line.tick()
        await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(run(), 10))
    assert limit.under_way == 0


# --- the failure budget -----------------------------------------------------------------------------------------------


def test_the_budget_is_spent_when_too_large_a_fraction_failed(caplog: pytest.LogCaptureFixture) -> None:
    budget = FailureBudget("rotate", 0.5, 4)
    for status in [Status.FAILED, Status.FAILED, Status.OK, Status.OK]:
        budget.count(status, "HTTP 503")
    assert not budget.spent  # exactly half may fail
    budget.count(Status.TRUNCATED, "max_tokens")
    assert budget.spent == "3 of the first 5 answers to rotate failed, more than serving.failure_budget=0.5 allows"
    (line,) = caplog.messages
    assert "started again" in line
    assert "max_tokens" in line
    budget.count(Status.FAILED, "late")  # a request that was under way
    assert budget.spent.startswith("3 of the first 5")
    assert len(caplog.messages) == 1


def test_the_budget_lasts_without_a_limit_or_before_the_minimum() -> None:
    for budget in (FailureBudget("x", None, 1), FailureBudget("x", 0.0, 11), FailureBudget("x", 1.0, 1)):
        for _ in range(10):
            budget.count(Status.FAILED, "no")
        assert not budget.spent


def test_a_spent_budget_sends_no_requests() -> None:
    inner, budget, proofs = ScriptedClient(lambda request: "x"), FailureBudget("x", 0.0, 1), Counter[str]()

    async def prove() -> None:
        proofs["asked"] += 1

    client = BudgetedClient(inner, budget, prove)
    assert asyncio.run(client.generate(HELLO)).text == "x"
    budget.count(Status.FAILED, "no")
    for question in (client.generate(HELLO), client.token_logprobs(HELLO), client.ready()):
        with pytest.raises(Unanswered, match="not asked: 1 of the first 1") as failure:
            asyncio.run(question)
        assert failure.value.status is Status.FAILED
    assert len(inner.requests) == proofs["asked"] == 1


@pytest.mark.parametrize("arguments", [{"failure_budget": 1.5}, {"failure_budget": -0.1}, {"failure_minimum": 0}])
def test_a_budget_out_of_range_is_refused(tmp_path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError, match=next(iter(arguments))):
        Serving({}, None, tmp_path, **arguments)


# --- the items of a method --------------------------------------------------------------------------------------------


class Say(pydantic.BaseModel):
    text: str


class Describe:
    """A stand-in for a describer that sends one request for each neuron."""

    roles: ClassVar = {"explainer": False}

    def __init__(self) -> None:
        self.proofs = 0

    async def preflight(self, llms: Mapping[str, LLMClient]) -> str:
        self.proofs += 1
        return ""


def describing(
    folder: Path, backend: ScriptedBackend, count: int, method: Describe | None = None, **serving: Any
) -> tuple[Journal[Description], Serving]:
    """Describe the first ``count`` neurons as a run does, unless they have a description."""
    method = method or Describe()
    setup: Any = SimpleNamespace(backends={"explainer": backend})
    cache, journal = ResponseCache(folder), RunFolder(folder).descriptions()

    async def run() -> Serving:
        async with Serving(setup.backends, cache, folder, **serving) as served:
            llms = clients_of("said", cast(Any, method), setup, served)

            async def answer(neuron: Neuron) -> Description:
                question = [Message("user", str(neuron))]
                made, status, detail, usage = await attempt(llms, lambda own: ask(own["explainer"], question, Say))
                return Description(neuron, "said", made.text if made else "", status, detail, usage=usage)

            neurons = [Neuron(0, index) for index in range(count)]
            pending = [neuron for neuron in neurons if not journal.done((neuron, "said"))]
            await answer_all("describe", "neurons", pending, answer, journal)
            return served

    try:
        served = asyncio.run(run())
    finally:
        journal.close()
        cache.close()
    return RunFolder(folder).descriptions(), served


def statuses(journal: Journal[Description]) -> Counter[Status]:
    return Counter(record.status for record in journal.records())


def numbered(request: Request) -> int:
    return int(re.findall(r"\d+", request.text)[-1])


def test_cached_unusable_answers_do_not_spend_the_budget_of_a_resumed_run(tmp_path: Path) -> None:
    def answer(request: Request) -> Completion:
        return Completion("I think so" if numbered(request) % 10 == 0 else '{"text": "x"}', prompt_tokens=3)

    half, rest = ScriptedBackend(answer), ScriptedBackend(answer)
    journal, _ = describing(tmp_path, half, 200, failure_budget=0.5)
    assert statuses(journal) == {Status.OK: 180, Status.UNPARSED: 20}
    journal, served = describing(tmp_path, rest, 240, failure_budget=0.5)  # the 20 come first, from the cache
    assert served.ended_early == []
    assert len(rest.requests) == 40
    assert statuses(journal) == {Status.OK: 216, Status.UNPARSED: 24}


def test_reparsing_keeps_every_record_and_its_usage(tmp_path: Path) -> None:
    backend = ScriptedBackend(lambda request: Completion("I think so", prompt_tokens=3, completion_tokens=2))
    backend.price = Price(1000, 0)
    before, _ = describing(tmp_path, backend, 30)
    again, served = describing(tmp_path, backend, 30, ask=False, failure_budget=0.1, failure_minimum=1)
    assert served.ended_early == []
    assert again.records() == before.records()
    assert len(backend.requests) == 30


def test_an_item_stopped_by_a_spent_budget_keeps_its_record(tmp_path: Path) -> None:
    backend = ScriptedBackend(lambda request: Completion("I think so", prompt_tokens=3, completion_tokens=2))
    before, _ = describing(tmp_path, backend, 10)
    dead = ScriptedBackend(lambda request: Completion("", Status.FAILED, "HTTP 503"), concurrency=1)
    limits: dict[str, Any] = {"redraw": True, "failure_budget": 0.0, "failure_minimum": 1}
    after, served = describing(tmp_path, dead, 12, **limits)
    assert served.ended_early
    assert len(dead.requests) == 1
    known = {record.neuron: record for record in before.records()}
    # Which item is asked depends on the order in which threads read the cache.
    (asked,) = [record for record in after.records() if record.detail == "HTTP 503"]
    assert asked.status is Status.FAILED
    stopped = [record for record in after.records() if record is not asked]
    assert len(stopped) == 11
    for record in stopped:
        if record.neuron in known:
            assert record == known[record.neuron]
        else:
            assert record.status is Status.FAILED
            assert record.detail.startswith("not asked: 1 of the first 1")


def test_every_draw_of_an_item_counts_in_its_usage(tmp_path: Path) -> None:
    def backend(text: str) -> ScriptedBackend:
        made = ScriptedBackend(lambda request: Completion(text, prompt_tokens=3, completion_tokens=2))
        made.price = Price(1000, 0)
        return made

    def account() -> tuple[Status, int, int, int, float | None, float | None]:
        (record,) = RunFolder(tmp_path).descriptions().records()
        used = record.usage.roles["explainer"]
        return record.status, used.calls, used.cached_calls, used.prompt_tokens, used.cost, used.paid

    describing(tmp_path, backend("what?"), 1)
    assert account() == (Status.UNPARSED, 1, 0, 3, 0.003, 0.003)
    describing(tmp_path, backend("unused"), 1)  # read again
    assert account() == (Status.UNPARSED, 1, 0, 3, 0.003, 0.003)
    describing(tmp_path, backend("what?"), 1, redraw=True)  # the same words, paid once more
    assert account() == (Status.UNPARSED, 2, 0, 6, 0.006, 0.006)
    describing(tmp_path, backend('{"text": "x"}'), 1, redraw=True)
    assert account() == (Status.OK, 3, 0, 9, 0.009, 0.009)
    (tmp_path / "descriptions.jsonl").unlink()
    describing(tmp_path, backend("unused"), 1)  # another run of the same question pays nothing
    assert account() == (Status.OK, 1, 1, 3, 0.003, 0.0)


def test_a_fully_cached_run_starts_no_server(tmp_path: Path) -> None:
    backend, method = ScriptedBackend(lambda request: '{"text": "x"}', server="s"), Describe()
    describing(tmp_path, backend, 3, method)
    assert (backend.history, method.proofs) == (["start", "stop"], 1)
    (tmp_path / "descriptions.jsonl").unlink()
    journal, _ = describing(tmp_path, backend, 3, method)
    assert statuses(journal) == {Status.OK: 3}
    assert (backend.history, method.proofs) == (["start", "stop"], 1)
    describing(tmp_path, backend, 4, method)  # one that is not stored
    assert (backend.history, method.proofs) == (["start", "stop"] * 2, 2)


def test_nothing_is_started_if_no_llm_may_be_called(tmp_path: Path) -> None:
    backend = ScriptedBackend(server="s")

    async def run() -> None:
        async with Serving({"judge": backend}, None, tmp_path, ask=False) as serving:
            with pytest.raises(NotCached):
                await serving.cached("judge", serving.client("judge")).generate(HELLO)

    asyncio.run(run())
    assert backend.history == []
