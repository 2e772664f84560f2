"""How hard LLM servers are asked, which of several are, and when a run stops asking."""

from __future__ import annotations

import asyncio
import re
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.endpoint import HELLO, MORTAL, endpoint, failed, impostor, said

from harness.errors import HarnessError
from harness.folder import Journal, RunFolder
from harness.llm import Completion, LLMClient, Message, Price, ResponseCache, Serving, Unanswered, ask
from harness.llm.budget import BudgetedClient, FailureBudget
from harness.llm.concurrency import START, AdaptiveLimit
from harness.llm.openai_compatible import OpenAICompatible
from harness.llm.scripted import Request, ScriptedBackend, ScriptedClient
from harness.llm.vllm_server import ManagedVLLM
from harness.records import Description, Neuron, Status
from harness.run.answers import answer_all, attempt, clients_of

# --- as many at once as the server keeps up with ----------------------------------------------------------------------


class Line:
    """A server that answers one request in each tick, or all of them, and is overrun beyond a capacity."""

    def __init__(self, limit: AdaptiveLimit, capacity: float) -> None:
        self.limit, self.capacity = limit, capacity
        self.waiting: deque[asyncio.Future[bool]] = deque()
        self.overruns = 0
        self.most = 0

    async def request(self) -> None:
        async with self.limit.place() as place:
            self.most = max(self.most, self.limit.under_way)
            answer = asyncio.get_running_loop().create_future()
            self.waiting.append(answer)
            place.overrun = await answer
            place.kept_up = not place.overrun
            self.overruns += place.overrun

    async def tick(self) -> int:
        """Answer all that is under way, and return how much that was."""
        for _ in range(3):  # so that whoever was given a place has sent its request
            await asyncio.sleep(0)
        now, self.waiting = self.waiting, deque()
        for answer in now:
            answer.set_result(len(now) > self.capacity)
        for _ in range(3):
            await asyncio.sleep(0)
        return len(now)


def rounds(limit: AdaptiveLimit, capacity: Callable[[int], float], count: int) -> list[int]:
    """Return how many requests were under way in each of several rounds, with more than enough to do."""

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


def test_it_doubles_while_the_server_keeps_up_and_ends_at_the_maximum() -> None:
    assert rounds(AdaptiveLimit(100), lambda number: 1e9, 5) == [16, 32, 64, 100, 100]
    assert rounds(AdaptiveLimit(3), lambda number: 1e9, 3) == [3, 3, 3]


def test_it_halves_once_when_the_server_is_overrun_and_then_grows_by_one_a_round() -> None:
    # 64 were too many: all of them say so, and it halves once. 32 are fine, and 33, up to 40, where it halves again.
    seen = rounds(AdaptiveLimit(64), lambda number: 40, 14)
    assert seen[:5] == [16, 32, 64, 32, 33]
    assert seen[5:12] == [34, 35, 36, 37, 38, 39, 40]
    assert seen[12:] == [41, 20]


def test_a_server_that_takes_nothing_is_asked_one_at_a_time() -> None:
    assert rounds(AdaptiveLimit(64), lambda number: 0, 6) == [16, 8, 4, 2, 1, 1]


def test_it_does_not_grow_where_it_holds_nothing_back() -> None:
    limit = AdaptiveLimit(64)

    async def run() -> None:
        line = Line(limit, 1e9)
        for _ in range(50):
            task = asyncio.create_task(line.request())
            await line.tick()
            await task

    asyncio.run(run())
    assert limit.limit == START


@given(st.lists(st.sampled_from(["ask", "cancel", "answer", "overrun"]), max_size=60), st.integers(1, 5))
def test_no_place_is_lost_and_none_is_given_twice(steps: list[str], maximum: int) -> None:
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
                line.capacity = 0 if step == "overrun" else 1e9
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


def test_a_server_that_says_too_much_is_asked_for_less() -> None:
    left = iter([failed(429, Retry_After="0")] * 4)

    async def run(url: str) -> int:
        async with OpenAICompatible("m", url, concurrency=16).open(Path("unused")) as client:
            await asyncio.gather(*(client.generate([Message("user", str(number))]) for number in range(40)))
            return client.servers[0].limit.limit  # type: ignore[attr-defined]

    with endpoint(lambda body: next(left, None) or said("hi")) as server:
        assert asyncio.run(run(server.url)) < 16
    assert len(server.requests) == 44


