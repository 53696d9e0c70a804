import copy
import json
import os
import shutil
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import numpy_transformer
import onnx
import pytest
from numpy_search import log_softmax, penalty

from keras_transformer.config import RNNSearchConfig
from keras_transformer.id_rows import pad_rows
from keras_transformer.recipe import RunConfig
from keras_transformer.recurrent import RNNSearch
from keras_transformer.search_options import SearchOptions
from keras_transformer.translator import Translator
from keras_transformer_export import Bundle, export, onnx_model
from keras_transformer_export.bundle import METADATA_KEY, Description, ModelCard
from keras_transformer_export.exporter import _describe
from keras_transformer_export.logit_proof import max_logit_difference
from keras_transformer_export.onnx_model import Conversion
from keras_transformer_export.parity import ParityError, verify_bundle
from keras_transformer_export.runtime import OnnxTranslator
from keras_transformer_export.search_inputs import DEFAULTS, inputs_of


@pytest.fixture(scope="module")
def ids_model(bundle_folder):
    return onnx.load(bundle_folder / "model.ids.onnx")


@pytest.fixture
def no_conversion(monkeypatch, ids_model):
    """Conversion gives the model of the session's bundle, or what `use` is told."""
    conversions = {"model": ids_model}

    def convert(model, details=()):
        copy = onnx.ModelProto()
        copy.CopyFrom(conversions["model"])
        return Conversion(copy, 0, 0, [])

    monkeypatch.setattr(onnx_model, "convert_search", convert)
    return conversions


