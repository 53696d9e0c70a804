"""What is unknown where the vocabulary is not SentencePiece's own."""

import pytest

from keras_transformer.text.protobuf import bytes_field, packed
from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer.text.unknowns import FIELD, Unknowns

# pieces 0 to 9: 1 is unknown, 4 and 5 are guests, 8 and 9 are not in the vocabulary
RULE = Unknowns(vocab_size=8, unk_id=1, guests=(4, 5), num_pieces=10)
PIECE = bytes_field(1, b"")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([], []),
        ([2, 3, 7], [2, 3, 7]),
        ([2, 8, 9, 3], [2, 1, 1, 3]),  # pieces of their own, each unknown
        ([4], [4]),
        ([2, 5, 3, 4, 2], [2, 5, 3, 4, 2]),
        ([4, 5], [1]),  # one longer stretch, which the vocabulary does not have
        ([2, 4, 1, 5, 4, 3], [2, 1, 3]),
        ([1], [1]),
        ([4, 8, 4], [4, 1, 4]),
    ],
)
def test_a_guest_alone_is_known_and_a_longer_stretch_is_one_unknown(row, expected):
    assert RULE.apply([row, [4]]) == [expected, [4]]


def test_no_rows_give_no_rows():
    assert RULE.apply([]) == []


def test_a_rule_comes_back_from_a_model():
    assert Unknowns.read(RULE.to_field() + 10 * PIECE) == RULE
    assert Unknowns.read(10 * PIECE) is None


@pytest.mark.parametrize("values", [[], [8], [11, 1], [8, 8], [8, 1, 9]])
def test_a_rule_that_does_not_fit_its_model_is_refused(values):
    with pytest.raises(ValueError, match="rule for unknown pieces .* is damaged"):
        Unknowns.read(bytes_field(FIELD, packed(values)) + 10 * PIECE)


def test_a_tokenizer_applies_the_rule_it_carries():
    texts = ["abc", "ba a x", ""]
    plain = Tokenizer.train(["abc"] * 9, 20, "char")
    last = plain.vocab_size - 1
    rule = Unknowns(last, plain.unk_id, (last - 1,), plain.vocab_size)
    tokenizer = Tokenizer.from_bytes(rule.to_field() + plain.serialized)
    assert (tokenizer.unknowns, plain.unknowns) == (rule, None)
    assert tokenizer.vocab_size == last
    assert tokenizer.encode(texts) == rule.apply(plain.encode(texts))
    assert tokenizer.encode(texts) != plain.encode(texts)
    with pytest.raises(ValueError, match=f"from 0 to {last - 1}"):
        tokenizer.decode([[last]])


def test_a_tokenizer_with_a_damaged_rule_is_refused():
    plain = Tokenizer.train(["abc"] * 9, 20, "char").serialized
    with pytest.raises(ValueError, match="rule for unknown pieces"):
        Tokenizer.from_bytes(bytes_field(FIELD, packed([999, 1])) + plain)
