"""Large language models: one interface for every server.

The back ends (``openai_compatible``, ``vllm_server``, ``scripted``) are imported only if the config names them.
"""

from harness.llm.asking import ask, parse
from harness.llm.cache import CachedClient, ResponseCache
from harness.llm.client import (
    Backend,
    Completion,
    LLMClient,
    Message,
    NotCached,
    Price,
    PromptLogprobs,
    PromptToken,
    Sampling,
    Stopped,
    Unanswered,
)
from harness.llm.metering import MeteredClient
from harness.llm.serving import Serving

__all__ = [
    "Backend",
    "CachedClient",
    "Completion",
    "LLMClient",
    "Message",
    "MeteredClient",
    "NotCached",
    "Price",
    "PromptLogprobs",
    "PromptToken",
    "ResponseCache",
    "Sampling",
    "Serving",
    "Stopped",
    "Unanswered",
    "ask",
    "parse",
]
