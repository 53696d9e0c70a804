"""Pairs from files: what is read, what is refused, and where."""

import builtins
import errno
import gzip
import itertools
import os

import pytest

from keras_transformer.data.corpus import (
    PairFile,
    ParallelFiles,
    group_references,
    split_by_hash,
)


def write(path, content: str | bytes):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_pair_file_may_be_read_again_and_again(tmp_path):
    corpus = PairFile(write(tmp_path / "a.tsv", "one\teins\ntwo\tzwei\n"))
    assert list(corpus) == list(corpus) == [("one", "eins"), ("two", "zwei")]
    # Also two passes at the same time.
    assert list(zip(corpus, corpus, strict=True))[1] == (("two", "zwei"), ("two", "zwei"))


@pytest.mark.parametrize(
    "content",
    [
        b"one\teins\ntwo\tzwei",
        b"one\teins\r\ntwo\tzwei\r\n",
        b"\xef\xbb\xbfone\teins\ntwo\tzwei\n",
        gzip.compress(b"one\teins\ntwo\tzwei\n"),
        gzip.compress(b"\xef\xbb\xbfone\teins\r\n") + gzip.compress(b"two\tzwei\r\n"),
    ],
    ids=["no last line end", "CRLF", "byte order mark", "gzip", "gzip in two parts"],
)
@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
def test_ways_to_write_the_same_file(tmp_path, content, name):
    if name.endswith(".gz") and not content.startswith(b"\x1f\x8b"):
        content = gzip.compress(content)
    assert list(PairFile(write(tmp_path / name, content))) == [("one", "eins"), ("two", "zwei")]


def test_only_line_feeds_end_lines(tmp_path):
    text = "a\u2028b\u0085c\x0cd\x1ce\rf"
    corpus = PairFile(write(tmp_path / "a.tsv", f"{text}\tx\n\ufeffsecond\ty\n"))
    assert list(corpus) == [(text, "x"), ("\ufeffsecond", "y")]


def test_blank_sides_are_skipped_counted_and_placed(tmp_path):
    corpus = PairFile(write(tmp_path / "a.tsv", "a\tb\n\n \t \nc\t\n\td\ne\tf\n\u3000\tg\n"))
    assert list(corpus) == [("a", "b"), ("e", "f")]
    assert (corpus.skipped_empty, corpus.first_empty_line) == (5, 2)
    assert len(list(corpus)) == 2
    assert corpus.skipped_empty == 5


def test_columns_choose_among_many(tmp_path):
    path = write(tmp_path / "a.tsv", "1\thello\thallo\t0.5\n2\tyes\tja\n")
    assert list(PairFile(path, columns=(2, 1))) == [("hallo", "hello"), ("ja", "yes")]
    with pytest.raises(ValueError, match=r"a\.tsv:2: a line must have at least 4 columns"):
        list(PairFile(path, columns=(0, 3)))
    with pytest.raises(ValueError, match="columns must be two numbers"):
        PairFile(path, columns=(-1, 2))


