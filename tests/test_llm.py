"""LLM clients, against a real HTTP server that says what each test wants it to."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from support import tiny_models
from support.endpoint import HELLO, MORTAL, Reply, endpoint, failed, impostor, said, start

from harness.errors import HarnessError
from harness.llm import (
    CachedClient,
    Completion,
    LLMClient,
    Message,
    MeteredClient,
    NotCached,
    Price,
    PromptLogprobs,
    PromptToken,
    ResponseCache,
    Sampling,
    Serving,
    Unanswered,
    ask,
    parse,
    process_guard,
)
from harness.llm.asking import declines
from harness.llm.openai_compatible import OpenAICompatible
from harness.llm.scripted import ScriptedBackend, ScriptedClient
from harness.llm.vllm_server import ManagedVLLM
from harness.records import RoleUsage, Status, Usage, total_roles

CONF = Path(__file__).parent.parent / "conf" / "llm"


class Verdict(pydantic.BaseModel):
    winner: Literal["A", "B", "tie"]
    reason: str = ""


# --- a server ---------------------------------------------------------------------------------------------------------


def generate(url: str, **arguments: Any) -> Completion:
    async def run() -> Completion:
        async with OpenAICompatible("m", url, **arguments).open(Path("unused")) as client:
            return await client.generate(HELLO)

    return asyncio.run(run())


def token_logprobs(url: str, messages: list[Message] = HELLO) -> PromptLogprobs:
    async def run() -> PromptLogprobs:
        async with OpenAICompatible("m", url, retries=0).open(Path("unused")) as client:
            return await client.token_logprobs(messages, top=5)

    return asyncio.run(run())


# --- answers and their statuses ---------------------------------------------------------------------------------------


def test_an_answer_with_its_cost() -> None:
    with endpoint(said("hi")) as server:
        assert generate(server.url) == Completion("hi", prompt_tokens=7, completion_tokens=3)
    assert server.requests[0]["messages"] == [{"role": "user", "content": "hello"}]
    assert server.requests[0] | {"temperature": 0.0, "top_p": 1.0, "max_tokens": 512, "seed": 0} == server.requests[0]


def test_none_in_the_sampling_is_not_sent() -> None:
    with endpoint(said("hi")) as server:
        generate(server.url, sampling={"temperature": None, "top_p": None, "seed": None})
    assert not {"temperature", "top_p", "seed"} & set(server.requests[0])


@pytest.mark.parametrize(
    ("reply", "status", "word"),
    [
        (said(None, refusal="I would rather not"), Status.REFUSED, "rather not"),
        (said("Well", finish="content_filter"), Status.REFUSED, "filter"),
        (said("Once upon", finish="length"), Status.TRUNCATED, "max_tokens"),
        (said(None), Status.FAILED, "empty"),
        (said(" \n"), Status.FAILED, "empty"),
        ((400, {}, {"error": {"message": "blocked", "code": "content_filter"}}), Status.REFUSED, "blocked"),
        ((200, {}, {"choices": []}), Status.FAILED, "protocol"),
        ((200, {}, {"hello": "world"}), Status.FAILED, "protocol"),
        ((200, {}, "{"), Status.FAILED, ""),
        ((200, {"Content-Type": "text/html"}, "<h1>Welcome</h1>"), Status.FAILED, "protocol"),
        (failed(404, "no such\nmodel"), Status.FAILED, "HTTP 404: no such model"),
    ],
)
def test_what_is_no_answer_says_so(reply: Reply, status: Status, word: str) -> None:
    with endpoint(reply) as server:
        completion = generate(server.url, retries=0)
    assert completion.status is status
    assert word in completion.detail
    assert completion.detail
    assert "\n" not in completion.detail


def message(**fields: Any) -> Reply:
    """Say something in a message of an unusual shape."""
    finish = fields.pop("finish", "stop")
    status, headers, body = said(None, finish)
    body["choices"][0]["message"] = {"role": "assistant", "content": None, **fields}
    return status, headers, body


B = '{"winner": "B", "reason": ""}'
THOUGHT = 'Perhaps {"winner": "A", "reason": ""}? No.'


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (message(content=B, reasoning_content=THOUGHT), Status.OK),  # DeepSeek, SGLang, vLLM
        (message(content=B, reasoning=THOUGHT), Status.OK),  # OpenRouter, Groq, newer vLLM
        (message(reasoning_content=B), Status.OK),  # a reasoning parser that saw no end of the thinking
        (message(content="", reasoning=f"{THOUGHT} So: {B}"), Status.OK),
        (message(content="\n\n", reasoning_content=f"{THOUGHT}</think>{B}"), Status.OK),
        (message(content="See above.", reasoning=f"{THOUGHT} So: {B}"), Status.OK),
        (message(content=[{"type": "text", "text": B[:9]}, {"type": "text", "text": B[9:]}]), Status.OK),
        (
            message(  # Mistral
                content=[
                    {"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]},
                    {"type": "text", "text": B},
                ]
            ),
            Status.OK,
        ),
        (message(content=[B]), Status.OK),
        (message(content={"winner": "B", "reason": ""}), Status.OK),
        (message(content=f"<think>{THOUGHT}</think>\n{B}"), Status.OK),
        (message(content=f"{THOUGHT}</think>\n{B}"), Status.OK),  # the template opened the thinking
        (message(content=f"<think>{B}"), Status.OK),  # never closed, but it says what was asked for
        (message(content="<think>Let me see"), Status.TRUNCATED),
        (message(content="<think>Let me", finish="length"), Status.TRUNCATED),
        (message(reasoning_content=B, finish="length"), Status.TRUNCATED),  # an answer it was only trying out
        (message(reasoning_content="Hm."), Status.UNPARSED),
        (message(content="Hm.", reasoning=""), Status.UNPARSED),
        (message(content=""), Status.FAILED),
        (message(content=[]), Status.FAILED),
        (message(content=[{"type": "refusal", "refusal": "no"}]), Status.REFUSED),
        (message(content=B, finish="refusal"), Status.REFUSED),
        (message(content="I'm sorry, but I can't help with that."), Status.REFUSED),
        (message(content='{"winner": "A", "reason": "I cannot assist with this request."}'), Status.REFUSED),
        (message(content='<think>I can\'t help with that? I can.</think>{"winner": "B", "reason": ""}'), Status.OK),
    ],
)
def test_the_answer_is_found_wherever_the_server_puts_it(reply: Reply, status: Status) -> None:
    async def run(url: str) -> Verdict:
        async with OpenAICompatible("m", url, retries=0).open(Path("unused")) as client:
            return await ask(client, HELLO, Verdict)

    with endpoint(reply) as server:
        if status is Status.OK:
            assert asyncio.run(run(server.url)) == Verdict(winner="B", reason="")
            return
        with pytest.raises(Unanswered) as failure:
            asyncio.run(run(server.url))
    assert failure.value.status is status
    assert failure.value.detail


def test_without_a_schema_the_thoughts_are_an_answer_only_where_nothing_else_is() -> None:
    with endpoint(message(content="So be it.", reasoning="Hm.")) as server:
        assert generate(server.url).text == "So be it."
    with endpoint(message(reasoning_content="Hm.</think>So be it.")) as server:
        assert generate(server.url).text == "So be it."


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "Sorry, I cannot assist with this request.",
        "I’m sorry — I can’t comply.",
        "As an AI language model, I cannot provide that.",
        "I am unable to help with this.",
        "Unfortunately, I won't answer that.",
        "<think>Hm.</think>\nI apologize, but I cannot fulfil this.",
    ],
)
def test_a_model_that_declines_in_its_own_words_has_refused(text: str) -> None:
    assert declines(text)


@pytest.mark.parametrize(
    "text",
    [
        "I cannot tell which description is better, so it is a tie.",
        "I can't help but notice that A names the tokens.",
        "phrases of apology and refusal such as \"I'm sorry, I can't help with that\"",
        '"I\'m sorry", "I can\'t help"',
        "Sorry is the word the neuron responds to.",
        "help, assistance and inability to comply",
        "I'm sorry for the delay: B.",
        "",
    ],
)
def test_an_answer_about_refusals_is_none(text: str) -> None:
    assert not declines(text)


def test_what_came_of_a_truncated_answer_is_kept() -> None:
    with endpoint(said("Once upon", finish="length")) as server:
        assert generate(server.url).text == "Once upon"


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_what_may_pass_is_tried_again(status: int) -> None:
    with endpoint(failed(status, Retry_After="0"), said("hi")) as server:
        assert generate(server.url).text == "hi"
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_cannot_pass_is_not_tried_again(status: int) -> None:
    with endpoint(failed(status)) as server:
        assert generate(server.url).status is Status.FAILED
    assert len(server.requests) == 1


def test_an_account_without_money_is_not_asked_again() -> None:
    reply = (429, {}, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}})
    with endpoint(reply) as server:
        assert "quota" in generate(server.url).detail
    assert len(server.requests) == 1


def test_retries_end() -> None:
    with endpoint(failed(503, "busy", Retry_After="0")) as server:
        assert generate(server.url, retries=2).detail == "HTTP 503: busy"
    assert len(server.requests) == 3


def test_retry_after_is_honoured() -> None:
    with endpoint(failed(429, Retry_After="1"), said("hi")) as server:
        began = time.monotonic()
        generate(server.url)
    assert time.monotonic() - began >= 1


def test_a_server_that_is_not_there() -> None:
    with endpoint(said("hi")) as server:
        pass
    completion = generate(server.url, retries=1)
    assert completion.status is Status.FAILED
    assert "connection" in completion.detail


def test_a_server_that_is_too_slow() -> None:
    def slow(body: dict[str, Any]) -> Reply:
        time.sleep(1)
        return said("hi")

    with endpoint(slow) as server:
        completion = generate(server.url, retries=0, timeout_s=0.2)
    assert (completion.status, completion.detail) == (Status.FAILED, "no answer within the time-out")


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    with endpoint(failed(401, "wrong key sk-very-secret")) as server:
        completion = generate(server.url, api_key_env="MY_KEY")
    assert server.keys == ["Bearer sk-very-secret"]
    assert completion.detail == "HTTP 401: wrong key ***"
    backend = OpenAICompatible("m", "http://user:pass@host/v1?key=1", api_key_env="MY_KEY")
    assert str(backend) == "m at http://host/v1"
    assert "secret" not in json.dumps(backend.identity)


def test_a_schema_is_sent_as_a_strict_format() -> None:
    async def run(url: str) -> Verdict:
        async with OpenAICompatible("m", url).open(Path("unused")) as client:
            return await ask(client, HELLO, Verdict)

    with endpoint(said('{"winner": "B", "reason": "so"}')) as server:
        assert asyncio.run(run(server.url)) == Verdict(winner="B", reason="so")
    sent = server.requests[0]["response_format"]["json_schema"]
    assert sent["strict"]
    assert sent["name"] == "Verdict"
    assert sent["schema"]["required"] == ["winner", "reason"]
    assert sent["schema"]["additionalProperties"] is False


def test_extra_body_is_sent() -> None:
    with endpoint(said("hi")) as server:
        generate(server.url, extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    assert server.requests[0]["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"model": None}, "llm.ROLE.model"),
        ({"model": "m"}, "NO_SUCH_KEY"),
        ({"model": "m", "base_url": "localhost:8000"}, "base_url"),
        ({"model": "m", "base_url": "http://h/v1", "concurrency": 0}, "concurrency"),
        ({"model": "m", "base_url": "http://h/v1", "sampling": {"max_tokens": 0}}, "max_tokens"),
    ],
)
def test_a_config_that_cannot_work_is_found_before_the_run(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(HarnessError, match=word) as error:
        OpenAICompatible(**{"api_key_env": "NO_SUCH_KEY", **arguments}).check()
    assert "\n" not in str(error.value)


def test_sampling_has_no_options_that_it_has_not() -> None:
    with pytest.raises(HarnessError, match="temprature"):
        OpenAICompatible("m", sampling={"temprature": 1})


# --- log-probabilities of a prompt ------------------------------------------------------------------------------------


def entry(text: str, logprob: float | None) -> dict[str, Any]:
    return {"decoded_token": text, "logprob": logprob, "rank": 1}


def test_the_prompts_tokens_are_known_by_their_ids_not_by_their_place() -> None:
    positions = [None, {"8": entry("x", -1.0), "5": entry("y", -2.0)}]
    with endpoint(said("!", prompt_logprobs=positions, prompt_token_ids=[1, 5])) as server:
        found = token_logprobs(server.url, [*HELLO, Message("assistant", "y")])
    assert found == PromptLogprobs((PromptToken("", {}), PromptToken("y", {"x": -1.0, "y": -2.0})), prompt_tokens=2)
    sent = server.requests[0]
    assert sent["prompt_logprobs"] == 5
    assert sent["max_tokens"] == 1
    assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)


def test_tokens_of_equal_text_are_summed_and_impossible_ones_are_finite() -> None:
    positions = [None, {"5": entry("\ufffd", -1.0), "6": entry("\ufffd", -1.0), "7": entry("z", -float("inf"))}]
    with endpoint(said("!", prompt_logprobs=positions, prompt_token_ids=[1, 7])) as server:
        alternatives = token_logprobs(server.url).tokens[1].alternatives
    assert alternatives["\ufffd"] == pytest.approx(-1 + 0.6931471805599453)
    assert alternatives["z"] == -9999.0


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        ({}, "does not offer prompt_logprobs"),
        ({"prompt_logprobs": [None]}, "does not offer prompt_token_ids"),
        ({"prompt_logprobs": [None], "prompt_token_ids": [1, 2]}, "make no sense"),
        ({"prompt_logprobs": [{"5": entry("y", -1.0)}], "prompt_token_ids": [1]}, "make no sense"),
        ({"prompt_logprobs": [{"1": entry("y", float("nan"))}], "prompt_token_ids": [1]}, "make no sense"),
    ],
)
def test_a_server_without_prompt_logprobs(extra: dict[str, Any], word: str) -> None:
    with endpoint(said("!", **extra)) as server:
        found = token_logprobs(server.url)
    assert found.status is Status.FAILED
    assert word in found.detail


def test_a_server_that_refuses_prompt_logprobs() -> None:
    with endpoint(failed(400, "Unrecognized request argument")) as server:
        found = token_logprobs(server.url)
    assert "vLLM offers" in found.detail
    assert "Unrecognized" in found.detail


# --- reading answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "winner"),
    [
        ('{"winner": "A"}', "A"),
        ('  {"winner": "A"}\n', "A"),
        ('```json\n{"winner": "B"}\n```', "B"),
        ('I think {"winner": "A"}, no: {"winner": "tie", "reason": "{"}. Done.', "tie"),
        ('{"winner": "A"} or rather {"winner": "C"}', "A"),
        ('<think>{"winner": "A"}</think>{"winner": "B"}', "B"),
        ('<think>first {"winner": "B"}</think> so be it', "B"),
        ('{"winner": "B", "reason": "see </think>"}', "B"),
        ('{ {"winner": "A"}', "A"),
        ('{"reason": "a\tb\nc", "winner": "A"}', "A"),
        ('{"winner": "A", "reason": {"winner": "B"}} {"winner": "tie"} {"winner":', "tie"),
    ],
)
def test_the_last_object_that_fits_is_the_answer(text: str, winner: str) -> None:
    assert parse(text, Verdict).winner == winner


@pytest.mark.parametrize(
    "text", ["", "A", '"A"', '{"winner": "C"}', '{"winner": "A"', '{"result": {"winner": "A"}}', '[{"winner": ', "{}"]
)
def test_an_answer_off_the_menu_is_unparsed(text: str) -> None:
    with pytest.raises(Unanswered) as failure:
        parse(text, Verdict)
    assert failure.value.status is Status.UNPARSED


def test_an_unparsed_answer_shows_how_it_began() -> None:
    with pytest.raises(Unanswered, match="My dear friend") as failure:
        parse("My dear\n\nfriend" + "!" * 1000, Verdict)
    assert len(failure.value.detail) < 300


class Anything(pydantic.BaseModel):
    """Validates as recklessly as a method's author may."""

    number: float = 0.0
    text: str = ""

    @pydantic.field_validator("text")
    @classmethod
    def reckless(cls, text: str) -> str:
        return text + str(1 / len(text)) + text[3]