# --- several servers --------------------------------------------------------------------------------------------------


def ask_all(backend: OpenAICompatible, count: int) -> list[Completion]:
    async def run() -> list[Completion]:
        async with backend.open(Path("unused")) as client:
            return await asyncio.gather(*(client.generate([Message("user", str(number))]) for number in range(count)))

    return asyncio.run(run())


def test_requests_are_spread_over_the_servers() -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(endpoint(said("hi"))) for _ in range(3)]
        answers = ask_all(OpenAICompatible("m", [server.url for server in servers]), 30)
    assert {answer.text for answer in answers} == {"hi"}
    assert [len(server.requests) for server in servers] == [10, 10, 10]


def test_a_dead_server_is_left_out_while_others_live() -> None:
    with endpoint(said("hi")) as dead:
        pass
    with endpoint(said("hi")) as alive:
        answers = ask_all(OpenAICompatible("m", [dead.url, alive.url], retries=1), 40)
    assert {(answer.status, answer.text) for answer in answers} == {(Status.OK, "hi")}
    answers = ask_all(OpenAICompatible("m", [dead.url, dead.url], retries=0), 2)
    assert {answer.status for answer in answers} == {Status.FAILED}
    assert all("connection" in answer.detail for answer in answers)


def test_servers_that_will_not_do_are_found_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    yes = said('{"answer": "yes"}')

    async def run(*urls: str) -> list[Completion]:
        async with Serving({"judge": OpenAICompatible("m", urls, retries=0)}, None, tmp_path) as serving:
            client = await serving.client("judge")
            return [await client.generate([Message("user", str(number))]) for number in range(6)]

    with endpoint(yes) as good, endpoint(failed(404, "no such model")) as wrong:
        answers = asyncio.run(run(good.url, wrong.url))
        assert {answer.status for answer in answers} == {Status.OK}
        assert len(wrong.requests) == 1
        assert f"{wrong.url} is left out" in caplog.text
        assert "no such model" in caplog.text
        with pytest.raises(HarnessError, match="no such model"):
            asyncio.run(run(wrong.url))


def test_each_address_is_checked() -> None:
    with pytest.raises(HarnessError, match="'localhost:8000' is no web address"):
        OpenAICompatible("m", ["http://one:8000/v1", "localhost:8000"]).check()
    assert str(OpenAICompatible("m", ["http://one/v1", "http://u:p@two/v1"])) == "m at http://one/v1, http://two/v1"


def test_gpus_are_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def environments(**arguments: Any) -> list[dict[str, str]]:
        return ManagedVLLM("m", **arguments)._environments()

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,5,7")
    assert environments() == [{}]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in environments(servers=3)] == ["0", "1", "2"]
    pairs = environments(servers=2, options={"tensor-parallel-size": 2})
    assert [env["CUDA_VISIBLE_DEVICES"] for env in pairs] == ["0,1", "2,5"]
    named = environments(servers=2, env={"CUDA_VISIBLE_DEVICES": "3,4"})
    assert [env["CUDA_VISIBLE_DEVICES"] for env in named] == ["3", "4"]
    assert environments(servers=[{"A": 1}, {"A": 2}]) == [{"A": "1"}, {"A": "2"}]
    with pytest.raises(HarnessError, match="3 servers of 2 GPU\\(s\\) each need 6, and 5 are visible"):
        environments(servers=3, options={"data_parallel_size": 2})
    for none in (0, []):
        with pytest.raises(HarnessError, match="at least 1"):
            environments(servers=none)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert environments(servers=2) == [{}, {}]


def test_several_managed_servers_start_together_and_the_living_answer_for_the_dead(tmp_path: Path) -> None:
    backend = impostor(tmp_path, MORTAL.format())  # dies of the first question
    backend.servers = [{"NUMBER": 1}, {"NUMBER": 2}]

    async def run() -> list[Completion]:
        async with backend.open(tmp_path / "logs") as client:
            assert len(client.each()) == 2
            return [await client.generate(HELLO) for _ in range(2)]

    answers = asyncio.run(run())
    # The first question kills one server, and tried again the other; nobody is left for the second.
    assert {answer.status for answer in answers} == {Status.FAILED}
    assert all("is dead (exit status 7)" in answer.detail for answer in answers)
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["vllm-m-2.log", "vllm-m.log"]


