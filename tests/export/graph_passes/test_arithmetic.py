"""Rewrites of selections, comparisons, indices and things that change nothing."""

import math

import numpy as np
from onnx.parser import parse_model

from keras_transformer_export.graph_passes import Graph
from keras_transformer_export.graph_passes.argmax import drop_negative_zero_test
from keras_transformer_export.graph_passes.common import merge_equal_nodes
from keras_transformer_export.graph_passes.comparisons import compare_integers
from keras_transformer_export.graph_passes.constants import fold_constants
from keras_transformer_export.graph_passes.dead_code import remove_dead_code
from keras_transformer_export.graph_passes.erfc import expand_erfc
from keras_transformer_export.graph_passes.identity import remove_identities
from keras_transformer_export.graph_passes.indices import drop_index_guards
from keras_transformer_export.graph_passes.no_ops import remove_no_ops
from keras_transformer_export.graph_passes.selects import restore_where

X = np.array([[3.0, -1.0, 0.5], [0.0, 7.0, -2.0]], "float32")


def test_identities_vanish_and_output_names_stay(rewrite):
    result = rewrite(
        """g (float[2,3] x) => (float[2,3] y, float[2,3] z) {
            a = Identity (x)
            b = Identity (a)
            y = Neg (b)
            z = Identity (b)
        }""",
        remove_identities,
        {"x": X},
    )
    assert result.changes == 3
    assert [output.name for output in result.after.graph.output] == ["y", "z"]


def test_selection_by_multiplication_becomes_where(rewrite):
    result = rewrite(
        """g (float[2,3] x, float[2,3] other) => (float[2,3] y) {
            chosen = Greater (x, zero)
            rejected = Not (chosen)
            weight_other = Cast <to = 1> (rejected)
            weight_x = Cast <to = 1> (chosen)
            part_other = Mul (other, weight_other)
            part_x = Mul (weight_x, x)
            y = Add (part_other, part_x)
        }""",
        restore_where,
        {"x": X, "other": X * 10},
        constants={"zero": np.float32(0)},
    )
    assert (result.changes, result.count("Where")) == (1, 1)


def test_a_sum_of_two_selections_by_different_conditions_stays(rewrite):
    result = rewrite(
        """g (float[2,3] x, float[2,3] other) => (float[2,3] y) {
            chosen = Greater (x, other)
            positive = Greater (x, zero)
            rejected = Not (positive)
            weight_other = Cast <to = 1> (rejected)
            weight_x = Cast <to = 1> (chosen)
            part_other = Mul (other, weight_other)
            part_x = Mul (weight_x, x)
            y = Add (part_other, part_x)
        }""",
        restore_where,
        {"x": X, "other": X[::-1]},
        constants={"zero": np.float32(0)},
    )
    assert result.changes == 0


def test_integers_are_compared_as_integers(rewrite, run_onnx):
    large = 2**24  # float32 cannot tell this from its successor: the graph before is the wrong one
    result = rewrite(
        """g (int32[N] a, int32[N] b) => (bool[N] less, bool[N] above) {
            a_float = Cast <to = 1> (a)
            b_float = Cast <to = 1> (b)
            less = Less (a_float, b_float)
            above = Greater (a_float, limit)
        }""",
        compare_integers,
        {"a": np.array([1, 5, -3], "int32"), "b": np.array([2, 5, -4], "int32")},
        constants={"limit": np.float32(4)},
    )
    assert result.changes == 2
    feeds = {"a": np.array([large], "int32"), "b": np.array([large + 1], "int32")}
    assert run_onnx(result.after, feeds)[0].tolist() == [True]


def test_a_comparison_with_a_fraction_stays_in_float(rewrite):
    result = rewrite(
        """g (int32[N] a) => (bool[N] y) {
            a_float = Cast <to = 1> (a)
            y = Less (a_float, limit)
        }""",
        compare_integers,
        {"a": np.array([1, 2], "int32")},
        constants={"limit": np.float32(1.5)},
    )
    assert result.changes == 0


GUARDED_GATHER = """g (int32[N] i{more_inputs}) => (float[N,3] y) {{
    negative = Less (i, zero)
    {size}
    from_the_end = Add (i, size)
    index = Where (negative, from_the_end, i)
    y = Gather <axis = 0> (table, index)
}}"""


def test_gather_counts_from_the_end_itself(rewrite):
    result = rewrite(
        GUARDED_GATHER.format(more_inputs="", size="size = Identity (rows)"),
        lambda graph: (remove_identities(graph), drop_index_guards(graph))[1],
        {"i": np.array([0, -1, 1, -2], "int32")},
        constants={"zero": np.int32(0), "rows": np.int32(2), "table": X},
    )
    assert result.changes == 1
    assert result.after.graph.node[-1].input[1] == "i"


def test_gather_from_a_computed_table_trusts_only_its_shape(rewrite):
    shape = "sizes = Shape (table) rows = Gather (sizes, zero64) size = Cast <to = 6> (rows)"
    result = rewrite(
        GUARDED_GATHER.format(more_inputs=", float[R,3] table", size=shape),
        drop_index_guards,
        {"i": np.array([1, -1], "int32"), "table": X},
        constants={"zero": np.int32(0), "zero64": np.int64(0)},
    )
    assert result.changes == 1


def test_an_offset_that_is_not_the_size_is_kept(rewrite):
    result = rewrite(
        GUARDED_GATHER.format(more_inputs="", size="size = Identity (rows)"),
        lambda graph: (remove_identities(graph), drop_index_guards(graph))[1],
        {"i": np.array([0, -1], "int32")},
        constants={"zero": np.int32(0), "rows": np.int32(1), "table": X},
    )
    assert result.changes == 0


