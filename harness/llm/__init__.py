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
    Price,
    PromptLogprobs,
    PromptToken,
    Sampling,
    Stopped,
    Unanswered,
    Unasked,
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
    "Price",
    "PromptLogprobs",
    "PromptToken",
    "ResponseCache",
    "Sampling",
    "Serving",
    "Stopped",
    "Unanswered",
    "Unasked",
    "ask",
    "parse",
]