def test_if_one_of_several_servers_does_not_start_none_stays(tmp_path: Path) -> None:
    backend = impostor(tmp_path, "import os, time\nif os.environ['NUMBER'] == '2': sys.exit(3)\ntime.sleep(600)")
    backend.servers = [{"NUMBER": 1}, {"NUMBER": 2}]

    async def run() -> None:
        async with backend.open(tmp_path / "logs"):
            raise AssertionError("it started")

    with pytest.raises(HarnessError, match="the weights are missing"):
        asyncio.run(run())


# --- the failure budget -----------------------------------------------------------------------------------------------


def test_a_budget_is_spent_when_too_large_a_share_failed(caplog: pytest.LogCaptureFixture) -> None:
    budget = FailureBudget("rotate", 0.5, 4)
    for status in [Status.FAILED, Status.FAILED, Status.OK, Status.OK]:
        budget.count(status, "HTTP 503")
    assert not budget.spent  # half of them is what may fail
    budget.count(Status.TRUNCATED, "max_tokens")
    assert budget.spent == "3 of the first 5 answers to rotate failed, more than serving.failure_budget=0.5 allows"
    (line,) = caplog.messages
    assert "started again" in line
    assert "max_tokens" in line
    budget.count(Status.FAILED, "late")  # what was under way
    assert budget.spent.startswith("3 of the first 5")
    assert len(caplog.messages) == 1


def test_without_a_limit_or_before_the_minimum_nothing_is_spent() -> None:
    for budget in (FailureBudget("x", None, 1), FailureBudget("x", 0.0, 11), FailureBudget("x", 1.0, 1)):
        for _ in range(10):
            budget.count(Status.FAILED, "no")
        assert not budget.spent


def test_once_it_is_spent_nothing_is_asked() -> None:
    inner, budget, proofs = ScriptedClient(lambda request: "x"), FailureBudget("x", 0.0, 1), Counter[str]()

    async def prove() -> None:
        proofs["asked"] += 1

    client = BudgetedClient(inner, budget, prove, 1)
    assert asyncio.run(client.generate(HELLO)).text == "x"
    budget.count(Status.FAILED, "no")
    for question in (client.generate(HELLO), client.token_logprobs(HELLO), client.ready()):
        with pytest.raises(Unanswered, match="not asked: 1 of the first 1") as failure:
            asyncio.run(question)
        assert failure.value.status is Status.FAILED
    assert len(inner.requests) == proofs["asked"] == 1