def test_casts_slices_and_negations_that_change_nothing_vanish(rewrite):
    result = rewrite(
        """g (int32[N] i, float[2,3] x, bool[N] b) => (int32[N] j, float[2,3] y, bool[N] c) {
            wide = Cast <to = 7> (i)
            narrow = Cast <to = 6> (wide)
            j = Cast <to = 6> (narrow)
            y = Slice (x, starts, ends, axes, steps)
            not_b = Not (b)
            c = Not (not_b)
        }""",
        remove_no_ops,
        {"i": np.array([4, -2], "int32"), "x": X, "b": np.array([True, False])},
        constants={
            "starts": np.array([0, 0], "int32"),
            "ends": np.array([10**9, 10**9], "int32"),
            "axes": np.array([0, 1], "int32"),
            "steps": np.array([1, 1], "int32"),
        },
    )
    assert result.changes == 4
    assert {node.op_type for node in result.after.graph.node} <= {"Cast", "Not", "Identity"}


def test_a_cast_that_loses_digits_and_a_slice_that_cuts_stay(rewrite):
    result = rewrite(
        """g (float[2,3] x) => (float[2,3] y, float[1,3] z) {
            whole = Cast <to = 7> (x)
            y = Cast <to = 1> (whole)
            z = Slice (x, starts, ends)
        }""",
        remove_no_ops,
        {"x": X},
        constants={"starts": np.array([1]), "ends": np.array([10**9])},
    )
    assert result.changes == 0


def test_the_negative_zero_test_in_front_of_argmax_vanishes(run_onnx):
    """ONNX has no Bitcast, so only the graph after the pass can run."""
    graph = Graph(
        parse_model(
            """<ir_version: 8, opset_import: ["" : 18]>
            g (float[2,3] x) => (int64[2] y) <float zero = {0.0}, float tiny = {-1.1754944e-38},
                int32 mask = {1}, int32 none = {0}> {
                is_zero = Equal (x, zero)
                bits = Bitcast <type = 6> (x)
                sign = BitwiseAnd (bits, mask)
                negative = Less (sign, none)
                both = And (is_zero, negative)
                data = Where (both, tiny, x)
                y = ArgMax <axis = 1, keepdims = 0> (data)
            }"""
        )
    )
    assert drop_negative_zero_test(graph) == 1
    remove_dead_code(graph)
    assert run_onnx(graph.to_model(), {"x": X})[0].tolist() == [0, 1]


def test_an_ordinary_where_in_front_of_argmax_stays(rewrite):
    result = rewrite(
        """g (float[2,3] x) => (int64[2] y) {
            is_zero = Equal (x, zero)
            small = Less (x, zero)
            both = And (is_zero, small)
            data = Where (both, tiny, x)
            y = ArgMax <axis = 1, keepdims = 0> (data)
        }""",
        drop_negative_zero_test,
        {"x": X},
        constants={"zero": np.float32(0), "tiny": np.float32(-1.1754944e-38)},
    )
    assert result.changes == 0


def test_constant_expressions_fold_to_the_same_bits(rewrite):
    numbers = np.array([0.1, 1 / 3, 7e-4], "float32")
    result = rewrite(
        """g (float[3] x) => (float[3] y) {
            root = Sqrt (numbers)
            inverse = Reciprocal (root)
            shaped = Reshape (inverse, shape)
            y = Add (x, shaped)
        }""",
        fold_constants,
        {"x": np.zeros(3, "float32")},
        constants={"numbers": numbers, "shape": np.array([3])},
    )
    assert result.changes == 3
    assert [node.op_type for node in result.after.graph.node] == ["Add"]


def test_functions_that_round_in_more_than_one_way_are_left_to_the_runtime(rewrite):
    result = rewrite(
        "g (float[1] x) => (float[1] y) { s = Sin (number) y = Add (x, s) }",
        fold_constants,
        {"x": np.ones(1, "float32")},
        constants={"number": np.float32(1.25)},
    )
    assert result.changes == 0


def test_a_weight_with_other_readers_is_not_stored_twice(rewrite):
    table = np.random.default_rng(0).normal(size=(300, 60)).astype("float32")
    result = rewrite(
        """g (int64[N] i) => (float[N,300] y) {
            rows = Gather (table, i)
            turned = Transpose <perm = [1, 0]> (table)
            y = MatMul (rows, turned)
        }""",
        fold_constants,
        {"i": np.array([3, 299])},
        constants={"table": table},
    )
    assert result.changes == 0


def test_equal_nodes_are_merged_and_different_ones_are_not(rewrite):
    result = rewrite(
        """g (float[2,3] x) => (float[2,3] y, float[3,2] t) {
            a = Exp (x)
            b = Exp (x)
            y = Add (a, b)
            u = Transpose <perm = [1, 0]> (a)
            v = Transpose <perm = [1, 0]> (b)
            t = Sub (u, v)
        }""",
        merge_equal_nodes,
        {"x": X},
    )
    assert result.changes == 2
    assert result.count("Exp") == result.count("Transpose") == 1


def test_the_complementary_error_function_is_spelled_out(run_onnx):
    """ONNX has no Erfc, so only the graph after the pass can run."""
    graph = Graph(
        parse_model(
            """<ir_version: 8, opset_import: ["" : 18]>
            g (float[N] x) => (float[N] y) { y = Erfc (x) }"""
        )
    )
    assert expand_erfc(graph) == 1
    x = np.array([-3.0, -0.5, 0.0, 0.7, 4.0], "float32")
    received = run_onnx(graph.to_model(), {"x": x})[0]
    np.testing.assert_allclose(received, [math.erfc(v) for v in x], atol=2e-7)
