"""`evaluate`."""

import shutil

import pytest

from keras_transformer.commands.evaluate import search_in_words
from keras_transformer.search_options import SearchOptions


def test_evaluate_gives_bleu_and_chrf_with_signatures_and_samples(run, tiny_run):
    result = run("evaluate", tiny_run.path, "--limit", 10)
    assert result.exit_code == 0, result.output
    assert "10 validation texts" in result.stdout
    for word in ("BLEU", "chrF", "nrefs:1", "perplexity", "words of source a second", "reference"):
        assert word in result.stdout
    assert max(map(len, result.stdout.splitlines()[1:])) <= 80  # the first has a path


def test_bleu_is_of_tokens_as_the_recipe_has_it_or_as_told(run, tiny_run, given, tmp_path):
    folder = shutil.copytree(tiny_run.path, tmp_path / "tokenised")
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    changed = config.replace("bleu_tokenize: 13a", "bleu_tokenize: none")
    (folder / "config.yaml").write_text(changed, encoding="utf-8")
    for args, tokenizer in ([], "none"), (["--tokenize", "13a"], "13a"):
        result = run("evaluate", folder, "--limit", 2, *args)
        assert f"tok:{tokenizer}" in result.stdout


def test_evaluate_says_how_it_searched(run, tiny_run):
    for args, how in ([], "greedy"), (["--beam-size", 3], "beam 3, length penalty 0.6"):
        result = run("evaluate", tiny_run.path, "--limit", 2, *args)
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines()[0].endswith(f"2 validation texts, best model, {how}")
    assert search_in_words(SearchOptions(4, length_penalty=0.0)) == "beam 4, length penalty 0"
    assert search_in_words(SearchOptions(1, length_penalty=2.0)) == "greedy"


def test_evaluate_searches_as_it_is_told(run, tiny_run, given):
    result = run("evaluate", tiny_run.path, "--limit", 2, "--beam-size", 3, "--length-penalty", 1)
    assert result.exit_code == 0, result.output
    assert given == [{"beam_size": 3, "length_penalty": 1.0}] * 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--beam-size", 0], "beam_size must be an integer from 1"),
        (["--beam-size", 1000], "beam_size must be at most the target vocabulary's size"),
        (["--length-penalty", -1], "length_penalty must be a number from 0"),
    ],
)
def test_evaluate_refuses_options_the_search_cannot_honour(run, tiny_run, args, message):
    result = run("evaluate", tiny_run.path, *args)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_a_test_split_that_the_recipe_does_not_have_is_refused(run, tiny_run):
    result = run("evaluate", tiny_run.path, "--split", "test")
    assert result.exit_code == 2
    assert "--split must be validation" in result.stderr