BAD_LINES = {
    "no tab": (b"only one", r"must have two columns.*Received: 1 column, 'only one'"),
    "three columns": (b"a\tb\tc", "Received: 3 columns"),
    "not UTF-8": (b"caf\xe9\tb", "must be UTF-8.*byte 0xe9 at offset 3"),
    "UTF-16": ("a\tb".encode("utf-16"), "must be UTF-8"),
    "surrogate": (b"a\xed\xa0\x80\tb", "must be UTF-8.*offset 1"),
    "NUL": (b"a\x00b\tc", r"U\+0000.*position 1"),
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_is_named_by_file_and_line(tmp_path, line, message):
    path = write(tmp_path / "a.tsv", b"one\teins\r\n\r\n" + line + b"\nfour\tvier\n")
    with pytest.raises(ValueError, match=rf"^{path}:3: .*{message}") as error:
        list(PairFile(path))
    assert len(str(error.value)) < 500


def test_a_gzip_file_that_ends_early_or_is_damaged_is_refused_at_its_line(tmp_path):
    lines = "".join(f"{os.urandom(20).hex()}\tx\n" for _ in range(2000)).encode()
    whole = gzip.compress(lines)
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 0xFF
    for content in (whole[: len(whole) // 2], bytes(damaged)):
        path = write(tmp_path / "a.gz", content)
        with pytest.raises(ValueError, match=rf"^{path}:\d+: "):
            list(PairFile(path))


def test_an_unusable_file_is_refused_before_it_is_read(tmp_path):
    for path, message in [
        (tmp_path / "gone.tsv", "No such file"),
        (tmp_path, "Is a directory"),
        (write(tmp_path / "empty.tsv", ""), "Received: an empty file"),
        (write(tmp_path / "plain.gz", "a\tb\n"), "must be a gzip file"),
    ]:
        with pytest.raises(ValueError, match=rf"^{path}: .*{message}"):
            PairFile(path)


def test_a_file_without_permission_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "secret.tsv", "a\tb\n")

    # The file's own permissions would not stop root.
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(ValueError, match=rf"^{path}: .*Permission denied"):
        PairFile(path)


def test_a_file_of_blank_lines_is_refused_when_read(tmp_path):
    path = write(tmp_path / "a.tsv", "\n \t \n")
    with pytest.raises(ValueError, match=rf"^{path}: .*2 lines, all with a blank side"):
        list(PairFile(path))


def test_parallel_files_pair_their_lines(tmp_path):
    source = write(tmp_path / "a.en", "one\n\nthree\tx\n")
    target = write(tmp_path / "a.de.gz", gzip.compress(b"eins\nzwei\r\ndrei"))
    corpus = ParallelFiles(source, target)
    assert list(corpus) == list(corpus) == [("one", "eins"), ("three\tx", "drei")]
    assert (corpus.skipped_empty, corpus.first_empty_line) == (1, 2)


def test_parallel_files_of_different_length_are_refused_with_both_counts(tmp_path):
    source = write(tmp_path / "a.en", "one\ntwo\n")
    target = write(tmp_path / "a.de", "eins\n")
    with pytest.raises(ValueError, match=r"a\.en with 2 lines.*a\.de with 1 lines"):
        ParallelFiles(source, target)


def test_an_error_in_a_parallel_file_names_that_file(tmp_path):
    source = write(tmp_path / "a.en", "one\ntwo\n")
    target = write(tmp_path / "a.de", b"eins\nzw\xffei\n")
    with pytest.raises(ValueError, match=rf"^{target}:2: must be UTF-8"):
        list(ParallelFiles(source, target))


def test_reading_holds_one_line_at_a_time(tmp_path):
    path = write(tmp_path / "a.tsv", "a\tb\n" * 5 + "broken\n")
    assert list(itertools.islice(PairFile(path), 5)) == [("a", "b")] * 5


PAIRS = [(f"source {i}", f"target {i}") for i in range(2000)]
THREE = {"train": 0.9, "validation": 0.05, "test": 0.05}


def test_a_hash_split_is_a_partition_of_about_the_asked_shares():
    splits = split_by_hash(PAIRS, THREE)
    parts = {name: list(split) for name, split in splits.items()}
    assert sorted(itertools.chain(*parts.values())) == sorted(PAIRS)
    assert 1740 < len(parts["train"]) < 1860
    assert 60 < len(parts["test"]) < 140
    assert list(splits["test"]) == parts["test"]


def test_a_hash_split_depends_on_the_source_text_alone():
    before = dict(split_by_hash(PAIRS, THREE)["test"])
    changed = [(source, "other") for source, _ in reversed(PAIRS)] + [("new", "x")]
    after = dict(split_by_hash(changed, THREE)["test"])
    assert set(before) == set(after) - {"new"}


def test_a_hash_split_is_the_same_for_ever():
    # Written down once: another result here would move test words into training data.
    parts = split_by_hash([(c, "") for c in "abcdefghijklmnop"], {"a": 0.5, "b": 0.5})
    assert "".join(source for source, _ in parts["a"]) == "acefghjlnp"


def test_variants_of_a_source_stay_together():
    pairs = [(source, variant) for source, _ in PAIRS[:200] for variant in "xyz"]
    for split in split_by_hash(pairs, {"a": 0.5, "b": 0.5}).values():
        assert all(len(references) == 3 for _, references in group_references(split))


@pytest.mark.parametrize("fractions", [{}, {"a": 1.5, "b": -0.5}, {"a": 0.5, "b": 0.4}, {"a": 0}])
def test_shares_that_do_not_sum_to_1_are_refused(fractions):
    with pytest.raises(ValueError, match="fractions must be positive and sum to 1"):
        split_by_hash(PAIRS, fractions)


def test_an_iterator_is_refused_where_a_corpus_is_read_again():
    with pytest.raises(ValueError, match="not an iterator"):
        split_by_hash(iter(PAIRS), THREE)


def test_references_are_grouped_in_order_of_appearance():
    pairs = [("b", "1"), ("a", "2"), ("b", "3"), ("b", "1")]
    assert group_references(pairs) == [("b", ["1", "3"]), ("a", ["2"])]
