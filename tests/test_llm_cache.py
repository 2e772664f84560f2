"""The cache of answers, and what an item's calls cost."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic
import pytest
from support.endpoint import HELLO, endpoint, said

from harness.errors import HarnessError
from harness.llm.cache import CachedClient, ResponseCache
from harness.llm.client import Completion, LLMClient, Message, NotCached, Price, PromptLogprobs, PromptToken, Sampling
from harness.llm.metering import MeteredClient
from harness.llm.openai_compatible import OpenAICompatible
from harness.llm.scripted import ScriptedBackend
from harness.records import RoleUsage, Status, Usage, total_roles


def cached(tmp_path: Path, backend: ScriptedBackend) -> CachedClient:
    return CachedClient(backend.client, backend, ResponseCache(tmp_path))


def test_a_miss_then_a_hit(tmp_path: Path) -> None:
    backend = ScriptedBackend([Completion("one", prompt_tokens=5, completion_tokens=2)])
    first = asyncio.run(cached(tmp_path, backend).generate(HELLO))
    second = asyncio.run(cached(tmp_path, backend).generate(HELLO))
    assert not first.cached
    assert second == replace(first, cached=True)
    assert len(backend.requests) == 1


def test_log_probabilities_are_cached(tmp_path: Path) -> None:
    found = PromptLogprobs(
        (PromptToken("", {}), PromptToken("\ufffd", {"a": -0.1, "\ud800": -9999.0})), prompt_tokens=2
    )
    backend = ScriptedBackend(token_logprobs=[found])
    assert asyncio.run(cached(tmp_path, backend).token_logprobs(HELLO)) == found
    assert asyncio.run(cached(tmp_path, backend).token_logprobs(HELLO)) == replace(found, cached=True)


def test_a_failure_is_asked_again(tmp_path: Path) -> None:
    logprobs = [PromptLogprobs((), Status.FAILED), PromptLogprobs((PromptToken("a", {}),))]
    backend = ScriptedBackend([Completion("", Status.FAILED), "better"], logprobs)
    client = cached(tmp_path, backend)
    assert asyncio.run(client.generate(HELLO)).status is Status.FAILED
    assert asyncio.run(client.generate(HELLO)).text == "better"
    assert asyncio.run(client.token_logprobs(HELLO)).status is Status.FAILED
    assert asyncio.run(client.token_logprobs(HELLO)).status is Status.OK


NUMBER = {"properties": {"a": {"type": "integer"}}, "required": ["a"]}
UNUSABLE = [
    Completion("I would rather not say.", prompt_tokens=3, completion_tokens=5),
    Completion('{"a": "one"}'),  # the right property with a wrong value
    Completion("Once upon", Status.TRUNCATED, "the answer hit max_tokens"),
    Completion("", Status.REFUSED, "no"),
]


@pytest.mark.parametrize("said", UNUSABLE, ids=["no object", "wrong object", "truncated", "refused"])
def test_an_unusable_answer_is_not_asked_for_again_without_redraw(tmp_path: Path, said: Completion) -> None:
    backend = ScriptedBackend([said, said, '{"a": 1}'])

    def ask_for(redraw: bool, ask: bool = True) -> Completion:
        client = CachedClient(backend.client if ask else None, backend, ResponseCache(tmp_path), redraw=redraw)
        return asyncio.run(client.generate(HELLO, schema=NUMBER))

    assert ask_for(redraw=False) == said
    assert ask_for(redraw=False) == replace(said, cached=True)  # read again, not asked again
    assert ask_for(redraw=True, ask=False) == replace(said, cached=True)
    assert len(backend.requests) == 1
    assert ask_for(redraw=True) == said
    assert ask_for(redraw=True).text == '{"a": 1}'
    drawn = [(request.sampling.temperature, request.sampling.seed) for request in backend.requests if request.sampling]
    assert drawn == [(0.0, 0), (0.7, 1), (0.7, 2)]
    for redraw in (True, False):  # the usable draw is the answer from now on
        assert ask_for(redraw).text == '{"a": 1}'
    assert len(backend.requests) == 3


def test_without_an_llm_answers_come_from_the_cache_only(tmp_path: Path) -> None:
    backend = ScriptedBackend(["stored"])
    asyncio.run(cached(tmp_path, backend).generate(HELLO))
    silent = CachedClient(None, backend, ResponseCache(tmp_path))
    assert asyncio.run(silent.generate(HELLO)).text == "stored"
    for question in (silent.generate([Message("user", "new")]), silent.token_logprobs(HELLO)):
        with pytest.raises(NotCached):
            asyncio.run(question)


def test_every_part_of_the_key_counts(tmp_path: Path) -> None:
    def numbered() -> Callable[[Any], str]:
        count = iter(range(100))
        return lambda request: json.dumps({"answer": next(count)})

    backend = ScriptedBackend(numbered())
    other = ScriptedBackend(lambda request: "another model", model="other")
    client = cached(tmp_path, backend)
    one, two = {"properties": {"a": {}, "b": {}}}, {"properties": {"b": {}, "a": {}}}

    async def run() -> list[str]:
        answers = [
            await client.generate(HELLO),
            await client.generate([Message("user", "hallo")]),
            await client.generate([Message("system", "hello")]),
            await client.generate([*HELLO, Message("assistant", "")]),
            await client.generate(HELLO, schema=one),
            await client.generate(HELLO, schema=two),
            await client.generate(HELLO, sampling=Sampling(temperature=1.0)),
            await client.generate(HELLO, sampling=Sampling(top_p=0.5)),
            await client.generate(HELLO, sampling=Sampling(max_tokens=9)),
            await client.generate(HELLO, sampling=Sampling(seed=1)),
            await cached(tmp_path, other).generate(HELLO),
        ]
        return [answer.text for answer in answers]

    answers = asyncio.run(run())
    assert len(set(answers)) == len(answers)
    assert asyncio.run(run()) == answers  # and each of them hits when it is asked again


def test_top_is_part_of_the_key(tmp_path: Path) -> None:
    backend = ScriptedBackend(token_logprobs=lambda request: PromptLogprobs((PromptToken(str(request.top), {}),)))
    client = cached(tmp_path, backend)
    assert [asyncio.run(client.token_logprobs(HELLO, top=top)).tokens[0].text for top in (1, 2)] == ["1", "2"]


def test_url_and_time_outs_are_not_part_of_the_key(tmp_path: Path) -> None:
    async def answer(backend: OpenAICompatible) -> Completion:
        async with backend.open(Path("unused")) as client:
            return await CachedClient(client, backend, ResponseCache(tmp_path)).generate(HELLO)

    with endpoint(said("hi")) as server:
        backend = OpenAICompatible("m", server.url)
        assert not asyncio.run(answer(backend)).cached
        elsewhere = OpenAICompatible(
            "m", "http://127.0.0.1:1/v1", api_key_env="X", concurrency=1, timeout_s=1, retries=0
        )
        assert asyncio.run(answer(elsewhere)).cached
        for changed in ({"revision": "2"}, {"extra_body": {"top_k": 1}}, {"sampling": {"temperature": 1.0}}):
            assert not asyncio.run(answer(OpenAICompatible("m", server.url, **changed))).cached, changed


def test_equal_questions_at_once_are_asked_once(tmp_path: Path) -> None:
    async def slowly(request: Any) -> str:
        await asyncio.sleep(0.05)
        return "answer"

    backend = ScriptedBackend(slowly)
    client, twin = (CachedClient(backend.client, backend, cache) for cache in [ResponseCache(tmp_path)] * 2)

    async def run() -> list[Completion]:
        return await asyncio.gather(*(each.generate(HELLO) for each in (client, twin) for _ in range(10)))

    answers = asyncio.run(run())
    assert {answer.text for answer in answers} == {"answer"}
    assert [answer.cached for answer in answers].count(False) == len(backend.requests) == 1


def test_a_failure_does_not_spread_to_equal_requests(tmp_path: Path) -> None:
    outputs: list[Any] = [Completion("", Status.FAILED), RuntimeError("crash"), "answer"]
    backend = ScriptedBackend(outputs)
    client = cached(tmp_path, backend)

    async def run() -> list[Any]:
        return await asyncio.gather(*(client.generate(HELLO) for _ in range(4)), return_exceptions=True)

    failure, crash, answer, hit = asyncio.run(run())
    assert failure.status is Status.FAILED
    assert isinstance(crash, RuntimeError)
    assert (answer.text, answer.cached, hit.text, hit.cached) == ("answer", False, "answer", True)


def test_a_cancelled_request_does_not_cancel_equal_ones(tmp_path: Path) -> None:
    async def slowly(request: Any) -> str:
        await asyncio.sleep(0.05)
        return "answer"

    client = cached(tmp_path, ScriptedBackend(slowly))

    async def run() -> str:
        first, second = (asyncio.create_task(client.generate(HELLO)) for _ in range(2))
        await asyncio.sleep(0.02)
        first.cancel()
        return (await second).text

    assert asyncio.run(run()) == "answer"


def test_no_cache_asks_each_time() -> None:
    backend = ScriptedBackend(["one", "two"])
    client = CachedClient(backend.client, backend, None)
    assert [asyncio.run(client.generate(HELLO)).text for _ in range(2)] == ["one", "two"]


def test_concurrency_is_bounded(tmp_path: Path) -> None:
    under_way, most = 0, 0

    async def count(request: Any) -> str:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return "x"

    client = cached(tmp_path, ScriptedBackend(count, concurrency=3))

    async def run() -> None:
        await asyncio.gather(*(client.generate([Message("user", str(number))]) for number in range(12)))

    asyncio.run(run())
    assert most == 3


WRITER = """
import asyncio, sys
from pathlib import Path
from harness.llm.cache import CachedClient, ResponseCache
from harness.llm.client import Message
from harness.llm.scripted import ScriptedBackend
backend = ScriptedBackend(lambda request: request.text + " by " + sys.argv[2])
client = CachedClient(backend.client, backend, ResponseCache(Path(sys.argv[1])))
async def main():
    await asyncio.gather(*(client.generate([Message("user", str(number))]) for number in range(200)))
