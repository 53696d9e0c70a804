import shutil

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, numpy_helper
from onnx.parser import parse_model

from keras_transformer.translator import Translator
from keras_transformer_export import export, onnx_model
from keras_transformer_export.bundle import MANIFEST, Bundle, Description, write_manifest
from keras_transformer_export.exporter import PRECISIONS
from keras_transformer_export.graph_passes import Graph
from keras_transformer_export.int8 import quantize_matrix
from keras_transformer_export.onnx_model import Conversion
from keras_transformer_export.parity import ParityError, verify_bundle
from keras_transformer_export.parity_report import ParityReport
from keras_transformer_export.precision import TWINS, file_name, quantize_int8, to_float16
from keras_transformer_export.precision_report import measure_precision
from keras_transformer_export.runtime import OnnxTranslator

# The form of an exported search: a choice of two loops around loops, weights of the top graph.
SEARCH = """
<ir_version: 8, opset_import: ["" : 18]>
g (int64[N] ids, bool greedy, int64 steps) => (float[N, V] logits) {
    start = Gather (table, ids)
    logits = If (greedy) <
        then_branch = then () => (float[N, V] then_logits) {
            then_state = Loop (steps, yes, start) <body = then_body
                (int64 i, bool c, float[N, D] s) => (bool c1, float[N, D] s1) {
                c1 = Identity (c)
                s1 = Loop (steps, c, s) <body = then_inner
                    (int64 j, bool d, float[N, D] t) => (bool d1, float[N, D] t1) {
                    d1 = Identity (d)
                    h = Gemm (t, inner, bias)
                    t1 = Tanh (h)
                }>
            }>
            then_logits = Gemm <transB = 1> (then_state, table)
        },
        else_branch = else () => (float[N, V] else_logits) {
            else_state = Loop (steps, yes, start) <body = else_body
                (int64 k, bool e, float[N, D] u) => (bool e1, float[N, D] u1) {
                e1 = Identity (e)
                v = MatMul (u, inner)
                w = Add (v, bias)
                u1 = Tanh (w)
            }>
            else_logits = Gemm <transB = 1> (else_state, table)
        }
    >
}
"""


