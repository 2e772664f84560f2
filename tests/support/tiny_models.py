"""Tiny real models, trained in seconds on the documentation that comes with Python, without a download.

``tiny_llm`` makes a chat model that vLLM serves; ``tiny_subject`` makes models to study. ``tiny_vllm`` is the back end
that serves the former on a CPU; see ``tests/conftest.py`` for the fixtures.
"""

from __future__ import annotations

import asyncio
import json
import os
import pydoc_data.topics
import random
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from harness.llm.client import Backend, LLMClient

CONF = Path(__file__).parents[2] / "conf"
#: Calls the command line: its exit status, and what it printed to both streams.
Invoke = Callable[..., tuple[int, str, str]]

#: How a test loads a model to compare with: the default attention ignores Gemma 2's cap of attention scores.
REFERENCE: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
DIGITS = [str(number) for number in range(11)]  # what simulators are asked for after each token's tab
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' }}{{ message['content'] }}"
    "{% if not loop.last or add_generation_prompt %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
#: Option of runs on random weights, where every search is long and repeated eight times, and its result means nothing.
SHORT_SEARCH = "decomposition.geodesic.max_steps=3"
FAMILIES = ("llama", "gemma2", "bert")  # which between them have what most tests need

_SMALL = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
_GROUPED = {**_SMALL, "num_key_value_heads": 2}
_UNTIED = {**_GROUPED, "tie_word_embeddings": False}
_EXPERTS = {**_UNTIED, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "head_dim": 6}
VISION = {**_SMALL, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
#: Options of the tiny models' configs, by family. No two widths are alike, so that none can stand for another.
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {**_UNTIED, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3},
    "mistral": _UNTIED,
    "qwen2": _UNTIED,
    "qwen3": {**_GROUPED, "head_dim": 8},
    "gemma2": {**_GROUPED, "hidden_size": 48, "intermediate_size": 96, "head_dim": 12, "query_pre_attn_scalar": 12},
    "gemma3_text": {**_GROUPED, "head_dim": 8},
    "gemma3": {**_GROUPED, "head_dim": 8},
    "phi3": _UNTIED,
    "gpt2": {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_inner": 40},
    "gpt_neox": {**_SMALL, "tie_word_embeddings": False, "hidden_act": "gelu"},
    "opt": {**_SMALL, "word_embed_proj_dim": 24, "ffn_dim": 40},
    "bert": {**_SMALL, "hidden_size": 64, "intermediate_size": 128},
    "roberta": _SMALL,
    "mixtral": {**_UNTIED, "num_local_experts": 3},
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 20, "mlp_only_layers": [1]},
    "qwen3_moe": _EXPERTS,
    # Unknown to the harness:
    "olmo2": _UNTIED,
    "stablelm": _UNTIED,
    "olmoe": {**_UNTIED, "num_experts": 3, "num_experts_per_tok": 2},
    "starcoder2": _GROUPED,
}


def tiny_llm(folder: Path, *, steps: int = 100, seed: int = 0) -> Path:
    """Make a chat LLM of some 0.7 million parameters that has learnt one thing: a digit follows a tab.

    Lines are ``TEXT<tab>DIGIT``; where a line says ``unknown`` instead of a digit, a digit is still expected.
    """
    tokenizer = byte_level_tokenizer(2000)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=128,
                intermediate_size=256,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=4096,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
        _train(model, _lines(tokenizer, random.Random(seed)), steps)
    model.generation_config.repetition_penalty = 2.0  # as Qwen2.5 has one, which no answer may depend on
    model.save_pretrained(folder)
    return folder


def tiny_subject(
    folder: Path, family: str, *, seed: int = 0, max_shard_size: str = "1GB", per_expert: bool = True, **config: Any
) -> Path:
    """Make a random model of one of transformers' families with its tokenizer.

    Args:
        folder: where it is saved.
        family: transformers' ``model_type``: one of ``SHAPES``.
        seed: of its weights.
        max_shard_size: a small one splits the weights.
        per_expert: whether experts are saved one by one, as published, or as transformers holds them, in one tensor.
        config: options of its config that differ from ``SHAPES``.
    """
    tokenizer = word_piece_tokenizer(800) if "bert" in family else byte_level_tokenizer(800)
    roles = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    shape = {"vocab_size": len(tokenizer), "max_position_embeddings": 128, **roles, **SHAPES[family], **config}
    if family == "gemma3":
        shape = {"text_config": shape, "vision_config": VISION, **roles, "tie_word_embeddings": True}
    auto = AutoModelForMaskedLM if "bert" in family else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = AutoConfig.for_model(family, **shape)
        model = Gemma3ForConditionalGeneration(made) if family == "gemma3" else auto.from_config(made)
        _unlike_at_start(model)
    model.eval().save_pretrained(folder, max_shard_size=max_shard_size, save_original_format=per_expert)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_vllm(model: Path, **arguments: Any) -> Backend:
    """Return a back end that serves a tiny model on the CPU."""
    from harness.llm.vllm_server import ManagedVLLM

    given = yaml.safe_load((CONF / "llm" / "vllm.yaml").read_text())["options"]
    options = {
        "dtype": "float32",
        "enforce-eager": True,
        "max-model-len": 2048,
        "max-logprobs": 50,
        "structured-outputs-config": given["structured-outputs-config"],
        "override-generation-config": given["override-generation-config"],
        **arguments.pop("options", {}),
    }
    defaults: dict[str, Any] = {"env": {"VLLM_CPU_KVCACHE_SPACE": 1}, "startup_timeout_s": 300, "timeout_s": 120}
    return ManagedVLLM(str(model), options=options, **{**defaults, **arguments})