json_texts = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["winner", "text", "number", "x"]), inner),
    max_leaves=8,
).map(json.dumps)
scraps = st.sampled_from(["{", "}", '"', "</think>", "```json\n", '{"winner": "A"}', "\\", "[", ":", "NaN", "\ud800"])


@settings(deadline=None)
@given(st.lists(st.text() | json_texts | scraps, max_size=8).map("".join))
@example("{" * 4_000)
@example('{"a":' * 4_000)
@example('{"winner":' + "[" * 4_000)
@example('{"number": ' + "9" * 5_000 + "}")
@example('{"number": NaN}')
@example('{"number": 1e999}')
@example('{"text": ""}')
@example('{"text": "\\ud800"}')
def test_no_text_breaks_the_reading(text: str) -> None:
    for kind in (Verdict, Anything):
        with suppress(Unanswered):  # and nothing else
            assert isinstance(parse(text, kind), kind)


@given(
    st.text(), st.sampled_from(["A", "B", "tie"]), st.text(), st.text(alphabet=st.characters(exclude_characters="{"))
)
def test_an_answer_is_found_in_whatever_stands_around_it(before: str, winner: str, reason: str, after: str) -> None:
    verdict = Verdict(winner=winner, reason=reason)
    fence = verdict.model_dump_json()
    assert parse(
        f"</think>{before.replace('{', '')}\n```json\n{fence}\n```{after.replace('</think>', '')}", Verdict
    ) == (verdict if "</think>" not in reason else parse(fence, Verdict))