def search(table=None, inner=None, d=16, v=40):
    generator = np.random.default_rng(0)
    model = parse_model(SEARCH)
    arrays = {
        "table": generator.normal(size=(v, d)) if table is None else table,
        "inner": generator.normal(size=(d, d)) / 4 if inner is None else inner,
        "bias": generator.normal(size=d) / 4,
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(array.astype("float32"), name) for name, array in arrays.items()
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    onnx.checker.check_model(model)
    return model


def search_that_looks_up_another_table(rows):
    """The search, with an embedding [rows, 16] that no product reads; and this table."""
    model = search()
    lookup = next(node for node in model.graph.node if node.op_type == "Gather")
    lookup.input[0] = "other"
    other = np.random.default_rng(1).normal(size=(rows, 16)).astype("float32")
    model.graph.initializer.append(numpy_helper.from_array(other, "other"))
    return model, other


def feeds(greedy):
    ids = np.array([0, 5, 39, 7])
    return {"ids": ids, "greedy": np.array(greedy), "steps": np.array(2)}


def nodes(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from nodes(attribute.g)


def count(model, *op_types):
    return sum(node.op_type in op_types for node in nodes(model.graph))


def stored(model, *dtypes):
    arrays = map(numpy_helper.to_array, model.graph.initializer)
    return [array for array in arrays if array.dtype.name in dtypes]


@pytest.fixture(scope="module")
def exported(bundle_folder):
    return onnx.load(bundle_folder / "model.ids.onnx")


@pytest.fixture(scope="module")
def source_ids(translator, words):
    from keras_transformer.id_rows import pad_rows

    rows = [[*row, translator.config.eos_id] for row in translator.source.encode(words)]
    return pad_rows(rows, translator.config.pad_id).astype("int64")


@pytest.fixture
def assert_near(run_onnx):
    """Check that outputs of two searches differ by less than a share of the largest: (a, b)."""

    def check(model, changed, tolerance=0.1, greedy=True):
        expected, received = (run_onnx(m, feeds(greedy))[0] for m in (model, changed))
        assert np.isfinite(expected).all()
        assert np.abs(received - expected).max() < tolerance * np.abs(expected).max()

    return check


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize(("twin", "tolerance"), [(quantize_int8, 0.1), (to_float16, 0.01)])
def test_bodies_within_bodies_are_reached_and_compute_nearly_the_same(
    twin, tolerance, greedy, assert_near
):
    model = search()
    changed, _ = twin(model)
    assert_near(model, changed, tolerance, greedy)


def test_no_product_with_a_matrix_stays_float32():
    changed, change = quantize_int8(search())
    assert count(changed, "MatMulInteger") == change.products == 4
    assert count(changed, "MatMul", "Gemm") == 0
    assert {node.domain for node in nodes(changed.graph)} == {""}


def test_a_table_that_is_also_a_weight_is_stored_once():
    changed, change = quantize_int8(search())
    assert sorted(array.shape for array in stored(changed, "uint8")) == [(), (16, 16), (40, 16)]
    assert change.weights == 2
    assert not [a for a in stored(changed, "float32") if a.ndim == 2]


def test_a_small_table_that_no_product_reads_stays_float32():
    model, other = search_that_looks_up_another_table(40)
    changed, change = quantize_int8(model)
    assert change.kept == {"other": "a small table"}
    assert any(np.array_equal(array, other) for array in stored(changed, "float32"))


def test_a_large_table_is_stored_in_bytes(assert_near):
    model, _ = search_that_looks_up_another_table(1024)
    changed, _ = quantize_int8(model)
    assert (1024, 16) in [array.shape for array in stored(changed, "uint8")]
    assert_near(model, changed)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_stored_number_is_off_by_half_a_step_at_most(axis):
    array = np.random.default_rng(0).normal(size=(30, 20)).astype("float32")
    steps, scales = quantize_matrix(array, axis)
    wide = np.expand_dims(scales, axis)
    restored = (steps.astype("float32") - 128) * wide
    assert (np.abs(restored - array) <= wide * 0.501).all()
    assert np.abs(steps.astype(int) - 128).max(axis=axis).tolist() == [127] * len(scales)


@pytest.mark.parametrize("value", [0.0, 1e-44, 1e30])
def test_columns_of_zeros_and_of_extreme_numbers_keep_their_result(value, assert_near):
    inner = np.random.default_rng(0).normal(size=(16, 16)) / 4
    inner[:, 3] *= 0
    inner[5, 3] = value
    model = search(inner=inner.astype("float32"))
    changed, _ = quantize_int8(model)
    assert_near(model, changed)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("twin", TWINS.values())
def test_weights_that_are_not_finite_are_refused(twin, value):
    inner = np.ones((16, 16), "float32")
    inner[2, 3] = value
    with pytest.raises(ValueError, match="finite weights.*Received: inner"):
        twin(search(inner=inner))


def test_a_product_that_is_scaled_stays_float32():
    model = search()
    gemm = next(node for node in nodes(model.graph) if node.op_type == "Gemm")
    gemm.attribute.append(onnx.helper.make_attribute("alpha", 0.5))
    changed, change = quantize_int8(model)
    assert change.kept == {"inner": "its product is scaled or transposed"}
    assert count(changed, "Gemm") == 1


def test_a_graph_is_not_quantized_twice():
    changed, _ = quantize_int8(search())
    with pytest.raises(ValueError, match="Pass the graph that was exported in float32"):
        quantize_int8(changed)


def test_numbers_that_float16_cannot_hold_stay_float32():
    table = np.random.default_rng(0).normal(size=(40, 16))
    table[3, 3] = 1e9
    model = search(table=table)
    changed, change = to_float16(model)
    assert change.kept == {"table": "beyond the range of float16"}
    assert [array.shape for array in stored(changed, "float16")] == [(16, 16)]


def test_a_mask_over_the_vocabulary_is_stored_without_loss(run_onnx):
    model = search()
    mask = np.zeros(2048, "float32")
    mask[:4] = -1e9
    model.graph.initializer.append(numpy_helper.from_array(mask, "mask"))
    model.graph.node.append(onnx.helper.make_node("Identity", ["mask"], ["masked"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("masked", 1, [2048]))
    changed, _ = quantize_int8(model)
    assert (2048,) in [array.shape for array in stored(changed, "bool")]
    assert np.array_equal(run_onnx(changed, feeds(True))[1], mask)


def test_the_model_that_is_given_is_not_changed():
    model = search()
    before = model.SerializeToString()
    for twin in TWINS.values():
        twin(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize(("precision", "share"), [("int8", 0.75), ("float16", 0.95)])
def test_most_outputs_of_a_trained_model_stay_the_same(
    precision, share, exported, source_ids, run_onnx
):
    changed, change = TWINS[precision](exported)
    expected = run_onnx(exported, {"source_ids": source_ids})[1]
    received = run_onnx(changed, {"source_ids": source_ids})[1]
    length = min(expected.shape[2], received.shape[2])
    equal = (expected[:, 0, :length] == received[:, 0, :length]).all(axis=1)
    assert equal.mean() >= share
    assert change.bytes_after < change.bytes_before


@pytest.mark.parametrize("precision", TWINS)
def test_inputs_outputs_defaults_and_metadata_stay(precision, exported):
    changed, _ = TWINS[precision](exported)
    assert list(changed.graph.input) == list(exported.graph.input)
    assert list(changed.graph.output) == list(exported.graph.output)
    assert list(changed.metadata_props) == list(exported.metadata_props)
    names = {value.name for value in exported.graph.input}
    for tensor in exported.graph.initializer:
        if tensor.name in names:
            assert tensor in changed.graph.initializer


def test_every_matrix_of_an_exported_model_is_a_byte_a_number(exported):
    changed, change = quantize_int8(exported)
    graph = Graph(exported)
    matrices = {
        node.inputs[1]
        for node in graph.nodes("MatMul", "Gemm")
        if node.inputs[1] in graph.constants
    }
    assert matrices
    assert change.products >= len(matrices)
    bytes_stored = sum(array.size for array in stored(changed, "uint8"))
    assert bytes_stored >= sum(graph.constants[name].size for name in matrices)
    after = Graph(changed)
    products = after.nodes("MatMul", "Gemm")  # what is left are those of attention
    assert not [node for node in products if node.inputs[1] in after.constants]


def test_twins_have_names_of_their_own():
    assert file_name("model.onnx", "float32") == "model.onnx"
    assert file_name("model.ids.onnx", "int8") == "model.ids.int8.onnx"


@pytest.fixture(scope="module")
def twins_folder(translator, words, exported, tmp_path_factory):
    """A bundle in all precisions; the conversion of the shared one serves again."""
    folder = tmp_path_factory.mktemp("twins") / "bundle"
    converted = Conversion(exported, 0, 0, [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_model, "convert_search", lambda *arguments: converted)
        export(translator, folder, ["onnx"], PRECISIONS, sentences=words)
    return folder


@pytest.fixture(scope="module")
def bundle(twins_folder):
    return Bundle.open(twins_folder)


@pytest.fixture(scope="module")
def reports(bundle):
    return {report.precision: report for report in ParityReport.read(bundle).precisions}


@pytest.mark.parametrize("name", ["model.int8.onnx", "model.float16.onnx"])
def test_a_twin_with_texts_works_alone(name, twins_folder, tmp_path, translator, words):
    path = tmp_path / name
    path.write_bytes((twins_folder / name).read_bytes())
    with OnnxTranslator(path, device="cpu") as runtime:
        assert f".{runtime.description.precision}." in name
        found = [row[0].text for row in runtime.translate(words)]
    expected = [row[0].text for row in translator.translate(words)]
    assert sum(a == b for a, b in zip(found, expected, strict=True)) >= 0.75 * len(words)


@pytest.mark.parametrize("precision", TWINS)
def test_a_twin_is_described_measured_and_verified(precision, bundle, reports):
    report = reports[precision]
    names = {file_name(name, precision) for name in ("model.onnx", "model.ids.onnx")}
    assert set(report.bytes) == set(report.size_ratio) == names
    for name in names:
        assert bundle.manifest.signatures[name].precision == precision
        assert report.bytes[name] == bundle.manifest.files[name].size
    assert report.equal_to_float32 >= 0.75 * report.sentences
    assert report.tokens_per_second > 0
    assert report.metric is None  # texts were given, without references
    assert names <= set(verify_bundle(bundle.folder).onnx_files)
    assert f"- {precision}: " in (bundle.folder / "README.md").read_text()


def test_where_references_are_known_their_metric_is_reported(translator, twins_folder):
    sources = ["face", "bad", "dada"]
    answers = [row[0].text for row in translator.translate(sources)]
    known = Translator(
        translator.model,
        translator.source,
        translator.target,
        held_out=sources,
        held_out_references=[[answer] for answer in answers],
    )
    report = measure_precision(known, twins_folder, "float16", None, [])
    assert report.metric == "bleu"
    assert report.metric_float32 == pytest.approx(100)
    assert report.sentences == 3


def test_examples_that_changed_are_found(twins_folder, tmp_path, reports):
    copy = tmp_path / "bundle"
    shutil.copytree(twins_folder, copy)
    bundle = Bundle.open(copy)
    report = ParityReport.read(bundle)
    int8 = reports["int8"]
    changed = [e.model_copy(update={"ids": [5, 5, *e.ids]}) for e in int8.examples]
    other = int8.model_copy(update={"examples": changed})
    report.model_copy(update={"precisions": [other, reports["float16"]]}).write(copy)
    (copy / MANIFEST).unlink()
    write_manifest(copy, Description(**bundle.manifest.model_dump(exclude={"files", "digest"})))
    with pytest.raises(ParityError, match=r"model\.int8\.onnx must give"):
        verify_bundle(copy)


def test_a_twin_of_a_saved_model_alone_is_refused(translator, tmp_path):
    with pytest.raises(ValueError, match="formats must have 'onnx'"):
        export(translator, tmp_path / "new", ["saved_model"], ["int8"])
    assert not list(tmp_path.iterdir())
