"""Overhead of the LLM client: requests per second compared with a plain load generator, against one real vLLM.

``python tests/bench/llm.py`` serves a tiny model on the CPU and sends it the same prompts with the same concurrency in
three ways: bare HTTP (httpx, a semaphore, only the JSON of the answer parsed), the harness's client without a cache,
and with a cache that contains none of the answers. Every turn has new prompts, the same for all three ways, and the
server's prefix cache is off, so that no way gains from another. Turns are short and many, and each way is first in
turn, so that other load on the machine affects all alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import tiny_models

from harness.llm.cache import CachedClient, ResponseCache
from harness.llm.client import LLMClient, Message, Sampling
from harness.llm.metering import MeteredClient
from harness.llm.openai_compatible import OpenAIClient
from harness.records import Status

TARGET = 0.95
SCHEMA = {
    "title": "Answer",
    "type": "object",
    "properties": {"description": {"type": "string", "maxLength": 40}},
    "required": ["description"],
    "additionalProperties": False,
}
Prompts = list[list[Message]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=64, help="requests in each turn")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--max-tokens", type=int, default=64, help="tokens of each answer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = tiny_models.tiny_llm(folder / "tiny-llm")
        backend = tiny_models.tiny_vllm(
            model,
            concurrency=options.concurrency,
            # Every answer has the same length: the model neither ends nor closes an object before.
            sampling=Sampling(max_tokens=options.max_tokens),
            options={"enable-prefix-caching": False, "generation-config": "vllm"},
        )
        with tiny_models.served(backend, folder / "logs") as server:
            server.run(_measure(server, folder, options))


async def _measure(server: tiny_models.Served, folder: Path, options: argparse.Namespace) -> None:
    assert isinstance(server.client, OpenAIClient)
    api = server.client.api
    async with httpx.AsyncClient(
        base_url=str(api.base_url),
        headers={"Authorization": f"Bearer {api.api_key}"},
        timeout=120,
        trust_env=False,
        limits=httpx.Limits(keepalive_expiry=2),  # the server closes connections that are idle for five seconds
    ) as http:

        async def bare(prompts: Prompts) -> None:
            slots = asyncio.Semaphore(options.concurrency)

            async def one(prompt: list[Message]) -> None:
                body = {
                    "model": server.client.model,
                    "messages": [{"role": message.role, "content": message.content} for message in prompt],
                    "max_tokens": options.max_tokens,
                    "temperature": 0.0,
                    "top_p": 1.0,
                    "seed": 0,
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": "Answer", "schema": SCHEMA, "strict": True},
                    },
                }
                async with slots:
                    answer = await http.post("chat/completions", json=body)
                assert json.loads(answer.content)["choices"], answer.content

            await asyncio.gather(*map(one, prompts))

        def ours(cache: ResponseCache | None) -> Callable[[Prompts], Awaitable[None]]:
            client = CachedClient(server.client, server.backend, cache)

            async def ask(prompts: Prompts) -> None:
                answers = await asyncio.gather(*(_metered(client, prompt) for prompt in prompts))
                assert not any(cached for _, cached in answers)
                assert {status for status, _ in answers} <= {Status.OK, Status.TRUNCATED}

            return ask

        ways = {
            "bare httpx": bare,
            "harness, no cache": ours(None),
            "harness, cache misses": ours(ResponseCache(folder)),
        }
        rates: dict[str, list[float]] = {way: [] for way in ways}
        cpu = dict.fromkeys(ways, 0.0)
        for turn in range(-1, options.turns):  # the first turn warms up the server and the adaptive limit
            prompts = [
                [Message("system", "You describe."), Message("user", f"Turn {turn}, number {number}: until, till")]
                for number in range(options.requests)
            ]
            names = list(ways)
            shift = turn % len(names)
            for way in names[shift:] + names[:shift]:  # each way is first in turn
                start, spent = time.perf_counter(), time.process_time()
                await ways[way](prompts)
                if turn >= 0:
                    cpu[way] += time.process_time() - spent
                    rates[way].append(options.requests / (time.perf_counter() - start))
    print(f"{options.requests} requests a turn, {options.concurrency} at once, answers of {options.max_tokens} tokens")
    print("| | requests/s, all turns | share of bare: all turns | median turn | CPU ms of the client | target |")
    print("|---|---|---|---|---|---|")
    overall = {way: len(found) / sum(1 / rate for rate in found) for way, found in rates.items()}
    for way, found in rates.items():
        share = overall[way] / overall["bare httpx"]
        middle = median(one / other for one, other in zip(found, rates["bare httpx"], strict=True))
        cost = 1e3 * cpu[way] / (options.requests * options.turns)
        target = "" if way == "bare httpx" else f"{TARGET:.0%}"
        print(f"| {way} | {overall[way]:.1f} | {share:.1%} | {middle:.1%} | {cost:.1f} | {target} |")
    for way, found in rates.items():
        print(f"{way}: " + ", ".join(f"{rate:.1f}" for rate in found))


async def _metered(client: LLMClient, prompt: list[Message]) -> tuple[Status, bool]:
    answer = await MeteredClient(client).generate(prompt, schema=SCHEMA)
    return answer.status, answer.cached


if __name__ == "__main__":
    main()
