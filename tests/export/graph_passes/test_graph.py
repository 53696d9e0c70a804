"""Opening and writing of models, and all passes together, on graphs with bodies in bodies."""

import numpy as np
import onnx
import pytest
from onnx.parser import parse_model

from keras_transformer_export.graph_passes import PASSES, Graph, optimize

HEADER = '<ir_version: 8, opset_import: ["" : 18]>\n'
# Names that bodies side by side share, values of outer bodies read inside, a state nobody changes.
NESTED = parse_model(
    HEADER
    + """
nested (float[2,2] x, int64 steps, bool twice) => (float[2,2] y, float[2,2] w_out)
<bool go = {1}, float[2,2] w = {0.5, 1.0, -1.0, 2.0}, int64 two = {2}> {
    same = Identity (x)
    start = Loop (two, go, same) <body = before
        (int64 i, bool c, float[2,2] state) => (bool c_out, float[2,2] state_out) {
        c_out = Identity (c)
        scaled = Neg (state)
        state_out = Add (scaled, w)
    }>
    y, w_out = Loop (steps, go, start, w) <body = outer
        (int64 i, bool c, float[2,2] state, float[2,2] weight)
        => (bool c_out, float[2,2] state_out, float[2,2] weight_out) <float[1] scale = {0.5}> {
        c_out = Identity (c)
        scaled = Mul (weight, scale)
        value = Loop (two, go, state) <body = inner
            (int64 j, bool d, float[2,2] inner_state) => (bool d_out, float[2,2] inner_out)
            <float[1] quarter = {0.25}> {
            d_out = Identity (d)
            small = Mul (weight, quarter)
            turned = MatMul (inner_state, scaled)
            inner_out = Sub (turned, small)
        }>
        state_out = If (twice) <
            then_branch = yes () => (float[2,2] doubled) { doubled = Add (value, value) },
            else_branch = no () => (float[2,2] value_itself) { value_itself = Identity (value) }
        >
        weight_out = Identity (weight)
    }>
}"""
)


def feeds():
    x = np.array([[1.0, -2.0], [0.5, 3.0]], "float32")
    for steps in (0, 1, 3):
        for twice in (True, False):
            yield {"x": x, "steps": np.array(steps), "twice": np.array(twice)}


def assert_same(run_onnx, before, after):
    onnx.checker.check_model(after, full_check=True)
    for feed in feeds():
        for old, new in zip(run_onnx(before, feed), run_onnx(after, feed), strict=True):
            np.testing.assert_allclose(new, old, rtol=1e-6)


def test_a_model_that_is_opened_and_written_computes_the_same(run_onnx):
    assert_same(run_onnx, NESTED, Graph(NESTED).to_model())


@pytest.mark.parametrize("one_pass", dict.fromkeys(PASSES), ids=lambda one: one.__name__)
def test_each_pass_keeps_what_nested_bodies_compute(run_onnx, one_pass):
    graph = Graph(NESTED)
    one_pass(graph)
    assert_same(run_onnx, NESTED, graph.to_model())


def test_all_passes_move_what_no_step_changes_out_of_both_loops(run_onnx):
    after, report = optimize(NESTED)
    assert_same(run_onnx, NESTED, after)
    assert dict(report)["hoist_loop_states"] == 1
    assert "Mul" not in [node.op_type for node in after.graph.node]  # constants: folded
    outer = next(node for node in after.graph.node if node.op_type == "Loop")
    assert [n.op_type for n in outer.attribute[0].g.node if n.op_type == "Mul"] == []


def test_the_model_that_is_opened_is_not_changed():
    before = NESTED.SerializeToString()
    optimize(NESTED)
    assert NESTED.SerializeToString() == before


def test_defaults_of_inputs_are_no_constants(run_onnx):
    model = parse_model(
        HEADER + "g (float x, float scale) => (float y) <float scale = {2}> { y = Mul (x, scale) }"
    )
    after, _ = optimize(model)
    three = {"x": np.array(3, "float32")}
    assert run_onnx(after, three) == [6.0]
    assert run_onnx(after, {**three, "scale": np.array(5, "float32")}) == [15.0]


def test_constants_are_merged_by_value_and_kept_only_where_used():
    model = parse_model(
        HEADER
        + """g (float[2] x) => (float[2] y)
        <float[2] a = {1, 2}, float[2] b = {1, 2}, float[2] unused = {3, 4}> {
            first = Add (x, a)
            y = Add (first, b)
        }"""
    )
    assert len(Graph(model).to_model().graph.initializer) == 1


def test_values_and_their_types_are_found():
    graph = Graph(NESTED)
    assert [region.owner.op_type if region.owner else None for region in graph.regions] == [
        None, "Loop", "Loop", "Loop", "If", "If",
    ]  # fmt: skip
    names = [output for node in graph.nodes() for output in node.outputs]
    assert len(names) == len(set(names))
    product = graph.nodes("MatMul")[0]
    assert graph.type_of(product.outputs[0]) == onnx.TensorProto.FLOAT
    assert graph.rank_of(product.outputs[0]) == 2
    assert graph.producer(product.outputs[0], "MatMul") is product
    assert graph.producer(product.outputs[0], "Add") is None
    assert [user.op_type for user in graph.consumers(product.outputs[0])] == ["Sub"]
    assert graph.used_once(product.outputs[0])