asyncio.run(main())
"""


def test_processes_share_a_cache(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name], cwd=root) for name in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    client = cached(tmp_path, ScriptedBackend(lambda request: "not kept"))
    answers = [asyncio.run(client.generate([Message("user", str(number))])).text for number in range(200)]
    assert all(answer in (f"{number} by a", f"{number} by b") for number, answer in enumerate(answers))


def test_the_cache_works_on_a_network_file_system(tmp_path: Path) -> None:
    """A write-ahead log needs shared memory, which processes on two machines do not have."""
    client = cached(tmp_path, ScriptedBackend(["one"]))
    asyncio.run(client.generate(HELLO))
    assert {path.suffix for path in tmp_path.iterdir()} <= {".sqlite", ".sqlite-journal"}
    with closing(sqlite3.connect(tmp_path / "responses.sqlite")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() != ("wal",)


def test_an_answer_is_stored_even_if_its_request_is_cancelled(tmp_path: Path) -> None:
    backend, cache = ScriptedBackend(["one", "two"]), ResponseCache(tmp_path)
    client = CachedClient(backend.client, backend, cache)

    async def interrupted() -> None:
        with closing(sqlite3.connect(cache.path, isolation_level=None)) as another:
            another.execute("BEGIN IMMEDIATE")  # another process writes, and takes its time
            asking = asyncio.create_task(client.generate(HELLO))
            while not backend.requests:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.01)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    asyncio.run(interrupted())
    cache.close()
    assert asyncio.run(cached(tmp_path, backend).generate(HELLO)).cached


def test_on_a_full_disk_an_answer_is_stored_or_reported(tmp_path: Path) -> None:
    cache = ResponseCache(tmp_path)
    cache._connection.execute("PRAGMA max_page_count=16")  # SQLite's own full disk
    answers = {str(number): {"text": random.Random(number).randbytes(2000).hex()} for number in range(20)}
    writes = {key: cache.put(key, answer, usable=True) for key, answer in answers.items()}
    errors = {key: write.exception() for key, write in writes.items()}
    stored = [key for key in answers if cache.get(key)[0] == answers[key]]
    assert 0 < len(stored) < 20
    assert all(key in stored or error for key, error in errors.items())
    for error in filter(None, errors.values()):
        assert isinstance(error, HarnessError)
        assert "cannot be used (database or disk is full); free some space" in str(error)
    cache._connection.execute("PRAGMA max_page_count=1000")
    cache.put("more", {"text": "there is space again"}, usable=True).result()
    assert all(cache.get(key)[0] == answers[key] for key in answers)
    cache.close()


def test_a_file_that_is_not_a_cache(tmp_path: Path) -> None:
    (tmp_path / "responses.sqlite").write_text("This is no database. " * 100)
    with pytest.raises(HarnessError, match=r"responses\.sqlite"):
        ResponseCache(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match="cannot be used"):
        ResponseCache(tmp_path / "file")


def test_a_damaged_answer_is_asked_again(tmp_path: Path) -> None:
    backend = ScriptedBackend(["one", "two"])
    client = cached(tmp_path, backend)
    asyncio.run(client.generate(HELLO))
    ResponseCache(tmp_path)._execute("UPDATE answers SET answer = ?", (b"rubbish",))
    assert asyncio.run(client.generate(HELLO)).text == "two"
    assert asyncio.run(client.generate(HELLO)).text == "two"  # which is stored in its place
    assert len(backend.requests) == 2


# --- usage and prices -------------------------------------------------------------------------------------------------


def test_usage_of_an_item(tmp_path: Path) -> None:
    backend = ScriptedBackend(
        [Completion("a", prompt_tokens=5, completion_tokens=2), Completion("", Status.TRUNCATED, "", 5, 9)],
        [PromptLogprobs((), prompt_tokens=11)],
        sampling={"max_tokens": 9},
    )

    async def run(client: LLMClient) -> None:
        await client.generate(HELLO)
        await client.generate(HELLO)  # from the cache, and counted too
        await client.generate([Message("user", "more")])
        await client.token_logprobs(HELLO)

    meter = MeteredClient(cached(tmp_path, backend), Price(prompt=1000.0, completion=2000.0))
    asyncio.run(run(meter))
    cost, cached_cost = 26 * 1e-3 + 13 * 2e-3, 5 * 1e-3 + 2 * 2e-3
    expected = RoleUsage(4, 5 + 5 + 5 + 11, 2 + 2 + 9, meter.usage.seconds, cost, 1, 5, 2, cost - cached_cost)
    assert meter.usage == replace(expected, cost=pytest.approx(cost), paid=pytest.approx(cost - cached_cost))
    assert meter.sampling.max_tokens == 9


def test_costs_add_up_by_role() -> None:
    judge = RoleUsage(1, 10, 2, 0.5, 0.25, 1, 10, 2, 0.0)
    explainer = RoleUsage(2, 20, 4, 1.0)  # without a price
    both = Usage(3, 30, 6, 1.0, {"judge": judge, "explainer": explainer})
    assert total_roles([both, Usage(1, 10, 2, 0.1, {"judge": judge}), Usage()]) == {
        "explainer": explainer,
        "judge": RoleUsage(2, 20, 4, 1.0, 0.5, 2, 20, 4, 0.0),
    }
    assert total_roles([Usage(roles={"judge": judge}), Usage(roles={"judge": explainer})])["judge"].cost is None


@pytest.mark.parametrize("price", [{"prompt": 1}, {"prompt": 1, "completion": -1}, {"prompt": "much", "completion": 1}])
def test_a_price_needs_both_numbers(price: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError, match="price"):
        OpenAICompatible(**{"model": "m", "price": price})


def test_null_prices_mean_no_price() -> None:
    def price(**options: Any) -> Price | None:
        return OpenAICompatible(**{"model": "m", "price": options}).price

    assert price(prompt=None, completion=None) is None
    assert price(prompt=1, completion=2) == Price(1, 2)
