"""Controls that show what the rotation itself adds: the pipeline of ROTATE on other directions of the same vocabulary.

They share prompts, length and amount of evidence with :class:`describers.rotate.Rotate`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated

from describers.rotate import Rotate
from harness.methods import DescriberCase, Mode
from harness.records import Channel, VectorKind
from harness.seeds import derive_seed
from harness.validation import DISTINCT, Count, Fraction, OneOrMore, validated


class RawTokens(Rotate):
    """Describes both ends of the projection of each whole weight vector, without a rotation.

    It shows as many tokens of a vector as ``rotate`` shows of its channels together.

    Args:
        kinds: vector kinds; None for all that the subject has.
        channels: channels that ``rotate`` describes of each vector.
        tokens: tokens that it shows of each.
        merge: whether the explainer merges the descriptions of the ends.
        channel_words: requested length of the description of an end, in words.
        min_described: as in ``rotate``.
        target_words: requested length, in words; in extractive mode, the number of tokens.
        mode: as in :class:`describers.answers.ExplainerDescriber`.
    """

    control = True
    informed = True
    needs_channels = False
    unit, units = "end", "ends of whole vectors"

    @validated
    def __init__(
        self,
        kinds: Annotated[OneOrMore[VectorKind], DISTINCT] | None = (VectorKind.IN, VectorKind.OUT),
        channels: Count = 10,
        tokens: Count = 20,
        merge: bool = True,
        channel_words: Count = 15,
        min_described: Fraction = 0.8,
        target_words: Count = 30,
        mode: Mode = "auto",
    ) -> None:
        super().__init__(
            kinds,
            channels=None,
            tokens=math.ceil(channels * tokens / 2),
            merge=merge,
            channel_words=channel_words,
            min_described=min_described,
            target_words=target_words,
            mode=mode,
        )

    def channels_of(self, case: DescriberCase, kind: VectorKind) -> Sequence[Channel]:
        """Return the ends of a vector, the one that reaches further first."""
        if kind not in case.subject.kinds:
            return ()
        high, low = case.subject.vocabulary_tokens(case.neuron, kind, self._tokens)
        order = sorted((1.0, -1.0), key=lambda sign: -abs((high if sign > 0 else low)[0].z))
        return [
            Channel(case.neuron, kind, rank, kurtosis=0.0, skewness=sign, cosine=1.0, loss=0.0, masked_tokens=0,
                    positive=high, negative=low)
            for rank, sign in enumerate(order)
        ]  # fmt: skip


class RandomDirections(Rotate):
    """Describes random directions, each at the cosine that a channel of the neuron has with its weight vector.

    Channels keep much of their vector (a cosine of 0.7, say), so their tokens are to a part those of the vector itself.
    The rest of a direction is drawn uniformly from the directions orthogonal to the vector.
    """

    control = True
    informed = True
    unit, units = "random direction", "random directions"

    def channels_of(self, case: DescriberCase, kind: VectorKind) -> Sequence[Channel]:
        """Return one random direction in place of each channel."""
        return list(self._drawn(case, kind))

    def _drawn(self, case: DescriberCase, kind: VectorKind) -> Iterator[Channel]:
        from harness.decomposition import directions_at_cosine, kurtosis, skewness  # imports PyTorch

        neuron, channels = case.neuron, case.channels_of(kind)
        if not channels:
            return
        vector = case.subject.vectors(neuron.layer, [neuron.index], kind, [neuron.expert])[0]
        cosines = [channel.cosine for channel in channels]
        seed = derive_seed(case.seed, "random directions", neuron, kind)
        directions = directions_at_cosine(-vector if neuron.flips(kind) else vector, cosines, seed)
        counted = (case.subject.token_weights(neuron.layer) > 0).float()
        for channel, projected in zip(channels, directions @ case.subject.projection(neuron.layer), strict=True):
            high, low = case.subject.extreme_tokens(projected, self._tokens)
            sharp, skewed = (float(measure(projected, counted)) for measure in (kurtosis, skewness))
            yield Channel(neuron, kind, channel.rank, sharp, skewed, channel.cosine, 0.0, 0, high, low)


class RotateRandom(Rotate):
    """Describes the channels of random vectors with the mean and covariance of the layer's weight vectors.

    Each neuron has its own random vectors, which are decomposed as the neuron's are. The descriptions look like those
    of ``rotate`` and know the layer, but not the neuron.
    """

    control = True
    needs_channels = False
    needs_random_channels = True
    unit, units = "random channel", "channels of random vectors"

    def channels_of(self, case: DescriberCase, kind: VectorKind) -> Sequence[Channel]:
        """Return the channels of the random vector in place of the neuron's."""
        return tuple(channel for channel in case.random_channels if channel.kind is kind)