@pytest.mark.parametrize("status", [Status.REFUSED, Status.TRUNCATED, Status.FAILED])
def test_an_answer_that_did_not_come_is_told_with_its_status(status: Status) -> None:
    client = ScriptedClient([Completion('{"winner": "A"}', status, "so it is")])
    with pytest.raises(Unanswered, match="so it is") as failure:
        asyncio.run(ask(client, HELLO, Verdict))
    assert failure.value.status is status


# --- the cache --------------------------------------------------------------------------------------------------------


def cached(tmp_path: Path, backend: ScriptedBackend) -> CachedClient:
    return CachedClient(backend.client, backend, ResponseCache(tmp_path))


def test_a_miss_then_a_hit(tmp_path: Path) -> None:
    backend = ScriptedBackend([Completion("one", prompt_tokens=5, completion_tokens=2)])
    first = asyncio.run(cached(tmp_path, backend).generate(HELLO))
    second = asyncio.run(cached(tmp_path, backend).generate(HELLO))
    assert not first.cached
    assert second == replace(first, cached=True)
    assert len(backend.requests) == 1


def test_log_probabilities_are_cached_whole(tmp_path: Path) -> None:
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
def test_what_cannot_be_used_is_not_paid_again_unless_another_draw_is_wanted(tmp_path: Path, said: Completion) -> None:
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
    for redraw in (True, False):  # the draw that came out well is the answer from now on
        assert ask_for(redraw).text == '{"a": 1}'
    assert len(backend.requests) == 3


