"""Which texts are accepted."""

import pytest

from keras_transformer.text.validation import check_text, check_texts


@pytest.mark.parametrize(
    "text", ["", " ", "a\tb\n", "\x01\x7f", "é 日本 \u200d", "\ufeff\uffff\U0010ffff"]
)
def test_any_unicode_text_without_nul_is_accepted(text):
    assert check_texts([text]) == [text]


def test_any_sequence_of_strings_comes_back_as_a_new_list():
    texts = ("a", "b")
    assert check_texts(texts) == ["a", "b"]
    assert check_texts([]) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ab\x00c", r"U\+0000 \(NUL\) at position 2"),
        ("\ud800", r"U\+D800 at position 0"),
        ("x" * 100 + "\udfff", r"U\+DFFF at position 100"),
    ],
)
def test_nul_and_lone_surrogates_are_refused_with_their_place(text, found):
    with pytest.raises(ValueError, match=found) as error:
        check_texts(["fine", text])
    assert "Received: texts[1]=" in str(error.value)
    assert len(str(error.value)) < 400
    str(error.value).encode("utf-8")  # can be shown on any screen


@pytest.mark.parametrize("texts", ["one string", b"bytes", 3, None])
def test_what_is_no_sequence_of_strings_is_refused(texts):
    with pytest.raises(ValueError, match="texts must be a sequence of strings"):
        check_texts(texts)


@pytest.mark.parametrize("element", [b"bytes", 3, None, ["nested"]])
def test_an_element_that_is_no_string_is_named(element):
    with pytest.raises(ValueError, match=r"texts\[1\] must be a str"):
        check_texts(["fine", element])


def test_messages_use_the_callers_name():
    with pytest.raises(ValueError, match=r"^line 7 must be Unicode text"):
        check_text("\x00", "line 7")
