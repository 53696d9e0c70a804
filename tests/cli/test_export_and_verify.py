"""`export`, `verify`, and what is exported under `translate`."""

import shutil

import pytest

from keras_transformer.commands import screen


@pytest.fixture(scope="module")
def bundle(run, tiny_run, tmp_path_factory):
    """The ONNX export of the tiny run, and what the command printed."""
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    result = run("export", tiny_run.path, folder, "--format", "onnx")
    assert result.exit_code == 0, result.output
    return folder, result.stdout


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
def test_export_replaces_nothing_without_force(run, bundle, tiny_run):
    result = run("export", tiny_run.path, bundle[0], "--format", "onnx")
    assert result.exit_code == 2
    assert "--force" in result.stderr


@pytest.mark.slow
def test_verify_passes_a_whole_bundle_and_fails_one_with_a_changed_byte(run, bundle, tmp_path):
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
def test_an_exported_file_gives_the_runs_translations_without_tensorflow(
    look_around, run, start, bundle, tiny_run
):
    texts = "1 2\n\n3 4 0\n"
    process = start("translate", bundle[0] / "model.onnx", code=look_around)
    stdout, stderr = process.communicate(texts.encode(), timeout=120)
    assert stdout.decode() == run("translate", tiny_run.path, input=texts).stdout
    assert stderr.decode() == "loaded: []\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", [".", "model.onnx"])
def test_a_bundle_and_its_file_give_the_runs_n_best_lists(run, bundle, tiny_run, name):
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
def test_a_bundle_without_onnx_translates_with_its_saved_model(run, tiny_run, tmp_path):
    folder = tmp_path / "exported"
    result = run("export", tiny_run.path, folder, "--format", "saved_model")
    assert result.exit_code == 0, result.output
    options = ("--beam-size", 2, "--num-hypotheses", 2)
    result = run("translate", folder, *options, input="1 2\n3\n")
    assert result.exit_code == 0, result.output
    assert result.stdout == run("translate", tiny_run.path, *options, input="1 2\n3\n").stdout


@pytest.mark.slow
def test_a_reader_that_leaves_ends_it_quietly(start, bundle):
    process = start("translate", bundle[0])
    process.stdin.write(b"1 2\n" * 5000)
    process.stdin.close()
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=120) == screen.BROKEN_PIPE