def all_nodes(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from all_nodes(attribute.g)


def damaged(model):
    """The same model with one weight changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = max(copy.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    array = onnx.numpy_helper.to_array(weights).copy()
    array[5] += 0.5
    weights.CopyFrom(onnx.numpy_helper.from_array(array, weights.name))
    return copy


def test_a_bundle_holds_what_its_manifest_says_and_is_proven(bundle_folder):
    bundle = Bundle.open(bundle_folder).validate()
    expected = {
        "README.md", "model.ids.onnx", "model.onnx", "parity.json", "source.model", "target.model",
    }  # fmt: skip
    assert {name for name in bundle.manifest.files if "/" not in name} == expected
    assert "saved_model/saved_model.pb" in bundle.manifest.files
    parity = json.loads((bundle_folder / "parity.json").read_text())
    assert set(parity["runtimes"]) == {"saved_model", "model.onnx", "model.ids.onnx"}
    assert {1, 2, 7, 32} <= set(parity["batch_sizes"])
    assert parity["max_logit_difference"] <= 1e-5
    assert (parity["score_tolerance"], parity["tie_tolerance"]) == (1e-4, 1e-5)
    assert len({len(example["ids"]) for example in parity["examples"]}) > 3
    assert "equal ids and texts" in (bundle_folder / "README.md").read_text()


def bodies_of(node):
    return {a.name: a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH}


def only(nodes, op_type):
    (found,) = (node for node in nodes if node.op_type == op_type)
    return found


@pytest.fixture(scope="module")
def steps(ids_model):
    """The body of one decoding step: of greedy search, and of beam search."""
    branches = bodies_of(only(ids_model.graph.node, "If"))
    loops = {
        "greedy": only(branches["then_branch"].node, "Loop"),
        "beam": only(branches["else_branch"].node, "Loop"),
    }
    return {
        name: bodies_of(only(bodies_of(phases)["body"].node, "Loop"))["body"]
        for name, phases in loops.items()
    }


def test_the_graph_has_only_onnx_operators(ids_model):
    onnx.checker.check_model(ids_model, full_check=True)
    assert {node.domain for node in all_nodes(ids_model.graph)} == {""}


@pytest.mark.parametrize(
    ("search", "carried"),
    [
        ("greedy", 1 + 2 * 2),  # log-probability; key and value of two layers
        ("beam", 2 + 2 * 2),  # alive and finished scores; key and value of two layers
    ],
)
def test_a_step_carries_its_state_and_no_weights(steps, search, carried):
    body = steps[search]
    count = Counter(node.op_type for node in body.node)
    assert count["LayerNormalization"] == 6  # three a layer
    assert count["Gemm"] >= 13  # six a layer and the output projection
    assert not any(node.op_type == "ReduceMean" for node in body.node)
    floats = [v for v in body.input if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    assert len(floats) == carried
    assert ("ArgMax" in count, "TopK" in count) == (search == "greedy", search == "beam")


def test_both_searches_read_the_same_weights_of_the_top_graph(ids_model, steps):
    stored = {tensor.name for tensor in ids_model.graph.initializer}
    read = {}
    for name, body in steps.items():
        # through the Reshape that lets ONNX Runtime pack them
        behind = {node.output[0]: node.input[0] for node in body.node if node.op_type == "Reshape"}
        weights = [node.input[1] for node in body.node if node.op_type == "Gemm"]
        read[name] = {behind.get(weight, weight) for weight in weights}
    assert read["greedy"] == read["beam"]
    assert read["greedy"] <= stored
    for node in all_nodes(ids_model.graph):
        for body in bodies_of(node).values():
            sizes = [int(np.prod(tensor.dims)) for tensor in body.initializer]
            assert max(sizes, default=0) < 16  # numbers, not weights


def test_every_weight_stands_once_in_the_file(ids_model, translator):
    large = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in ids_model.graph.initializer
        if len(tensor.dims) == 2
    ]
    fingerprints = [min(array.tobytes(), array.T.tobytes()) for array in large]
    assert len(fingerprints) == len(set(fingerprints))
    weights = [weight for weight in translator.model.weights if len(weight.shape) == 2]
    sinusoids = 3 * translator.config.d_model  # their rates and offsets
    assert sum(array.size for array in large if array.dtype == np.float32) == sinusoids + sum(
        int(np.prod(weight.shape)) for weight in weights
    )


TYPES = {
    onnx.TensorProto.STRING: "string",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.BOOL: "bool",
}


def described(values):
    """Name, type and shape of each input or output, as the manifest has them."""
    found = {}
    for value in values:
        tensor = value.type.tensor_type
        shape = [d.dim_param or d.dim_value for d in tensor.shape.dim]
        found[value.name] = (TYPES[tensor.elem_type], shape)
    return found


@pytest.mark.parametrize("name", ["model.onnx", "model.ids.onnx"])
def test_inputs_outputs_and_defaults_are_as_documented(bundle_folder, name):
    graph = onnx.load(bundle_folder / name).graph
    signature = Bundle.open(bundle_folder).manifest.signatures[name]
    source = "source_ids" if "ids" in name else "texts"
    assert list(described(graph.input)) == [source, *DEFAULTS] == list(signature.inputs)
    for values, records in (
        (graph.input, signature.inputs), (graph.output, signature.outputs),
    ):  # fmt: skip
        assert described(values) == {n: (r.dtype, r.shape) for n, r in records.items()}
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    for option, default in DEFAULTS.items():
        assert stored[option].dtype == default.dtype
        np.testing.assert_array_equal(stored[option], default)
        assert signature.inputs[option].default == default.tolist()
    assert signature.inputs[source].default is None


def test_the_default_search_is_greedy_with_the_usual_penalty():
    assert {name: value.tolist() for name, value in DEFAULTS.items()} == {
        "beam_size": 1,
        "num_hypotheses": 1,
        "length_penalty": pytest.approx(0.6),
        "max_decoding_length": 0,
        "min_decoding_length": 0,
        "early_stopping": True,
        "target_prefix": [[]],
    }


def exact_scores(translator, source_ids, ids, alpha):
    """Scores `[B, n]` of outputs `[B, n, T]`, by NumPy in float64."""
    config = translator.config

    def score(source, output):
        tokens = tuple(int(token) for token in output if token != config.pad_id)
        target_in = np.array([config.start_id, *tokens[:-1]])
        logits = numpy_transformer.logits(translator.model, source[None], target_in[None])[0]
        log_probs = log_softmax(logits)[range(len(tokens)), tokens]
        return log_probs.sum() / penalty(len(tokens), alpha)

    return np.array(
        [
            [score(source, row) for row in rows]
            for source, rows in zip(source_ids, np.asarray(ids), strict=True)
        ]
    )


@pytest.mark.parametrize(
    "options",
    [
        SearchOptions(),
        SearchOptions(max_decoding_length=1),
        SearchOptions(max_decoding_length=3, length_penalty=0.0),
        SearchOptions(max_decoding_length=12, length_penalty=1.0),
        SearchOptions(4, 2, max_decoding_length=1),
        SearchOptions(4, 4, max_decoding_length=3, length_penalty=0.0),
        SearchOptions(3, 2, max_decoding_length=12, min_decoding_length=6, length_penalty=1.0),
    ],
    ids=str,
)
def test_limits_and_penalties_are_those_of_keras(ids_model, translator, words, run_onnx, options):
    rows = [[*row, translator.config.eos_id] for row in translator.source.encode(words[:9])]
    source_ids = pad_rows(rows, translator.config.pad_id).astype("int64")
    feeds = {"source_ids": source_ids, **inputs_of(options, np.zeros((1, 0)))}
    received = dict(
        zip([o.name for o in ids_model.graph.output], run_onnx(ids_model, feeds), strict=True)
    )
    expected = translator.search(source_ids, options)
    assert received["ids"].tolist() == expected.ids.tolist()
    # Both round in float32, so both are held against the same scores in float64.
    exact = exact_scores(translator, source_ids, expected.ids, options.length_penalty)
    np.testing.assert_allclose(expected.scores, exact, atol=1e-5)
    np.testing.assert_allclose(received["scores"], exact, atol=1e-5)


def test_the_onnx_file_alone_says_what_it_is(bundle_folder):
    for name in ("model.onnx", "model.ids.onnx"):
        metadata = {p.key: p.value for p in onnx.load(bundle_folder / name).metadata_props}
        description = Description.parse(metadata[METADATA_KEY], name)
        assert description.card.licence == "Made up, for everyone."
        assert description.special_ids.eos == 3


def test_an_existing_folder_is_refused_and_kept(translator, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("text")
    with pytest.raises(ValueError, match="folder must not exist yet"):
        export(translator, tmp_path / "mine")
    with pytest.raises(ValueError, match="folder must be a bundle to be replaced"):
        export(translator, tmp_path / "mine", force=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "text"


def test_force_replaces_a_bundle_but_not_what_was_put_into_it(
    translator, words, tmp_path, no_conversion
):
    folder = tmp_path / "bundle"
    export(translator, folder, ["onnx"], sentences=words[:5])
    before = (folder / "parity.json").read_text()
    (folder / "notes.txt").write_text("text")
    with pytest.raises(ValueError, match=r"Move this file elsewhere: .*notes\.txt"):
        export(translator, folder, ["onnx"], sentences=words[:8], force=True)
    (folder / "notes.txt").unlink()
    bundle = export(translator, folder, ["onnx"], sentences=words[:8], force=True)
    bundle.validate()
    assert (folder / "parity.json").read_text() != before
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_graph_that_answers_otherwise_is_not_exported(
    translator, words, tmp_path, no_conversion, ids_model
):
    export(translator, tmp_path / "bundle", ["onnx"], sentences=words[:5])
    no_conversion["model"] = damaged(ids_model)
    with pytest.raises(ParityError):
        export(translator, tmp_path / "bundle", ["onnx"], sentences=words, force=True)
    assert os.listdir(tmp_path) == ["bundle"]
    Bundle.open(tmp_path / "bundle").validate()
    with pytest.raises(ParityError):
        export(translator, tmp_path / "other", ["onnx"], sentences=words)
    assert os.listdir(tmp_path) == ["bundle"]


def test_logits_of_another_model_are_noticed(translator, words, ids_model):
    assert max_logit_difference(translator, ids_model, words) <= 1e-5
    with pytest.raises(ParityError, match="logits"):
        max_logit_difference(translator, damaged(ids_model), words)


@pytest.mark.parametrize(
    ("format", "size"), [("onnx", 100_000), ("onnx", 5), ("saved_model", 300_000)]
)
def test_a_full_disk_leaves_the_old_bundle_and_is_said(
    translator, words, bundle_folder, tmp_path, no_conversion, files_limited, format, size
):
    folder = tmp_path / "bundle"
    shutil.copytree(bundle_folder, folder)
    with files_limited(size), pytest.raises(OSError, match="File too large") as caught:
        export(translator, folder, [format], sentences=words[:5], force=True)
    assert caught.value.filename == str(folder)
    assert os.listdir(tmp_path) == ["bundle"]
    Bundle.open(folder).validate()


def test_ctrl_c_leaves_nothing(translator, tmp_path):
    def interrupt(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(translator, tmp_path / "bundle", progress=interrupt)
    assert os.listdir(tmp_path) == []


def test_a_model_that_computes_in_another_type_is_refused(translator, tmp_path):
    policy = SimpleNamespace(name="mixed_float16", compute_dtype="float16")
    other = copy.copy(translator)
    other.model = SimpleNamespace(dtype_policy=policy)
    with pytest.raises(ValueError, match=r"must compute in float32 .* 'mixed_float16'"):
        export(other, tmp_path / "bundle")


def test_something_else_than_a_translator_is_refused(translator, tmp_path):
    for other in (translator.model, "runs/g2p", None):
        with pytest.raises(ValueError, match="translator must be a Translator"):
            export(other, tmp_path / "bundle")
    assert os.listdir(tmp_path) == []


def test_the_recurrent_model_is_for_comparison_only(translator, tmp_path):
    sizes = {"d_embedding": 4, "hidden_size": 4, "units": 4, "maxout_size": 4}
    config = RNNSearchConfig.for_tokenizers(translator.source, translator.target, **sizes)
    recurrent = Translator(RNNSearch(config), translator.source, translator.target)
    with pytest.raises(ValueError, match=r"must hold a Transformer.*Received: .*RNNSearch"):
        export(recurrent, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"formats": ["tflite"]},
        {"formats": []},
        {"formats": "onnx"},
        {"precisions": ["int4"]},
    ],
)
def test_unknown_formats_are_refused(translator, tmp_path, options):
    with pytest.raises(ValueError, match="must be a sequence of one or more of"):
        export(translator, tmp_path / "bundle", **options)
    assert os.listdir(tmp_path) == []


def test_what_the_run_and_the_caller_know_is_in_the_card(bundle_folder):
    card = Bundle.open(bundle_folder).manifest.card
    assert card == ModelCard(name="spelling", licence="Made up, for everyone.")
    text = (bundle_folder / "README.md").read_text()
    assert text.startswith("# spelling\n")
    assert "- **Licence**: Made up, for everyone." in text


@pytest.mark.parametrize("folder", ["/home/ann/secret", r"C:\Users\ann\secret"])
def test_where_the_data_stood_is_not_told(translator, folder):
    slash = folder[-len("/secret")]
    data = {
        "kind": "parallel",
        "folder": folder,
        "source": f"{folder}{slash}train.en",
        "target": "train.de",
        "validation_pairs": f"secret{slash}dev.tsv",
    }
    trained = copy.copy(translator)
    trained.recipe = RunConfig.model_validate({"name": "mine", "data": data})
    description = _describe(trained, {}, None)
    told = description.card.recipe["data"]
    assert "folder" not in told
    assert (told["source"], told["target"]) == ("train.en", "train.de")
    assert (told["validation_pairs"], told["validation_source"]) == ("dev.tsv", None)
    assert description.card.data == "parallel"
    assert "secret" not in description.model_dump_json()


def test_operators_that_onnx_lacks_are_named():
    graph = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[N] x) => (int32[N] y) { y = Bitcast <type = 6> (x) }"""
    )
    with pytest.raises(RuntimeError, match=r"Received: Bitcast \(1x\)"):
        onnx_model._refuse_foreign_operators(graph)


