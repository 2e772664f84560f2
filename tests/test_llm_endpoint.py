"""The client of OpenAI-compatible servers, against a real HTTP server with scripted replies."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest
from omegaconf import OmegaConf
from support.endpoint import HELLO, Reply, endpoint, failed, said

from harness.errors import HarnessError
from harness.llm.asking import ask
from harness.llm.client import Completion, Message, PromptLogprobs, PromptToken, Sampling, Unanswered
from harness.llm.openai_compatible import OpenAIClient, OpenAICompatible
from harness.llm.vllm_server import ManagedVLLM
from harness.records import Status
from harness.validation import explain

CONF = Path(__file__).parent.parent / "conf" / "llm"


class Verdict(pydantic.BaseModel):
    winner: Literal["A", "B", "tie"]
    reason: str = ""


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
def test_a_failed_request_has_a_status_and_a_reason(reply: Reply, status: Status, word: str) -> None:
    with endpoint(reply) as server:
        completion = generate(server.url, retries=0)
    assert completion.status is status
    assert word in completion.detail
    assert completion.detail
    assert "\n" not in completion.detail


def message(**fields: Any) -> Reply:
    """Return a reply whose message has the given fields."""
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
        (message(content=f"<think>{B}"), Status.OK),  # never closed, but it contains the answer
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


def test_without_a_schema_thoughts_are_the_answer_only_if_there_is_no_content() -> None:
    with endpoint(message(content="So be it.", reasoning="Hm.")) as server:
        assert generate(server.url).text == "So be it."
    with endpoint(message(reasoning_content="Hm.</think>So be it.")) as server:
        assert generate(server.url).text == "So be it."


def test_the_text_of_a_truncated_answer_is_kept() -> None:
    with endpoint(said("Once upon", finish="length")) as server:
        assert generate(server.url).text == "Once upon"


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_temporary_errors_are_retried(status: int) -> None:
    with endpoint(failed(status, Retry_After="0.01"), said("hi")) as server:
        assert generate(server.url).text == "hi"
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_permanent_errors_are_not_retried(status: int) -> None:
    with endpoint(failed(status)) as server:
        assert generate(server.url).status is Status.FAILED
    assert len(server.requests) == 1


def test_an_account_without_money_is_not_asked_again() -> None:
    reply = (429, {}, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}})
    with endpoint(reply) as server:
        assert "quota" in generate(server.url).detail
    assert len(server.requests) == 1


def test_retries_end() -> None:
    with endpoint(failed(503, "busy", Retry_After="0.01")) as server:
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


def test_a_dead_server_gets_one_attempt_per_call() -> None:
    attempts = []

    def death() -> str:
        attempts.append(time.monotonic())
        return "the server is dead"

    async def run(url: str) -> Completion:
        client = OpenAIClient(OpenAICompatible("m", url, retries=5), "m", url, "none", death=death)
        async with client.api:
            return await client.generate(HELLO)

    with endpoint(said("hi")) as server:
        assert asyncio.run(run(server.url)).detail == "the server is dead"
    assert server.requests == []
    assert len(attempts) == 2  # before the attempt, and for the message


@pytest.mark.parametrize(
    ("answering", "warnings"),
    [("m", 0), ("M-2026-11-30", 0), ("", 0), ("llama-3-8b.gguf", 0), ("other", 1)],
)
def test_a_server_that_answers_with_another_model_is_named_once(
    answering: str, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def run(url: str) -> None:
        async with OpenAICompatible("meta/Llama-3" if "llama" in answering else "m", url).open(
            Path("unused")
        ) as client:
            assert [(await client.generate(HELLO)).text for _ in range(2)] == ["hi", "hi"]

    with endpoint(said("hi", model=answering)) as server:
        asyncio.run(run(server.url))
    lines = [line for line in caplog.messages if line.startswith(f"{server.url} was asked for m and answers as other:")]
    assert len(lines) == len(caplog.messages) == warnings


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
def test_a_misconfigured_endpoint_is_refused_before_the_run(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises((HarnessError, pydantic.ValidationError), match=word) as error:
        OpenAICompatible(**{"api_key_env": "NO_SUCH_KEY", **arguments}).check()
    assert "\n" not in explain(error.value)


def test_an_unknown_sampling_option_is_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="temprature"):
        Sampling(**{"temprature": 1})  # type: ignore[arg-type]


def test_an_overloaded_server_gets_fewer_requests_at_once() -> None:
    left = iter([failed(429, Retry_After="0.01")] * 4)

    async def run(url: str) -> int:
        async with OpenAICompatible("m", url, concurrency=16).open(Path("unused")) as client:
            await asyncio.gather(*(client.generate([Message("user", str(number))]) for number in range(40)))
            return client.limit.limit  # type: ignore[attr-defined]

    with endpoint(lambda body: next(left, None) or said("hi")) as server:
        assert asyncio.run(run(server.url)) < 16
    assert len(server.requests) == 44


@pytest.mark.parametrize(("status", "limit"), [(500, 16), (409, 16), (503, 8), (429, 8)])
def test_only_an_overload_lowers_the_number_of_requests(status: int, limit: int) -> None:
    async def run(url: str) -> int:
        async with OpenAICompatible("m", url).open(Path("unused")) as client:
            assert (await client.generate(HELLO)).status is Status.OK
            assert isinstance(client, OpenAIClient)
            return client.limit.limit

    with endpoint(failed(status, retry_after_ms="1"), said("good")) as server:
        assert asyncio.run(run(server.url)) == limit


def test_the_address_is_checked_and_shown_without_its_password() -> None:
    with pytest.raises(HarnessError, match="'localhost:8000' is not a web address"):
        OpenAICompatible("m", "localhost:8000").check()
    assert str(OpenAICompatible("m", "http://u:p@two/v1")) == "m at http://two/v1"


# --- log-probabilities of a prompt ------------------------------------------------------------------------------------


def entry(text: str, logprob: float | None) -> dict[str, Any]:
    return {"decoded_token": text, "logprob": logprob, "rank": 1}


def test_tokens_of_a_prompt_are_found_by_id_not_by_position() -> None:
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


def test_a_token_that_is_part_of_a_character_keeps_its_own_log_probability() -> None:
    # vLLM gives an empty text to each token that ends inside a character.
    positions = [None, {"5": entry("", -0.1), "7": entry("", -4.0)}]
    with endpoint(said("!", prompt_logprobs=positions, prompt_token_ids=[1, 7])) as server:
        assert token_logprobs(server.url).tokens[1] == PromptToken("", {"": -4.0})


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


# --- the configs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("vllm", ManagedVLLM), ("openai", OpenAICompatible)])
def test_the_defaults_of_a_config_are_those_of_its_class(name: str, kind: type[Any]) -> None:
    import inspect

    from hydra.utils import instantiate

    config = OmegaConf.create({"cache": "c", "llm": OmegaConf.load(CONF / f"{name}.yaml")}).llm
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
