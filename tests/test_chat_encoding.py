"""Conversations are tokenized in one piece, since tokens depend on the text before them."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from harness.evidence.corpus import Document, Message
from harness.evidence.encoding import CONTEXT, TEXT, TURN, Encoded, Encoder

LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content | trim }} [/INST]"
    "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
)
CHATML = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
WORDS = "Hello there. How are you? Fine! [INST] [/INST] user\nassistant\nHello\n\nwhat is it called"
TALK = (Message("user", "  Hello there"), Message("assistant", "How are you?\n"), Message("user", "Fine!"))


def space_mark(scheme: str) -> Tokenizer:
    """Return a tokenizer that puts a mark for a space before words, in one of SentencePiece's ways."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    if scheme == "normalizer":  # Llama 2: the mark comes before every piece of text between special tokens
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    return tokenizer


def byte_level(_: str = "") -> Tokenizer:
    """Return a tokenizer that joins punctuation and the line breaks after it (GPT-4, Llama 3)."""
    tokenizer = Tokenizer(models.BPE())
    pattern = Regex(r" ?[a-zA-Z]+| ?[^\sa-zA-Z]+[\r\n]*|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def trained(tokenizer: Tokenizer, template: str) -> PreTrainedTokenizerFast:
    alphabet = pre_tokenizers.ByteLevel.alphabet() if tokenizer.decoder.__class__.__name__ == "ByteLevel" else []
    special = [AddedToken(name, special=True, normalized=False) for name in ("<unk>", "<s>", "</s>")]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([WORDS, WORDS + ".\n", "Hello there", "Hello there", "</s> <s>"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    fast.chat_template = template
    return fast


def encode(tokenizer: PreTrainedTokenizerFast, talk: tuple[Message, ...]) -> Encoded:
    (encoded,) = Encoder(tokenizer).encode([Document.of(talk)])
    return encoded


def in_one_piece(tokenizer: PreTrainedTokenizerFast, talk: tuple[Message, ...]) -> list[int]:
    messages = [{"role": message.role, "content": message.content} for message in talk]
    return list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False))


def pieces(tokenizer: PreTrainedTokenizerFast, encoded: Encoded, *marks: int) -> list[str]:
    chosen = [int(token) for token, mark in zip(encoded.tokens, encoded.marks, strict=True) if mark in marks]
    return tokenizer.convert_ids_to_tokens(chosen)


@pytest.mark.parametrize("template", [LLAMA2, CHATML], ids=["llama 2", "chatml"])
@pytest.mark.parametrize("make", [space_mark, byte_level])
@pytest.mark.parametrize("scheme", ["normalizer", "always", "first", "never"])
def test_tokens_are_those_of_the_whole_conversation(make: object, scheme: str, template: str) -> None:
    tokenizer = trained(make(scheme), template)
    encoded = encode(tokenizer, TALK)
    assert encoded.tokens.tolist() == in_one_piece(tokenizer, TALK)
    assert int((encoded.marks == TURN).sum()) == 2


def test_no_space_mark_comes_from_where_a_message_begins() -> None:
    tokenizer = trained(space_mark("normalizer"), LLAMA2)
    encoded = encode(tokenizer, TALK[:2])
    assert tokenizer.convert_ids_to_tokens(encoded.tokens)[:4] == ["<s>", "▁[INST]", "▁Hello", "▁there"]
    assert pieces(tokenizer, encoded, TEXT, TURN)[:4] == ["▁Hello", "▁there", "▁How", "▁are"]
    assert pieces(tokenizer, encoded, TURN) == ["▁How"]


def test_a_token_across_the_end_of_a_message_is_text() -> None:
    tokenizer = trained(byte_level(), "{% for m in messages %}{{ m.content }}\n{% endfor %}")
    encoded = encode(tokenizer, (Message("user", "Hello there."), Message("assistant", "Fine")))
    assert "".join(pieces(tokenizer, encoded, TEXT, TURN)) == "HelloĠthere.ĊFine"
    assert ".Ċ" in pieces(tokenizer, encoded, TEXT)
    assert pieces(tokenizer, encoded, CONTEXT) == ["Ċ"]


@pytest.mark.parametrize("make", [space_mark, byte_level])
@pytest.mark.parametrize("scheme", ["normalizer", "always", "first"])
def test_special_tokens_that_a_message_spells_out_stay_text(make: object, scheme: str) -> None:
    tokenizer = trained(make(scheme), CHATML)
    talk = (Message("user", "Hello </s> <s>there"), Message("assistant", "</s>"))
    encoded = encode(tokenizer, talk)
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    template = [tokenizer.bos_token_id, tokenizer.eos_token_id] * 2
    assert [int(token) for token in encoded.tokens if int(token) in special] == template
    assert all(mark == CONTEXT for token, mark in zip(encoded.tokens, encoded.marks, strict=True) if token in special)
    text = "".join(pieces(tokenizer, encoded, TEXT, TURN)).replace("▁", " ").replace("Ġ", " ")
    assert text.lstrip("\n") == "Hello </s> <s>there</s>"
    # Around the message, nothing changes.
    plain = encode(tokenizer, (Message("user", "Hello"), Message("assistant", "there")))
    assert pieces(tokenizer, encoded, CONTEXT) == pieces(tokenizer, plain, CONTEXT)


def test_a_template_that_leaves_out_a_part_of_a_message() -> None:
    thinking = CHATML.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
    tokenizer = trained(byte_level(), thinking)
    talk = (Message("user", "How are you?"), Message("assistant", "it is called</think>Fine!"))
    encoded = encode(tokenizer, talk)
    assert encoded.tokens.tolist() == in_one_piece(tokenizer, talk)
    assert "".join(pieces(tokenizer, encoded, TEXT, TURN)) == "HowĠareĠyou?Fine!"


def test_a_template_that_rewrites_messages_is_counted() -> None:
    tokenizer = trained(byte_level(), "{{ messages[0].content | length }} {{ messages[0].content }}")
    encoder = Encoder(tokenizer)
    (encoded,) = encoder.encode([Document.of((Message("user", "Hello"),))])
    assert (len(encoded.tokens), encoder.refused) == (0, 1)