def test_without_an_llm_only_what_is_stored_is_said(tmp_path: Path) -> None:
    backend = ScriptedBackend(["stored"])
    asyncio.run(cached(tmp_path, backend).generate(HELLO))
    silent = CachedClient(None, backend, ResponseCache(tmp_path))
    assert asyncio.run(silent.generate(HELLO)).text == "stored"
    for question in (silent.generate([Message("user", "new")]), silent.token_logprobs(HELLO)):
        with pytest.raises(NotCached):
            asyncio.run(question)


def test_whatever_changes_the_answer_misses(tmp_path: Path) -> None:
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


def test_top_belongs_to_the_question(tmp_path: Path) -> None:
    backend = ScriptedBackend(token_logprobs=lambda request: PromptLogprobs((PromptToken(str(request.top), {}),)))
    client = cached(tmp_path, backend)
    assert [asyncio.run(client.token_logprobs(HELLO, top=top)).tokens[0].text for top in (1, 2)] == ["1", "2"]


def test_where_and_how_patiently_a_model_is_asked_does_not_matter(tmp_path: Path) -> None:
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


def test_a_failure_is_nobody_elses(tmp_path: Path) -> None:
    outputs: list[Any] = [Completion("", Status.FAILED), RuntimeError("crash"), "answer"]
    backend = ScriptedBackend(outputs)
    client = cached(tmp_path, backend)

    async def run() -> list[Any]:
        return await asyncio.gather(*(client.generate(HELLO) for _ in range(4)), return_exceptions=True)

    failure, crash, answer, hit = asyncio.run(run())
    assert failure.status is Status.FAILED
    assert isinstance(crash, RuntimeError)
    assert (answer.text, answer.cached, hit.text, hit.cached) == ("answer", False, "answer", True)