def test_keras_still_has_its_fix_for_tf2onnx():
    """When this fails, Keras has moved `patch_tf2onnx`: look where, and change one place."""
    import tf2onnx

    onnx_model._fit_tf2onnx_to_keras()
    for patched in (tf2onnx.tfonnx.rewrite_constant_fold, tf2onnx.graph.Node.get_value_attr):
        assert patched.__module__ == "keras.src.export.tf2onnx_lib"


def test_a_keras_without_the_fix_is_refused_with_advice(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras.src.export.tf2onnx_lib", None)
    with pytest.raises(RuntimeError, match=r"Install keras>=3\.15,<3\.16"):
        onnx_model._fit_tf2onnx_to_keras()


@pytest.mark.slow
def test_another_architecture_exports_as_well(make_translator, words, tmp_path):
    other = make_translator(
        steps=0,
        num_layers=1,
        norm_first=True,
        positions="learned",
        max_positions=40,
        embeddings="separate",
        activation="gelu",
        output_bias=True,
        key_dim=6,
        value_dim=10,
    )
    export(other, tmp_path / "bundle", ["onnx"], sentences=words)
    checked = verify_bundle(tmp_path / "bundle")
    assert checked.onnx_files == ["model.onnx", "model.ids.onnx"]
    with OnnxTranslator(tmp_path / "bundle") as exported:
        assert len(exported.translate(["a" * 39])[0][0].tokens) <= 40
        for translates in (other, exported):
            with pytest.raises(ValueError, match="must have at most 40 tokens"):
                translates.translate(["a" * 40])
