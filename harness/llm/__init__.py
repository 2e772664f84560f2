"""Large language models: one interface, whatever serves them.

The back ends (``openai_compatible``, ``vllm_server``, ``scripted``) are named by the config and imported only then.
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
