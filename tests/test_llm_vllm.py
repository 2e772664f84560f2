"""The managed server against a real vLLM on the CPU, with a tiny model that was trained for it."""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from pathlib import Path
from typing import Literal

import pydantic
import pytest
from support.tiny_models import DIGITS, Served, guarded, survivors, tiny_vllm

from harness.errors import HarnessError
from harness.llm.asking import ask, parse
from harness.llm.cache import CachedClient, ResponseCache
from harness.llm.client import Completion, Message, Sampling
from harness.llm.openai_compatible import OpenAICompatible
from harness.llm.serving import Serving
from harness.records import Status

pytestmark = [pytest.mark.slow, pytest.mark.vllm]


class Verdict(pydantic.BaseModel):
    reason: str = pydantic.Field(max_length=60)
    winner: Literal["A", "B", "tie"]


def test_answers_keep_to_the_schema(vllm: Served) -> None:
    async def run() -> list[Verdict]:
        questions = ([Message("system", "You judge."), Message("user", f"Which of {number}?")] for number in range(16))
        return await asyncio.gather(*(ask(vllm.client, question, Verdict) for question in questions))

    assert len(vllm.run(run())) == 16


def test_answers_are_not_padded_with_white_space(vllm: Served) -> None:
    schema = Verdict.model_json_schema()
    for seed in range(4):
        sampling = Sampling(temperature=1.0, seed=seed)
        answer = vllm.run(vllm.client.generate([Message("user", "?")], schema=schema, sampling=sampling))
        assert answer.status is Status.OK
        compact = json.dumps(parse(answer.text, Verdict).model_dump(), separators=(",", ":"))
        assert len(answer.text) <= len(compact)


def test_sampling_is_honoured(vllm: Served) -> None:
    def answer(**sampling: float) -> Completion:
        return vllm.run(
            vllm.client.generate([Message("user", "abc")], sampling=Sampling(**{"max_tokens": 8, **sampling}))
        )

    assert (answer().status, answer().completion_tokens) == (Status.TRUNCATED, 8)
    assert answer() == answer()
    assert answer(temperature=2.0, seed=1) == answer(temperature=2.0, seed=1) != answer(temperature=2.0, seed=2)