@dataclass(frozen=True)
class Served:
    """A running LLM and the event loop it is bound to: ``served.run(served.client.generate(...))``."""

    backend: Backend
    client: LLMClient
    logs: Path
    run: Callable[[Coroutine[Any, Any, Any]], Any]


@contextmanager
def served(backend: Backend, logs: Path) -> Iterator[Served]:
    """Keep a back end open over many tests; at the end, make sure that nothing it started is left."""
    with asyncio.Runner() as runner:
        context, before = backend.open(logs), guarded()  # W&B keeps a service of its own once it has been used
        client = runner.run(context.__aenter__())
        sessions = guarded() - before
        try:
            yield Served(backend, client, logs, runner.run)
        finally:
            runner.run(context.__aexit__(None, None, None))
    assert not survivors(sessions)


def guarded() -> set[int]:
    """Return the sessions led by children of this process, such as every server's process guard (Linux only)."""
    return {
        process for process, (parent, session) in _processes().items() if parent == os.getpid() and session == process
    }


def survivors(sessions: set[int]) -> list[int]:
    """Return the processes that are left of some sessions."""
    return [process for process, (_, session) in _processes().items() if session in sessions]


def _processes() -> dict[int, tuple[int, int]]:
    """Return the parent and the session of every living process."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            if state != "Z":
                found[int(stat.parent.name)] = int(parent), int(session)
    return found


def byte_level_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer whose numbers 0 to 10, ``unknown`` and tab are tokens of their own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    numbers = [f"unknown\t{digit}\n" for digit in DIGITS] * 500
    tokenizer.train_from_iterator([*texts(), *numbers], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=special[2:],
    )
    for digit in DIGITS:
        assert len(fast.encode(f"\t{digit}", add_special_tokens=False)) == 2
    return fast


def word_piece_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Train a lower-casing WordPiece tokenizer that frames its input as BERT's does."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        texts(), trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def topics_file(folder: Path) -> Path:
    """Write the reference of the language as a corpus, a document per topic."""
    path = folder / "topics.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in pydoc_data.topics.topics.values()))
    return path


def texts() -> list[str]:
    """Return the documentation of the language, one text per topic."""
    return [text for _, text in sorted(pydoc_data.topics.topics.items())]


def _unlike_at_start(model: torch.nn.Module) -> None:
    """Give the norms and biases values of their own: at their usual start, 1 and 0, code that ignores them passes."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif "embed" not in name:
                parameter.mul_(4)  # the usual start is so small that hardly a neuron fires


Batch = tuple[torch.Tensor, torch.Tensor]


def _lines(tokenizer: PreTrainedTokenizerFast, rng: random.Random, size: int = 12, length: int = 96) -> Iterator[Batch]:
    """Yield batches of inputs and labels: after some text, lines of some tokens, a tab and a digit."""
    tab, end = tokenizer.convert_tokens_to_ids(["ĉ", "Ċ"])
    unknown = tokenizer.encode("unknown", add_special_tokens=False)[0]
    digits = tokenizer.convert_tokens_to_ids(DIGITS)
    words = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids) - {tab, end})
    while True:
        inputs, labels = [], []
        for _ in range(size):
            row = [tokenizer.bos_token_id, *rng.choices(words, k=rng.randrange(24)), end]
            expected = [-100] * len(row)
            while len(row) < length:
                word = rng.choices(words, k=rng.choice((1, 1, 2, 3)))
                digit = digits[word[-1] % len(digits)]
                row += [*word, tab, digit if rng.random() < 0.5 else unknown, end]
                expected += [*[-100] * len(word), tab, digit, end]
            inputs.append(row[:length])
            labels.append(expected[:length])
        yield torch.tensor(inputs), torch.tensor(labels)


def _train(model: LlamaForCausalLM, batches: Iterator[Batch], steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step, (inputs, labels) in zip(range(steps), batches, strict=False):
        logits = model(input_ids=inputs).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
    model.eval()