@pytest.mark.parametrize("arguments", [{"failure_budget": 1.5}, {"failure_budget": -0.1}, {"failure_minimum": 0}])
def test_a_budget_out_of_range_is_told(tmp_path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(HarnessError, match=next(iter(arguments))):
        Serving({}, None, tmp_path, **arguments)


# --- proofs -----------------------------------------------------------------------------------------------------------


def test_what_is_to_be_proven_once_is_tried_again_only_if_it_failed(tmp_path: Path) -> None:
    tries: list[str] = []

    async def proof() -> None:
        tries.append("try")
        await asyncio.sleep(0)
        if len(tries) == 1:
            raise HarnessError("not yet")

    async def run(**arguments: Any) -> None:
        async with Serving({}, None, tmp_path, **arguments) as serving:
            results = await asyncio.gather(
                *(serving.once("simulation", proof) for _ in range(5)), return_exceptions=True
            )
        assert [str(result) for result in results if result is not None] == ["not yet"][: len(tries)]

    asyncio.run(run(ask=False))
    assert tries == []
    asyncio.run(run())
    assert len(tries) == 2


def test_managed_servers_are_tried_and_rest_if_that_is_wanted(tmp_path: Path) -> None:
    backends = {name: ScriptedBackend(lambda request: "x", server=name) for name in "ab"}

    async def run() -> None:
        async with Serving({**backends, "endpoint": ScriptedBackend()}, None, tmp_path) as serving:
            assert not await serving.preflight("a")
            assert await serving.preflight("endpoint")
            assert all([await serving.preflight(role, start=True) for role in "ab"])
            await serving.rest()
            assert [backend.history for backend in backends.values()] == [["start", "stop"]] * 2
            assert (await serving.lazily("a").generate(HELLO)).text == "x"

    asyncio.run(run())
    assert backends["a"].history == ["start", "stop"] * 2


# --- a method's items: asked, cut short, asked again -----------------------------------------------------------------


class Say(pydantic.BaseModel):
    text: str


class Describe:
    """Stands for a describer that asks one question of each neuron."""

    roles: ClassVar = {"explainer": False}

    def __init__(self) -> None:
        self.proofs = 0

    async def preflight(self, llms: Mapping[str, LLMClient]) -> str:
        self.proofs += 1
        return ""


def describing(
    folder: Path, backend: ScriptedBackend, count: int, method: Describe | None = None, **serving: Any
) -> tuple[Journal[Description], Serving]:
    """Describe so many neurons as a run does, those of them that have no description yet."""
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


def test_a_run_that_is_taken_up_is_not_ended_by_the_answers_it_could_not_use_before(tmp_path: Path) -> None:
    def answer(request: Request) -> Completion:
        return Completion("I think so" if numbered(request) % 10 == 0 else '{"text": "x"}', prompt_tokens=3)

    half, rest = ScriptedBackend(answer), ScriptedBackend(answer)
    journal, _ = describing(tmp_path, half, 200, failure_budget=0.5)
    assert statuses(journal) == {Status.OK: 180, Status.UNPARSED: 20}
    journal, served = describing(tmp_path, rest, 240, failure_budget=0.5)  # the 20 come first, from the cache
    assert served.ended_early == []
    assert len(rest.requests) == 40
    assert statuses(journal) == {Status.OK: 216, Status.UNPARSED: 24}


def test_reading_again_reads_every_answer_and_forgets_no_reason_and_no_cost(tmp_path: Path) -> None:
    backend = ScriptedBackend(lambda request: Completion("I think so", prompt_tokens=3, completion_tokens=2))
    backend.price = Price(1000, 0)
    before, _ = describing(tmp_path, backend, 30)
    again, served = describing(tmp_path, backend, 30, ask=False, failure_budget=0.1, failure_minimum=1)
    assert served.ended_early == []
    assert again.records() == before.records()
    assert len(backend.requests) == 30


def test_what_a_spent_budget_holds_back_keeps_its_record(tmp_path: Path) -> None:
    backend = ScriptedBackend(lambda request: Completion("I think so", prompt_tokens=3, completion_tokens=2))
    before, _ = describing(tmp_path, backend, 10)
    dead = ScriptedBackend(lambda request: Completion("", Status.FAILED, "HTTP 503"), concurrency=1)
    limits: dict[str, Any] = {"redraw": True, "failure_budget": 0.0, "failure_minimum": 1}
    after, served = describing(tmp_path, dead, 12, **limits)
    assert served.ended_early
    assert len(dead.requests) == 1
    assert statuses(after) == {Status.UNPARSED: 9, Status.FAILED: 3}
    assert after.records()[1:10] == before.records()[1:10]
    assert after.records()[-1].detail.startswith("not asked: 1 of the first 1")


def test_every_draw_of_an_item_is_in_its_account(tmp_path: Path) -> None:
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


def test_answers_that_are_all_stored_need_no_server_and_no_proof(tmp_path: Path) -> None:
    backend, method = ScriptedBackend(lambda request: '{"text": "x"}', server="s"), Describe()
    describing(tmp_path, backend, 3, method)
    assert (backend.history, method.proofs) == (["start", "stop"], 1)
    (tmp_path / "descriptions.jsonl").unlink()
    journal, _ = describing(tmp_path, backend, 3, method)
    assert statuses(journal) == {Status.OK: 3}
    assert (backend.history, method.proofs) == (["start", "stop"], 1)
    describing(tmp_path, backend, 4, method)  # one that is not stored
    assert (backend.history, method.proofs) == (["start", "stop"] * 2, 2)


def test_offline_nothing_is_started(tmp_path: Path) -> None:
    backend = ScriptedBackend(server="s")

    async def run() -> None:
        async with Serving({"judge": backend}, None, tmp_path, ask=False) as serving:
            await serving.client("judge")

    asyncio.run(run())
    assert backend.history == []
