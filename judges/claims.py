"""Does each claim of a description hold, and do the claims together cover what activates the neuron?

A description is split into claims about what activates the neuron. *Precision* is the share of the claims for which
text activates it: an added false claim lowers it, and a missing claim does not. *Coverage* is the share of what
activates it that any claim explains: a missing claim lowers it, and an added one does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from itertools import compress

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, create_model
from pydantic.dataclasses import dataclass

from harness.embedding import SentenceEncoder
from harness.llm.asking import ask
from harness.llm.client import LLMClient, Unanswered
from harness.llm.degenerate import TASK_WORDS
from harness.llm.prompts import Prompt
from harness.methods import Grade, JudgeCase, Scorer
from harness.records import Exemplar, Side, Status
from harness.signed_text import read_tokens
from harness.stems import stem
from harness.validation import METHOD, Count, CountOrZero, Fraction, NonNegative
from judges.accuracy import Floats, precision_at, varies
from judges.evidence import shuffled
from judges.numbered import SENTENCE_TOKENS, Sentence, ask_numbered, in_batches, levels
from judges.parts import explained
from judges.prediction import TokenPredictor, normalised
from judges.remembered import Identity, Remembered
from judges.sampling import Sampler, active_windows, report_sample

#: Least share of the text for a claim that has to activate the neuron, and of a cluster that has to be explained.
MOST = 0.5
_FRAME_TOKENS = 256  # for the JSON around the claims
_TASK = frozenset(map(stem, TASK_WORDS))
_CLUSTERS: Remembered[NDArray[np.intp]] = Remembered(64)


class Claim(BaseModel):
    """One claim, with the field ``sentence_N`` for each sentence that is written for it."""

    claim: str = Field(description="what makes the neuron active, in a few words", min_length=1, max_length=160)


@dataclasses.dataclass(frozen=True)
class _Tested:
    """What is known of the claims of a description.

    Attributes:
        right: for each claim, whether text about it activates the neuron; None without such text.
        windows: the active windows.
        weights: number of windows that each of them represents.
        explained: which of them each claim explains, (claims, windows).
        more: further metrics.
    """

    right: Sequence[bool | None]
    windows: tuple[Exemplar, ...]
    weights: Floats
    explained: NDArray[np.bool_]
    more: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclass(config=METHOD, eq=False)
class Claims(Sampler, Scorer):
    """Scores a description by the harmonic mean of the precision and the coverage of its claims: from 0 to 1, chance 0.

    With an LLM, it splits the description and writes sentences for each claim, which the subject reads. A claim is
    right if at least half of its sentences activate the neuron. It then names the claim that fits each of some active
    and silent windows; the claim explains the active ones. ``silent`` is the share of the silent windows to which a
    claim is said to fit.

    Without an LLM, the claims are the parts of a set, or the tokens of a single text that activate the neuron
    (:func:`harness.signed_text.read_tokens`), and predictions are those of :class:`judges.prediction.TokenPredictor`
    for all windows of the report split that are known. A claim is right if at least half of the windows that it
    predicts highest are active, by weight, as many as ``predicted_share`` of the active windows. The windows that it
    explains are defined in :func:`judges.parts.explained`.

    For coverage, the active windows are clustered (average linkage, by the cosine of the mean static embedding of the
    tokens whose activation is at least half the window's highest). A cluster is covered if at least half of its windows
    are explained by some claim, by weight. ``coverage`` is the share of the active windows in covered clusters.

    ``claims`` is the number of claims, ``untested`` the number of those without text, which do not count in
    ``precision``. A description without claims scores 0.
    """

    llm_required = False
    prompt = Prompt("judges", "prompts/claims.j2")
    match_prompt = Prompt("judges", "prompts/claims_match.j2")

    encoder: SentenceEncoder
    role: str | None = "judge"
    max_claims: Count = 10
    sentences: Count = 3
    active: Count = 20
    predicted: CountOrZero = 0
    hard: CountOrZero = 0
    batch: Count = 5
    context: CountOrZero = 16
    predicted_share: Fraction = 0.1
    cluster_distance: NonNegative = 0.6

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Test the claims.

        Raises:
            Unanswered: if the LLM does not answer, no claim can be tested, or the neuron has no active or no silent
                window.
        """
        tested = self._read(case, description) if case.llm is None else await self._asked(case, case.llm, description)
        if not tested.right:
            return Grade(0.0, {"claims": 0.0, "coverage": 0.0})
        known = [one for one in tested.right if one is not None]
        if not known:
            raise Unanswered(Status.FAILED, "there is no text to test any claim of the description with")
        precision, (coverage, clusters) = sum(known) / len(known), self._coverage(case, tested)
        both = precision + coverage
        return Grade(
            2 * precision * coverage / both if both else 0.0,
            {
                "precision": precision,
                "coverage": coverage,
                "claims": float(len(tested.right)),
                "untested": float(len(tested.right) - len(known)),
                "clusters": float(clusters),
                **tested.more,
            },
        )

    def _read(self, case: JudgeCase, description: str) -> _Tested:
        """Test claims without an LLM."""
        report, active = report_sample(case), active_windows(case, self.active_share)
        predictor, weights = TokenPredictor(self.encoder), report.weights
        values = [
            report.text.by_window(predictor.similarity(tokens, report.text)) for tokens in claims_of(case, description)
        ]
        total = self.predicted_share * weights[active].sum()
        right = [precision_at(active, one, weights, total) >= MOST if varies(one) else None for one in values]
        windows = tuple(compress(report.windows, active))
        found = explained(np.array(values), active, weights) if values else np.zeros((0, len(windows)), bool)
        return _Tested(right, windows, weights[active], found)

    async def _asked(self, case: JudgeCase, llm: LLMClient, description: str) -> _Tested:
        """Test claims with an LLM."""
        sample = self.draw(case)
        active, weights = sample.active, sample.weights
        messages = self.prompt.render(
            description=case.shown(description), most=self.max_claims, sentences=self.sentences
        )
        longest = self.max_claims * (self.sentences + 1) * SENTENCE_TOKENS + _FRAME_TOKENS
        sampling = dataclasses.replace(llm.sampling, max_tokens=max(llm.sampling.max_tokens, longest))
        answer = await ask(llm, messages, answers(self.max_claims, self.sentences), sampling=sampling)
        made = answer.model_dump()["claims"]
        names = [one["claim"] for one in made]
        if not made:
            return _Tested([], (), weights[:0], np.zeros((0, 0), bool))
        excerpts = sample.excerpts(self.context)
        order = shuffled(range(len(excerpts)), case, self.match_prompt.name)

        async def choose(indices: Sequence[int]) -> list[int]:
            shown = [excerpts[index] for index in indices]
            asked = self.match_prompt.render(claims=names, texts=shown)
            return await ask_numbered(llm, asked, "excerpt", len(shown), levels(len(names)))

        chosen = np.zeros(len(excerpts), int)
        chosen[order] = await in_batches(order, self.batch, choose)
        fits = np.arange(1, len(names) + 1)[:, None] == chosen
        windows = tuple(compress(sample.windows, active))
        silent = float(np.average(chosen[~active] > 0, weights=weights[~active]))
        right = await self._activating(case, made)
        return _Tested(right, windows, weights[active], explained(fits, active, weights, MOST), {"silent": silent})

    async def _activating(self, case: JudgeCase, made: Sequence[dict[str, str]]) -> list[bool | None]:
        """Return for each claim whether at least half of its sentences activate the neuron."""
        texts = [one[f"sentence_{number}"] for one in made for number in range(1, self.sentences + 1)]
        report, active = report_sample(case), active_windows(case, self.active_share)
        least = report.peaks[active].min()
        read = await case.read(texts)
        found: list[bool | None] = []
        for start in range(0, len(texts), self.sentences):
            own = [item.activation for item in read[start : start + self.sentences] if item.activations]
            found.append(bool(np.mean(np.array(own) >= least) >= MOST) if own else None)
        return found

    def _coverage(self, case: JudgeCase, tested: _Tested) -> tuple[float, int]:
        """Return the coverage, and the number of clusters."""
        key = self, Identity(case.exemplars), case.report_windows, case.llm is None
        labels = _CLUSTERS.get(key, lambda: clusters(tested.windows, self.encoder, self.cluster_distance))
        sizes = np.bincount(labels, tested.weights)
        share = np.bincount(labels, tested.weights * tested.explained.any(axis=0)) / sizes
        return float(sizes[share >= MOST].sum() / sizes.sum()), len(sizes)


def claims_of(case: JudgeCase, description: str) -> list[tuple[str, ...]]:
    """Return the tokens of each claim that a description makes about what activates the neuron, without an LLM.

    Words that speak of the neuron instead ("active", "token") are no claims: :data:`harness.llm.degenerate.TASK_WORDS`.
    """

    def raising(text: str) -> tuple[str, ...]:
        tokens = case.tokens.get(text)
        found, _ = read_tokens(text, tokens).of_side(Side.INPUT)
        return found if tokens is not None else tuple(token for token in found if stem(token) not in _TASK)

    if description not in case.parts:
        return [(token,) for token in raising(description)]
    found = [raising(text) for text, sign in case.parts_of(description) if sign > 0]
    return [tokens for tokens in found if tokens]


def clusters(windows: Sequence[Exemplar], encoder: SentenceEncoder, distance: float) -> NDArray[np.intp]:
    """Return the cluster of each window, from 0; see :class:`Claims`.

    Args:
        windows: the windows, with a positive activation each.
        encoder: its static embeddings are used.
        distance: 1 minus the cosine above which clusters are not joined.
    """
    from sklearn.cluster import AgglomerativeClustering  # slow to import

    if len(windows) == 1:
        return np.zeros(1, np.intp)
    rows = []
    for window in windows:
        pairs = zip(window.tokens, window.activations, strict=True)
        strong = [normalised(token) for token, value in pairs if value >= window.activation / 2]
        rows.append(encoder.encode_words(strong).mean(axis=0, dtype=float))
    vectors = np.array(rows)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    apart = np.clip(1 - vectors @ vectors.T, 0, 2)
    model = AgglomerativeClustering(None, metric="precomputed", linkage="average", distance_threshold=distance)
    return np.asarray(model.fit_predict(apart), np.intp)


@lru_cache
def answers(most: int, sentences: int) -> type[BaseModel]:
    """Return the schema of at most ``most`` claims with ``sentences`` sentences each."""
    fields = {f"sentence_{number}": (Sentence, ...) for number in range(1, sentences + 1)}
    claim = create_model("WrittenClaim", __base__=Claim, **fields)  # type: ignore[call-overload]
    made: type[BaseModel] = create_model("Claims", claims=(list[claim], Field(max_length=most)))  # type: ignore[valid-type]
    return made