def test_sampling_of_the_models_own_does_not_apply(vllm: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    # The model's generation_config.json has a repetition penalty of 2.
    monkeypatch.setenv("MY_SERVER_KEY", vllm.client.api.api_key)
    asked = [Message("user", "a\t1\n b\t1\n c\t")]

    def answer(**fields: float) -> str:
        url = str(vllm.client.api.base_url)
        backend = OpenAICompatible(vllm.client.model, url, api_key_env="MY_SERVER_KEY", extra_body=fields)

        async def run() -> str:
            async with backend.open(vllm.logs) as client:
                return (await client.generate(asked, sampling=Sampling(max_tokens=24))).text

        return vllm.run(run())

    plain = vllm.run(vllm.client.generate(asked, sampling=Sampling(max_tokens=24))).text
    assert plain == answer(repetition_penalty=1.0) != answer(repetition_penalty=2.0)


def test_log_probabilities_line_up_with_the_text(vllm: Served) -> None:
    written = "until\tunknown\n the\tunknown\n naïve 語\tunknown\n x\tunknown\n"
    messages = [Message("user", "Simulate the neuron."), Message("assistant", written)]
    found = vllm.run(vllm.client.token_logprobs(messages, top=20))
    assert found.status is Status.OK
    texts = [token.text for token in found.tokens]
    assert len(found.tokens) == found.prompt_tokens
    # Tokens that are parts of a character have no text.
    assert "until\tunknown\n the\tunknown\n na" in "".join(texts)
    assert "".join(texts).endswith("\tunknown\n x\tunknown\n")
    assert not found.tokens[0].alternatives
    for token in found.tokens[1:]:
        assert token.text in token.alternatives
        assert sum(map(math.exp, token.alternatives.values())) <= 1 + 1e-4
    after_tabs = [token for before, token in zip(texts, found.tokens[1:], strict=False) if before == "\t"]
    assert [token.text for token in after_tabs] == ["unknown"] * 4
    for token in after_tabs:
        mass = sum(math.exp(token.alternatives[digit]) for digit in DIGITS if digit in token.alternatives)
        assert mass > 0.5, token


def test_an_assistant_message_at_the_end_is_left_open(vllm: Served) -> None:
    messages = [Message("user", "a"), Message("assistant", "b")]
    assert [token.text for token in vllm.run(vllm.client.token_logprobs(messages)).tokens][-1] == "b"
    closed = vllm.run(vllm.client.token_logprobs(messages[:1]))
    assert [token.text for token in closed.tokens][-1] == "<|assistant|>"


def test_more_alternatives_than_the_server_gives(vllm: Served) -> None:
    found = vllm.run(vllm.client.token_logprobs([Message("user", "a")], top=51))
    assert found.status is Status.FAILED
    assert "max-logprobs" in found.detail


def test_a_prompt_that_is_too_long(vllm: Served) -> None:
    answer = vllm.run(vllm.client.generate([Message("user", "a b " * 4000)]))
    assert answer.status is Status.FAILED
    assert "2048" in answer.detail


def test_concurrent_requests_and_their_cached_answers(vllm: Served, tmp_path: Path) -> None:
    cache = ResponseCache(tmp_path)

    async def run() -> list[Completion]:
        client = CachedClient(vllm.client, vllm.backend, cache)
        schema = Verdict.model_json_schema()
        questions = ([Message("user", f"Question {number}")] for number in range(16))
        return await asyncio.gather(*(client.generate(question, schema=schema) for question in questions))

    first, second = vllm.run(run()), vllm.run(run())
    assert {answer.cached for answer in first} == {False}
    assert {answer.cached for answer in second} == {True}
    assert [answer.text for answer in first] == [answer.text for answer in second]


def test_a_vllm_server_is_an_openai_endpoint(vllm: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = vllm.client.api
    monkeypatch.setenv("MY_SERVER_KEY", api.api_key)
    name = vllm.client.model

    async def run() -> None:
        for model in (name, "no-such-model"):
            backend = OpenAICompatible(model, str(api.base_url), api_key_env="MY_SERVER_KEY")
            async with Serving({"simulator": backend}, None, tmp_path) as serving:
                await serving.preflight("simulator", needs_logprobs=True)

    with pytest.raises(HarnessError, match=r"'simulator' \(no-such-model at .*does not answer: HTTP 404"):
        vllm.run(run())


@pytest.mark.drill
def test_a_broken_model_is_reported_with_the_end_of_the_log(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    model = tmp_path / "broken"
    model.mkdir()
    (model / "config.json").write_text('{"architectures": ["NoSuchModel"], "model_type": "no-such-model"}')
    before, logs = guarded(), tmp_path / "logs"
    sessions: set[int] = set()

    async def run() -> None:
        async def watch() -> None:
            while True:
                sessions.update(guarded() - before)
                await asyncio.sleep(0.1)

        watcher = asyncio.create_task(watch())
        try:
            async with tiny_vllm(model).open(logs):
                pass
        finally:
            watcher.cancel()

    with pytest.raises(HarnessError) as error:
        asyncio.run(run())
    first, second, *tail = str(error.value).splitlines()
    assert first.startswith(f"the vLLM server of {model} did not start: ")
    assert "no-such-model" in first.removeprefix(f"the vLLM server of {model}")
    assert str(logs / "vllm-broken.log") in second
    assert len(tail) == 15
    assert sessions
    assert not survivors(sessions)


def test_the_key_of_a_server_is_in_no_log(vllm: Served) -> None:
    key = vllm.client.api.api_key
    deadline = time.monotonic() + 5
    (log,) = vllm.logs.glob("vllm-*.log")
    while not log.stat().st_size and time.monotonic() < deadline:
        time.sleep(0.1)
    assert key not in log.read_text()
    assert key not in str(vllm.backend.identity)
    assert key not in os.environ.values()
