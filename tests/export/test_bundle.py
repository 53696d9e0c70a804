import json

import pytest

from keras_transformer_export.bundle import (
    MANIFEST,
    Bundle,
    BundleError,
    Description,
    SpecialIds,
    write_manifest,
)

DESCRIPTION = Description(
    created="2026-01-01T00:00:00+00:00",
    packages={"numpy": "2"},
    special_ids=SpecialIds(pad=0, unk=1, bos=2, eos=3, start=2),
    source_vocab_size=10,
    target_vocab_size=12,
    tokenizers={"source": "source.model", "target": "target.model"},
    signatures={},
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "saved_model" / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / "model.onnx").write_bytes(b"onnx model")
    write_manifest(tmp_path, DESCRIPTION)
    return tmp_path


def change(folder, **values):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **values}))


def test_a_whole_bundle_is_accepted(folder):
    bundle = Bundle.open(folder).validate()
    assert set(bundle.manifest.files) == {"model.onnx", "saved_model/saved_model.pb"}
    assert bundle.read("model.onnx") == b"onnx model"
    assert bundle.manifest.special_ids.eos == 3


def test_a_changed_byte_is_refused_with_the_name_of_the_file(folder):
    (folder / "saved_model" / "saved_model.pb").write_bytes(b"grapH")
    with pytest.raises(BundleError, match=r"saved_model.pb must be the file that was exported"):
        Bundle.open(folder).validate()


def test_a_changed_byte_in_the_manifest_is_refused(folder):
    path = folder / MANIFEST
    whole = path.read_bytes()
    Bundle.open(folder)
    places = [i for i, byte in enumerate(whole) if not chr(byte).isspace()]
    for place in places[::7]:
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(BundleError, match=r"manifest\.json must"):
            Bundle.open(folder)


def test_another_card_or_hash_in_the_manifest_is_refused(folder):
    whole = (folder / MANIFEST).read_bytes()
    for values in ({"card": {"licence": "MIT"}}, {"files": {}}, {"digest": "0" * 64}):
        change(folder, **values)
        with pytest.raises(BundleError, match=r"manifest\.json must be the file that was exported"):
            Bundle.open(folder)
        (folder / MANIFEST).write_bytes(whole)
    Bundle.open(folder).validate()


def test_a_missing_file_is_refused_with_its_name(folder):
    (folder / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx must be a readable file"):
        Bundle.open(folder).validate()


def test_a_file_that_is_not_listed_is_refused(folder):
    (folder / "saved_model" / "more.py").write_text("import os")
    with pytest.raises(BundleError, match=r"more\.py must be listed"):
        Bundle.open(folder).validate()
    with pytest.raises(BundleError, match="must be listed"):
        Bundle.open(folder).read("saved_model/more.py")


def test_hidden_files_of_the_system_do_not_matter(folder):
    (folder / ".DS_Store").write_bytes(b"?")
    (folder / "saved_model" / ".DS_Store").write_bytes(b"?")
    found = Bundle.open(folder).validate().manifest
    assert set(found.files) == {"model.onnx", "saved_model/saved_model.pb"}
    (folder / MANIFEST).unlink()
    assert write_manifest(folder, DESCRIPTION).files == found.files


def test_a_link_out_of_the_folder_is_not_followed(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "model.onnx"
    (folder / "model.onnx").rename(outside)
    (folder / "model.onnx").symlink_to(outside)
    with pytest.raises(BundleError, match="not a link"):
        Bundle.open(folder).validate()


def test_a_folder_in_the_place_of_a_file_is_refused(folder):
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()
    with pytest.raises(BundleError, match="ordinary file"):
        Bundle.open(folder).validate()


def test_a_foreign_folder_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"no manifest\.json in it"):
        Bundle.open(tmp_path)
    with pytest.raises(BundleError, match=r"no manifest\.json in it"):
        Bundle.open(tmp_path / "missing")


@pytest.mark.parametrize("version", [0, 1, 3, "2", None])
def test_another_format_version_is_refused_with_advice(folder, version):
    change(folder, format_version=version)
    with pytest.raises(BundleError, match=r"must have format_version 2\. Install the version"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    "name",
    ["../model.onnx", "/etc/passwd", "a/../../b", "a//b", "./a", "", "a\\b", "C:/x", "a\0b", "a\n"],
)
def test_names_that_lead_out_of_the_folder_are_refused(folder, name):
    change(folder, files={name: {"size": 1, "sha256": "0" * 64}})
    with pytest.raises(BundleError, match=r"manifest\.json must describe a bundle: files"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"{",
        b"[1, 2]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format_version": 2}',
        b'{"format_version": NaN}',
        b'{"format_version": 2' + b" " * (1 << 20) + b"}",
    ],
    ids=["empty", "cut", "list", "null", "bytes", "deep", "fields missing", "nan", "huge"],
)
def test_hostile_manifests_are_refused(folder, contents):
    (folder / MANIFEST).write_bytes(contents)
    with pytest.raises(BundleError, match=r"manifest\.json must"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"files": {"model.onnx": {"size": -1, "sha256": "0" * 64}}},
        {"files": {"model.onnx": {"size": "10", "sha256": "0" * 64}}},
        {"files": {"model.onnx": {"size": 10, "sha256": "zz"}}},
        {"special_ids": {"pad": 0}},
        {"surprise": 1},
        {"tokenizers": {"source": "../../source.model"}},
    ],
)
def test_fields_of_another_form_are_refused(folder, values):
    change(folder, **values)
    with pytest.raises(BundleError, match=r"manifest\.json must describe a bundle: "):
        Bundle.open(folder)


def test_ids_that_no_output_has_are_the_pad_and_the_start_unless_it_also_ends():
    assert DESCRIPTION.banned_ids == (0, 2)
    for special, banned in (({"start": 3}, (0,)), ({"pad": 9, "start": 9}, (9,))):
        ids = DESCRIPTION.special_ids.model_copy(update=special)
        assert DESCRIPTION.model_copy(update={"special_ids": ids}).banned_ids == banned
