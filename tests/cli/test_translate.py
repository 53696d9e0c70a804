"""`translate`: lines in, lines out, and its options."""

import itertools

import pytest

from keras_transformer.commands.translate import read_lines, translate_lines
from keras_transformer.hypothesis import Hypothesis


def echo(texts):
    return [[Hypothesis(text.upper(), -1.0, [], True)] for text in texts]


def test_lines_keep_their_order_and_blank_ones_stay_blank():
    lines = ["a", "", "b", " ", "c"]
    found = [[h.text for h in row] for row in translate_lines(echo, lines, 2)]
    assert found == [["A"], [""], ["B"], [""], ["C"]]


def test_an_endless_input_is_translated_in_constant_memory():
    asked = []

    def translate(texts):
        asked.append(len(texts))
        return echo(texts)

    found = translate_lines(translate, itertools.repeat("x"), 3)
    assert [row[0].text for row in itertools.islice(found, 7)] == ["X"] * 7
    assert asked == [3, 3, 3]


def test_what_stands_before_a_bad_line_is_translated_before_the_error():
    lines = read_lines(iter([b"a\n", b"\xff\n", b"b\n"]))
    found = translate_lines(echo, lines, 1000)
    assert next(found)[0].text == "A"
    with pytest.raises(ValueError, match="standard input, line 2: must be UTF-8"):
        next(found)


def test_only_line_feeds_end_a_line_and_carriage_returns_before_them_go():
    raw = ["\ufeffa\r\n".encode(), "b\u2028c\x0c\n".encode(), b"d"]
    assert list(read_lines(iter(raw))) == ["a", "b\u2028c\x0c", "d"]


def test_a_nul_is_refused_with_its_line():
    with pytest.raises(ValueError, match=r"standard input, line 1 .*U\+0000 \(NUL\) at position 1"):
        list(read_lines(iter([b"a\0\n"])))


def test_a_run_folder_translates_line_by_line(run, tiny_run):
    result = run("translate", tiny_run.path, input="1 2\n\n3\n")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.split("\n")) == 4
    assert result.stdout.split("\n")[1] == ""
    assert result.stderr == ""


OPTIONS = {
    "beam_size": 4,
    "num_hypotheses": 2,
    "length_penalty": 1.0,
    "max_decoding_length": 9,
    "min_decoding_length": 2,
    "batch_size": 8,
}


def test_options_reach_the_translator_and_those_left_out_do_not(run, tiny_run, given):
    args = [
        part for name, value in OPTIONS.items() for part in (f"--{name.replace('_', '-')}", value)
    ]
    result = run("translate", tiny_run.path, *args, input="a\n")
    assert (result.exit_code, given[-1]) == (0, OPTIONS)
    run("translate", tiny_run.path, input="a\n")
    assert given[-1] == {}


def test_early_stopping_can_be_switched_off(run, tiny_run, given):
    result = run("translate", tiny_run.path, "--beam-size", 4, "--no-early-stopping", input="a\n")
    assert (result.exit_code, given[-1]) == (0, {"beam_size": 4, "early_stopping": False})


def test_scores_stand_before_a_tab(run, tiny_run, given):
    result = run("translate", tiny_run.path, "--scores", input="a\n\nb\n")
    assert result.stdout == "-1.0000\tA\n0.0000\t\n-1.0000\tB\n"


@pytest.mark.parametrize("scores", [[], ["--scores"]])
def test_several_hypotheses_are_lines_with_the_number_of_their_source(run, tiny_run, given, scores):
    """A line gives fewer where there are no more, and a blank line one."""
    result = run("translate", tiny_run.path, "--num-hypotheses", 2, *scores, input="a\n\nx\nb\n")
    assert [line.split("\t") for line in result.stdout.splitlines()] == [
        ["0", "-1.0000", "A"],
        ["0", "-2.5000", "aa"],
        ["1", "0.0000", ""],
        ["2", "-1.0000", "X"],
        ["3", "-1.0000", "B"],
        ["3", "-2.5000", "bb"],
    ]


def test_a_run_folder_translates_with_a_beam(run, tiny_run):
    from keras_transformer.translator import Translator

    texts = ["1 2", "", "3 4 0"]
    result = run(
        *("translate", tiny_run.path, "--beam-size", 3, "--num-hypotheses", 3),
        *("--length-penalty", 0, "--max-decoding-length", 5),
        input="".join(f"{text}\n" for text in texts),
    )
    assert result.exit_code == 0, result.output
    expected = Translator.load(tiny_run.path).translate(
        ["1 2", "3 4 0"], 3, 3, length_penalty=0.0, max_decoding_length=5
    )
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[0] for row in rows] == ["0", "0", "0", "1", "2", "2", "2"]
    assert [row[2] for row in rows if row[0] != "1"] == [h.text for row in expected for h in row]


def test_a_limit_on_length_is_kept(run, tiny_run):
    result = run("translate", tiny_run.path, "--max-decoding-length", 1, input="1 2 3\n")
    assert len(result.stdout.split()) <= 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--beam-size", 0], "beam_size must be an integer from 1"),
        (["--beam-size", 1000], "beam_size must be at most the target vocabulary's size"),
        (["--num-hypotheses", 2], "num_hypotheses must be at most beam_size"),
        (["--length-penalty", -1], "length_penalty must be a number from 0"),
        (["--max-decoding-length", 0], "max_decoding_length must be an integer from 1"),
        (["--min-decoding-length", -1], "min_decoding_length must be an integer from 1"),
        (["--batch-size", 0], "batch_size must be an integer from 1"),
        (["--beam-size", "wide"], "Invalid value for '--beam-size'"),
    ],
)
def test_bad_options_are_refused_before_the_first_line(run, tiny_run, args, message):
    result = run("translate", tiny_run.path, *args, input="")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""