def test_a_cancelled_question_leaves_the_others_alone(tmp_path: Path) -> None:
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
from harness.llm import CachedClient, Message, ResponseCache
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


def test_a_cache_needs_nothing_that_a_network_file_system_has_not(tmp_path: Path) -> None:
    """A write-ahead log is shared memory, which processes on two machines do not share."""
    client = cached(tmp_path, ScriptedBackend(["one"]))
    asyncio.run(client.generate(HELLO))
    assert {path.suffix for path in tmp_path.iterdir()} <= {".sqlite", ".sqlite-journal"}
    with closing(sqlite3.connect(tmp_path / "responses.sqlite")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() != ("wal",)


def test_an_answer_that_came_is_stored_though_nobody_waits_any_more(tmp_path: Path) -> None:
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


def test_a_file_that_is_no_cache(tmp_path: Path) -> None:
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


# --- metering ---------------------------------------------------------------------------------------------------------


def test_what_an_item_cost(tmp_path: Path) -> None:
    backend = ScriptedBackend(
        [Completion("a", prompt_tokens=5, completion_tokens=2), Completion("", Status.TRUNCATED, "", 5, 9)],
        [PromptLogprobs((), prompt_tokens=11)],
        sampling={"max_tokens": 9},
    )

    async def run(client: LLMClient) -> None:
        await client.generate(HELLO)
        await client.generate(HELLO)  # from the cache, and counted all the same
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
def test_a_price_is_told_whole(price: dict[str, Any]) -> None:
    with pytest.raises(HarnessError, match="price"):
        OpenAICompatible("m", price=price)


def test_no_price_is_none() -> None:
    assert OpenAICompatible("m", price={"prompt": None, "completion": None}).price is None
    assert OpenAICompatible("m", price={"prompt": 1, "completion": 2}).price == Price(1, 2)


# --- servers ----------------------------------------------------------------------------------------------------------


def test_roles_that_one_server_can_serve_share_it(tmp_path: Path) -> None:
    backends = {
        "explainer": ScriptedBackend(lambda request: str(request.sampling.max_tokens), server="s"),
        "judge": ScriptedBackend(server="s", sampling={"max_tokens": 9}),
    }

    async def run() -> str:
        async with Serving(backends, None, tmp_path) as serving:
            await serving.client("explainer")
            judge = await serving.client("judge")
            assert await serving.client("judge") is judge
            return (await judge.generate(HELLO)).text

    assert asyncio.run(run()) == "9"  # of the judge's own sampling
    assert backends["explainer"].history == ["start", "stop"]
    assert backends["judge"].history == []


def test_the_server_that_was_longest_not_asked_for_makes_room(tmp_path: Path) -> None:
    backends = {name: ScriptedBackend(lambda request: "x", server=name) for name in "abc"}
    running = lambda: "".join(name for name in "abc" if backends[name].history[-1:] == ["start"])  # noqa: E731

    async def run() -> list[str]:
        states = []
        async with Serving({**backends, "endpoint": ScriptedBackend()}, None, tmp_path, max_servers=2) as serving:
            for role in ["a", "endpoint", "b", "a", "c", "b", "endpoint"]:
                await serving.client(role)
                states.append(running())
        return states

    assert asyncio.run(run()) == ["a", "a", "ab", "ab", "ac", "bc", "bc"]
    assert running() == ""


def test_a_server_is_stopped_between_requests_and_its_role_says_so(tmp_path: Path) -> None:
    async def slowly(request: Any) -> str:
        await asyncio.sleep(0.1)
        assert backends["a"].history[-1] == "start"
        return "x"

    backends = {"a": ScriptedBackend(slowly, server="a"), "b": ScriptedBackend(server="b")}

    async def run() -> list[Completion]:
        async with Serving(backends, None, tmp_path) as serving:
            client = await serving.client("a")
            under_way = asyncio.create_task(client.generate(HELLO))
            await asyncio.sleep(0.02)
            await serving.client("b")
            answers = [await under_way, await client.generate(HELLO)]
            await serving.client("a")
            return [*answers, await client.generate(HELLO)]

    before, stopped, again = asyncio.run(run())
    assert before.text == again.text == "x"
    assert stopped.status is Status.FAILED
    assert "max_servers" in stopped.detail


def test_every_server_is_stopped_when_the_run_fails(tmp_path: Path) -> None:
    backends = {name: ScriptedBackend(server=name) for name in "ab"}

    async def run() -> None:
        async with Serving(backends, None, tmp_path, max_servers=2) as serving:
            await serving.client("a")
            await serving.client("b")
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
def test_an_llm_that_will_not_do_is_found_first(tmp_path: Path, output: Any, words: tuple[str, ...]) -> None:
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


def test_log_probabilities_are_tried_where_they_are_needed(tmp_path: Path) -> None:
    lacking = PromptLogprobs((), Status.FAILED, "the server does not offer prompt_logprobs")
    backend = ScriptedBackend(lambda request: '{"answer": "no"}', [lacking], answers_probe=False)

    async def run() -> None:
        async with Serving({"simulator": backend}, ResponseCache(tmp_path), tmp_path) as serving:
            await serving.client("simulator")
            await serving.client("simulator")
            await serving.client("simulator", needs_logprobs=True)

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
    with pytest.raises(HarnessError, match=r"llm\.judge: "):
        Serving({"judge": OpenAICompatible(None)}, None, tmp_path).check()


def test_a_role_without_an_llm(tmp_path: Path) -> None:
    async def run() -> None:
        async with Serving({}, None, tmp_path) as serving:
            await serving.client("judge")

    with pytest.raises(HarnessError, match=r"llm@llm\.judge"):
        asyncio.run(run())


# --- the managed server's config (the server itself: test_llm_vllm.py) ------------------------------------------------


def test_what_a_server_is(tmp_path: Path) -> None:
    base = ManagedVLLM("m", options={"dtype": "float32", "max_num_seqs": 8})
    same = ManagedVLLM("m", options={"max-num-seqs": 8, "dtype": "float32"}, concurrency=1, sampling={"seed": 2})
    assert base.server == same.server
    assert hash(base.server)
    for other in (
        ManagedVLLM("m2", options=base.options),
        ManagedVLLM("m", options={**base.options, "max-num-seqs": 9}),
        ManagedVLLM("m", options=base.options, env={"A": 1}),
        ManagedVLLM("m", options=base.options, revision="x"),
        ManagedVLLM("m", options=base.options, python="/bin/python"),
    ):
        assert base.server != other.server


def test_what_a_servers_answers_depend_on() -> None:
    base = ManagedVLLM("m", options={"dtype": "float32"})
    harmless = {"dtype": "float32", "tensor-parallel-size": 2, "gpu_memory_utilization": 0.5, "max-model-len": 1}
    assert ManagedVLLM("m", options=harmless, env={"A": 1}, timeout_s=1).identity == base.identity
    for other in (
        ManagedVLLM("m2", options=base.options),
        ManagedVLLM("m", revision="x", options=base.options),
        ManagedVLLM("m", options={"dtype": "bfloat16"}),
        ManagedVLLM("m", options={**base.options, "an-option-of-tomorrow": 1}),
    ):
        assert other.identity != base.identity
    json.dumps(base.identity)


def test_a_local_model_is_known_by_its_content(tmp_path: Path) -> None:
    def folder(name: str, **files: bytes) -> str:
        (tmp_path / name).mkdir()
        for file, content in {"config.json": b"{}", "model.safetensors": b"\0" * 3_000_000, **files}.items():
            (tmp_path / name / file).write_bytes(content)
        return str(tmp_path / name)

    base = ManagedVLLM(folder("one")).identity
    assert ManagedVLLM(folder("two", **{"README.md": b"changed"})).identity == base
    assert "one" not in json.dumps(base)
    tail = b"\0" * 2_999_999
    for number, changed in enumerate(
        [
            {"config.json": b"{ }"},
            {"tokenizer.json": b"{}"},
            {"model.safetensors": tail},
            {"model.safetensors": b"\1" + tail},
            {"model.safetensors": tail + b"\1"},
            {"model.safetensors": b"\0" * 1_490_000 + b"\1" * 20_000 + b"\0" * 1_490_000},  # a matrix in the middle
        ]
    ):
        assert ManagedVLLM(folder(f"changed-{number}", **changed)).identity != base, changed
    template = tmp_path / "template.jinja"
    template.write_text("one")
    before = ManagedVLLM("m", options={"chat-template": str(template)}).identity
    template.write_text("two")
    assert ManagedVLLM("m", options={"chat-template": str(template)}).identity != before


def test_options_become_arguments() -> None:
    options = {"enforce_eager": True, "enable-prefix-caching": False, "x": None, "seed": 3, "rope": {"a": [1]}}
    assert ManagedVLLM("m", revision="r", options=options)._arguments() == [
        *("--model", "m", "--revision", "r", "--no-enable-prefix-caching", "--enforce-eager"),
        *("--rope", '{"a": [1]}', "--seed", "3"),
    ]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"model": None}, "llm.ROLE.model"),
        ({"model": "/no/such/folder"}, "does not exist"),
        ({"model": "m", "python": "/no/such/python"}, r"pip install 'neuron-harness\[vllm\]'"),
        ({"model": "m", "python": "/bin/false"}, r"pip install 'neuron-harness\[vllm\]'"),
        ({"model": "m", "options": {"port": 1}}, "port"),
        ({"model": "m", "options": {"api_key": "sk"}}, "api-key"),
        ({"model": "m", "options": {"hf-token": "hf_x"}}, "HF_TOKEN"),
    ],
)
def test_a_server_that_cannot_start_is_found_before_the_run(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(HarnessError, match=word) as error:
        ManagedVLLM(**arguments).check()
    assert "\n" not in str(error.value)


def test_a_server_that_dies_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(HarnessError) as error:
        asyncio.run(start(impostor(tmp_path, "sys.exit(3)"), tmp_path / "logs"))
    first, *rest = str(error.value).splitlines()
    assert first == "the vLLM server of m did not start: ValueError: the weights are missing"
    assert str(tmp_path / "logs" / "vllm-m.log") in rest[0]
    assert rest[1:] == [f"  line {number}" for number in range(15, 30)]


def test_a_server_that_is_never_ready(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(HarnessError, match=r"not ready after 3 s; raise llm.ROLE.startup_timeout_s"):
        asyncio.run(start(impostor(tmp_path, "sys.stdout.flush(); import time; time.sleep(600)"), tmp_path / "logs"))
    assert time.monotonic() - began < 10


def test_a_server_that_dies_in_the_middle(tmp_path: Path) -> None:
    async def run() -> tuple[Completion, Completion, float]:
        async with impostor(tmp_path, MORTAL.format()).open(tmp_path / "logs") as client:
            first = await client.generate(HELLO)
            began = time.monotonic()
            return first, await client.generate(HELLO), time.monotonic() - began

    first, second, seconds = asyncio.run(run())
    for completion in (first, second):
        assert completion.status is Status.FAILED
        assert f"is dead (exit status 7): see {tmp_path / 'logs' / 'vllm-m.log'}" in completion.detail
    assert seconds < 1  # the dead are not asked twice


def test_a_run_that_is_cancelled_leaves_no_server(tmp_path: Path) -> None:
    async def run() -> list[int]:
        backend, before = impostor(tmp_path, "import time; time.sleep(600)"), tiny_models.guarded()
        task = asyncio.create_task(start(backend, tmp_path / "logs"))
        while not (sessions := tiny_models.guarded() - before):
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # What was just being started may take a moment to die; it must not live on.
        until = time.monotonic() + 10
        while tiny_models.survivors(sessions) and time.monotonic() < until:
            await asyncio.sleep(0.05)
        return tiny_models.survivors(sessions)

    assert asyncio.run(run()) == []


# --- the leash --------------------------------------------------------------------------------------------------------

STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) == 2:
    subprocess.Popen([sys.executable, __file__, sys.argv[1], "child"])
with open(sys.argv[1], "a") as file:
    file.write(f"{os.getpid()}\\n")
time.sleep(600 if len(sys.argv) == 3 or os.environ.get("STAY") else 0.2)
"""


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("end", ["pipe", "harness killed", "leash told", "server died"])
def test_nothing_on_the_leash_survives(tmp_path: Path, end: str) -> None:
    script, names = tmp_path / "stubborn.py", tmp_path / "processes"
    script.write_text(STUBBORN)
    command = [sys.executable, "-I", "-S", process_guard.__file__, "0.3", sys.executable, str(script), str(names)]
    # A harness of its own, to be killed: it holds the pipe and prints the leash's number.
    harness = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys, time\n"
            "leash = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True)\n"
            "print(leash.pid, flush=True)\n"
            "sys.stdin.read()\nleash.stdin.close()\nleash.wait()\n",
            *command,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **({} if end == "server died" else {"STAY": "1"})},
    )
    assert harness.stdin is not None
    assert harness.stdout is not None
    leader = int(harness.stdout.readline())
    deadline = time.monotonic() + 20
    while not names.exists() or len(names.read_text().split()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    processes = [leader, *map(int, names.read_text().split())]
    if end == "pipe":
        harness.stdin.close()
    elif end == "harness killed":
        harness.kill()
    elif end == "leash told":
        os.kill(leader, signal.SIGTERM)
    while any(map(is_alive, processes)):
        assert time.monotonic() < deadline, end
        time.sleep(0.02)
    harness.kill()
    harness.wait()
    harness.stdin.close()
    harness.stdout.close()


# --- the configs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("vllm", ManagedVLLM), ("openai", OpenAICompatible)])
def test_a_config_says_what_its_class_does(name: str, kind: type[Any]) -> None:
    import inspect

    from hydra.utils import instantiate

    config = OmegaConf.load(CONF / f"{name}.yaml")
    backend = instantiate(config)
    assert type(backend) is kind
    assert set(config) - {"_target_", "_convert_"} == set(inspect.signature(kind).parameters)
    defaults = {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}
    for option in ("concurrency", "timeout_s", "retries"):
        assert config[option] == defaults[option]
    assert backend.sampling == Sampling()
    with pytest.raises(HarnessError, match="has no model"):
        backend.check()
    json.dumps(backend.identity)


def test_no_llm_is_an_empty_config() -> None:
    assert OmegaConf.load(CONF / "none.yaml") == {}
