"""A scripted simulator, whose log-probabilities at the levels follow a rule."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from harness.llm.client import PromptLogprobs, PromptToken
from harness.llm.scripted import Request, ScriptedClient

Expectation = Mapping[str, float]
Rule = Callable[[str, str], Expectation]  # of the description and the token: probabilities of what stands behind it


def simulator(rule: Rule, *, merges: tuple[str, ...] = (), tokens_of: str = r"\t|\n|[^\t\n]+") -> ScriptedClient:
    """Make an LLM that expects after each line's tab what a rule says.

    Args:
        rule: probabilities of the tokens that may stand behind a token.
        merges: placeholders that its tokenizer joins to the tab before them.
        tokens_of: what else is a token.
    """
    pattern = "|".join([*(rf"\t{re.escape(word)}(?=\n|$)" for word in merges), tokens_of])

    def answer(request: Request) -> PromptLogprobs:
        assert [message.role for message in request.messages][-2:] == ["user", "assistant"]
        description = request.messages[-2].content.removeprefix("The neuron responds to: ")
        whole = "\n".join(f"<|{message.role}|>{message.content}" for message in request.messages)
        texts = re.findall(pattern, whole)
        assert "".join(texts) == whole
        tokens, seen = [PromptToken("", {})], 0
        before = whole.count("\t") - request.messages[-1].content.count("\t") + 1  # tabs of examples and header
        for place, text in enumerate(texts):
            behind = place > 1 and texts[place - 1] == "\t" and seen > before
            expected = rule(description, texts[place - 2]) if behind else {"the": 1.0}
            seen += text.count("\t")
            tokens.append(PromptToken(text, {word: math.log(share) for word, share in expected.items()}))
        return PromptLogprobs(tuple(tokens))

    return ScriptedClient(token_logprobs=answer)
