"""When servers are started, checked, shared and stopped."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.endpoint import HELLO

from harness.errors import HarnessError
from harness.llm.cache import ResponseCache
from harness.llm.client import Completion, Message, PromptLogprobs
from harness.llm.openai_compatible import OpenAICompatible
from harness.llm.scripted import ScriptedBackend
from harness.llm.serving import Serving
from harness.records import Status


def test_roles_with_equal_servers_share_one(tmp_path: Path) -> None:
    backends = {
        "explainer": ScriptedBackend(lambda request: str(request.sampling.max_tokens), server="s"),
        "judge": ScriptedBackend(server="s", sampling={"max_tokens": 9}),
    }

    async def run() -> str:
        async with Serving(backends, None, tmp_path) as serving:
            await serving.preflight("explainer", start=True)
            return (await serving.client("judge").generate(HELLO)).text

    assert asyncio.run(run()) == "9"  # of the judge's own sampling
    assert backends["explainer"].history == ["start", "stop"]
    assert backends["judge"].history == []


def test_the_least_recently_used_server_makes_room(tmp_path: Path) -> None:
    backends = {name: ScriptedBackend(lambda request: "x", server=name) for name in "abc"}
    running = lambda: "".join(name for name in "abc" if backends[name].history[-1:] == ["start"])  # noqa: E731

    async def run() -> list[str]:
        states = []
        async with Serving({**backends, "endpoint": ScriptedBackend()}, None, tmp_path, max_servers=2) as serving:
            for role in ["a", "endpoint", "b", "a", "c", "b", "endpoint"]:
                await serving.preflight(role, start=True)
                states.append(running())
        return states

    assert asyncio.run(run()) == ["a", "a", "ab", "ab", "ac", "bc", "bc"]
    assert running() == ""


def test_a_server_is_stopped_between_requests_and_started_again(tmp_path: Path) -> None:
    async def slowly(request: Any) -> str:
        await asyncio.sleep(0.1)
        assert backends["a"].history[-1] == "start"
        return "x"

    backends = {"a": ScriptedBackend(slowly, server="a"), "b": ScriptedBackend(server="b")}

    async def run() -> list[Completion]:
        async with Serving(backends, None, tmp_path) as serving:
            client = serving.client("a")
            under_way = asyncio.create_task(client.generate(HELLO))
            await asyncio.sleep(0.02)
            await serving.preflight("b", start=True)
            assert backends["a"].history == ["start", "stop"]
            return [await under_way, await client.generate(HELLO)]

    before, again = asyncio.run(run())
    assert before.text == again.text == "x"
    assert backends["a"].history == ["start", "stop"] * 2


def test_items_that_use_two_servers_in_turn_change_them_rarely(tmp_path: Path) -> None:
    async def slowly(request: Any) -> str:
        await asyncio.sleep(0.001 * (len(request.text) % 7))
        return "x"

    backends = {name: ScriptedBackend(slowly, server=name) for name in ("explainer", "simulator")}

    async def run() -> None:
        async with Serving(backends, None, tmp_path) as serving:
            explainer, simulator = serving.client("explainer"), serving.client("simulator")

            async def item(number: int) -> None:  # as best_of_k: describe, then choose
                asked = [Message("user", "?" * number)]
                for _ in range(3):
                    await explainer.generate(asked)
                await asyncio.gather(*(simulator.generate(asked) for _ in range(3)))

            await asyncio.gather(*map(item, range(50)))

    asyncio.run(run())
    assert backends["explainer"].history == backends["simulator"].history == ["start", "stop"]


def test_every_server_is_stopped_if_the_run_fails(tmp_path: Path) -> None:
    backends = {name: ScriptedBackend(server=name) for name in "ab"}

    async def run() -> None:
        async with Serving(backends, None, tmp_path, max_servers=2) as serving:
            await serving.preflight("a", start=True)
            await serving.preflight("b", start=True)
            raise KeyError("a fault of the run's own")

    with pytest.raises(KeyError):
        asyncio.run(run())
    assert [backend.history for backend in backends.values()] == [["start", "stop"]] * 2


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (Completion("", Status.FAILED, "connection failed"), ("does not answer", "connection failed")),
        (Completion("", Status.REFUSED, "no"), ("cannot produce the schema", "refused")),
        (Completion("{", Status.TRUNCATED, "max"), ("cannot produce the schema", "max_tokens")),
        ("Yes, it is wet.", ("cannot produce the schema", "it is wet")),
    ],
)
def test_the_preflight_finds_an_llm_that_cannot_be_used(tmp_path: Path, output: Any, words: tuple[str, ...]) -> None:
    backend = ScriptedBackend([output], model="gpt-x", answers_probe=False)

    async def run() -> None:
        async with Serving({"judge": backend}, None, tmp_path) as serving:
            await serving.preflight("judge")

    with pytest.raises(HarnessError) as error:
        asyncio.run(run())
    for word in ("'judge'", "gpt-x", *words):
        assert word in str(error.value)
    assert "\n" not in str(error.value)
    assert backend.history == ["start", "stop"]


def test_log_probabilities_are_checked_only_if_needed(tmp_path: Path) -> None:
    lacking = PromptLogprobs((), Status.FAILED, "the server does not offer prompt_logprobs")
    backend = ScriptedBackend(lambda request: '{"answer": "no"}', [lacking], answers_probe=False)

    async def run() -> None:
        async with Serving({"simulator": backend}, ResponseCache(tmp_path), tmp_path) as serving:
            await serving.preflight("simulator")
            await serving.preflight("simulator")
            await serving.preflight("simulator", needs_logprobs=True)

    with pytest.raises(HarnessError, match=r"simulator.*does not offer prompt_logprobs.*vllm"):
        asyncio.run(run())
    assert [request.kind for request in backend.requests] == ["generate", "token_logprobs"]


def test_a_preflight_starts_no_server(tmp_path: Path) -> None:
    backend = ScriptedBackend(server="s")

    async def run() -> None:
        async with Serving({"judge": backend}, None, tmp_path) as serving:
            await serving.preflight("judge")

    asyncio.run(run())
    assert backend.history == []


def test_a_config_error_names_the_role(tmp_path: Path) -> None:
    async def run() -> None:
        async with Serving({"judge": OpenAICompatible("")}, None, tmp_path) as serving:
            await serving.preflight("judge")

    with pytest.raises(HarnessError, match=r"llm\.judge: "):
        asyncio.run(run())


def test_a_role_without_an_llm(tmp_path: Path) -> None:
    async def run() -> None:
        async with Serving({}, None, tmp_path) as serving:
            serving.client("judge")

    with pytest.raises(HarnessError, match=r"llm@llm\.judge"):
        asyncio.run(run())


# --- checks that run once ---------------------------------------------------------------------------------------------


def test_a_check_that_succeeded_is_not_repeated(tmp_path: Path) -> None:
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


def test_preflight_can_start_managed_servers_and_stop_them_again(tmp_path: Path) -> None:
    backends = {name: ScriptedBackend(lambda request: "x", server=name) for name in "ab"}

    async def run() -> None:
        async with Serving({**backends, "endpoint": ScriptedBackend()}, None, tmp_path) as serving:
            assert not await serving.preflight("a")
            assert await serving.preflight("endpoint")
            assert all([await serving.preflight(role, start=True) for role in "ab"])
            await serving.rest()
            assert [backend.history for backend in backends.values()] == [["start", "stop"]] * 2
            assert (await serving.client("a").generate(HELLO)).text == "x"

    asyncio.run(run())
    assert backends["a"].history == ["start", "stop"] * 2
