"""`train` on a user's own pairs."""

import gzip

import pytest

from keras_transformer.commands import own_data
from keras_transformer.commands.train import changed


def test_settings_for_own_data_are_the_same_at_every_call(pairs_file):
    first, _ = own_data.make_recipe(pairs=str(pairs_file))
    assert own_data.make_recipe(pairs=str(pairs_file))[0] == first
    assert first.name == "numbers"
    assert first.data.validation_fraction == pytest.approx(0.1)


def test_the_vocabulary_grows_with_the_data_and_covers_its_alphabet():
    small = own_data.Survey(pairs=100, characters=2_000, alphabet=30, skipped=0)
    multi30k = own_data.Survey(pairs=29_000, characters=3_900_000, alphabet=100, skipped=0)
    huge = own_data.Survey(pairs=10**6, characters=10**9, alphabet=4_000, skipped=0)
    assert [own_data._vocab_size(found) for found in (small, multi30k, huge)] == [
        230,
        9_900,
        14_000,
    ]


def test_a_large_corpus_keeps_about_a_thousand_pairs_for_validation():
    assert own_data._validation_fraction(1_000_000) == pytest.approx(0.001)
    assert own_data._validation_fraction(20) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("pairs", "characters", "sizes", "tokens", "steps"),
    [
        (100, 2_000, (2, 128, 256), 256, 10_000),
        (29_000, 3_900_000, (4, 128, 256), 4096, 10_000),
        (5_000, 200_000, (2, 128, 256), 1024, 10_000),
        (500_001, 70_000_000, (4, 256, 1024), 4096, 21_000),
        (10**8, 10**10, (4, 256, 1024), 4096, 100_000),
    ],
)
def test_sizes_and_lengths_of_training_grow_with_the_data(pairs, characters, sizes, tokens, steps):
    found = own_data.Survey(pairs, characters, alphabet=30, skipped=0)
    chosen = own_data._sizes(pairs)
    assert (chosen["num_layers"], chosen["d_model"], chosen["d_ff"]) == sizes
    training = own_data._training(found, 1.0, 0.003, 1000)
    assert (training.batch_tokens, training.max_steps) == (tokens, steps)
    assert training.evaluate_every == steps // 100


def test_sources_that_are_all_equal_cannot_be_held_out(run, tmp_path):
    (tmp_path / "same.tsv").write_text("".join(f"a\t{n}\n" for n in range(40)), encoding="utf-8")
    result = run("train", "--pairs", tmp_path / "same.tsv")
    assert result.exit_code == 2
    assert "add pairs with other sources" in " ".join(result.stderr.split())


def test_gradients_are_not_clipped_where_they_cannot_be(run, pairs_file):
    # one device only: that, and not clipping, is what is wrong here
    result = run("train", "--pairs", pairs_file, "--distribution", "mirrored")
    assert "needs at least two devices" in " ".join(result.stderr.split())


def test_own_data_is_read_compressed_and_from_two_files(pairs_file, tmp_path):
    packed = tmp_path / "numbers.tsv.gz"
    packed.write_bytes(gzip.compress(pairs_file.read_bytes()))
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("\n".join(map(str, range(50))), encoding="utf-8")
    assert own_data.make_recipe(pairs=str(packed))[0].name == "numbers"
    both, _ = own_data.make_recipe(source=str(tmp_path / "a.txt"), target=str(tmp_path / "b.txt"))
    assert (both.data.kind, both.name) == ("parallel", "a")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"no tab\n", "numbers.tsv:101: a line must have two columns, source TAB target"),
        (b"\xff\tx\n", "numbers.tsv:101: must be UTF-8 text"),
        (b"a\x00\tx\n", "numbers.tsv:101: a text must not contain U+0000 (NUL)"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line_before_training(run, pairs_file, row, message):
    with pairs_file.open("ab") as file:
        file.write(row)
    result = run("train", "--pairs", pairs_file)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_a_folder_of_data_beside_own_files_is_refused(run, pairs_file):
    # the settings would be chosen for one file, and another be trained on
    result = run("train", "--pairs", pairs_file, "--data", pairs_file.parent)
    assert result.exit_code != 0
    assert "--data must be left out beside your own files" in result.output


def test_lines_with_a_blank_side_are_counted(pairs_file):
    with pairs_file.open("a", encoding="utf-8") as file:
        file.write("\n \tx\n")
    choices = own_data.in_words(*own_data.make_recipe(pairs=str(pairs_file)))
    assert choices["data"] == "100 pairs; lines left out, with a blank side: 2"


def test_what_an_option_has_changed_is_what_is_said(pairs_file):
    config, survey = own_data.make_recipe(pairs=str(pairs_file))
    fewer = changed(config, training={"max_steps": 200})
    assert own_data.in_words(config, survey)["training"].startswith("up to 10,000 steps")
    assert own_data.in_words(fewer, survey)["training"].startswith("up to 200 steps")


def test_too_few_pairs_are_refused(tmp_path):
    path = tmp_path / "few.tsv"
    path.write_text("a\tb\n" * 19, encoding="utf-8")
    with pytest.raises(ValueError, match=r"few.tsv: must have at least 20 pairs.* 19 pairs"):
        own_data.make_recipe(pairs=str(path))


@pytest.mark.slow
def test_own_data_trains_in_few_steps_and_says_what_was_chosen_and_what_is_next(
    run, pairs_file, tmp_path
):
    folder = tmp_path / "run"
    result = run(
        "train",
        "--pairs",
        pairs_file,
        "--run-folder",
        folder,
        "--max-steps",
        2,
        "--overlong",
        "cut",
    )
    assert result.exit_code == 0, result.output
    for line in ("100 pairs", "one for both sides, BPE", "about 10 pairs for validation"):
        assert line in result.stdout
    assert "Trained 2 steps" in result.stdout
    assert f"keras-transformer evaluate {folder}" in result.stdout
    assert "rises for 1,000 steps" in result.stderr
    assert "this run has 2" in " ".join(result.stderr.split())
