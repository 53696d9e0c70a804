"""Reshapes that follow each other, and factors behind linear maps."""

import numpy as np
import onnx
import pytest

from keras_transformer_export.graph_passes import Graph
from keras_transformer_export.graph_passes.reshapes import merge_reshapes
from keras_transformer_export.graph_passes.scales import fold_scales

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(4, 6)).astype("float32")
W = RANDOM.normal(size=(6, 6)).astype("float32")
B = RANDOM.normal(size=6).astype("float32")
FACTOR = np.float32(0.7)


def reshapes(rewrite, nodes, output, rows=4, **shapes):
    """Apply `merge_reshapes` to `y` from `x` [R, 6]; shapes are constants."""
    return rewrite(
        f"g (float[R,6] x) => ({output}) {{ {nodes} }}",
        merge_reshapes,
        {"x": np.arange(rows * 6, dtype="float32").reshape(rows, 6)},
        constants={name: np.array(shape) for name, shape in shapes.items()},
    )


def test_of_two_reshapes_the_last_one_counts(rewrite):
    result = reshapes(
        rewrite,
        "a = Reshape (x, heads) b = Reshape (a, flat) y = Reshape (b, pairs)",
        "float[P,2] y",
        heads=[-1, 2, 1, 3],
        flat=[-1],
        pairs=[-1, 2],
    )
    assert (result.changes, result.count("Reshape")) == (2, 1)


def test_a_reshape_that_others_read_stays_for_them(rewrite):
    result = reshapes(
        rewrite,
        "a = Reshape (x, heads) y = Reshape (a, pairs) z = Neg (a)",
        "float[P,2] y, float[R,2,3] z",
        heads=[-1, 2, 3],
        pairs=[-1, 2],
    )
    assert (result.changes, result.count("Reshape")) == (1, 2)
    assert {node.input[0] for node in result.after.graph.node if node.op_type == "Reshape"} == {"x"}


def test_a_shape_that_copies_sizes_from_what_was_before_stays(rewrite):
    """0 in a shape is a size of the input: of [R, 2, 3] it is another one than of [R, 6]."""
    result = reshapes(
        rewrite,
        "a = Reshape (x, heads) y = Reshape (a, copied)",
        "float[R,2,3] y",
        heads=[-1, 2, 3],
        copied=[0, 0, -1],
    )
    assert result.changes == 0


def test_a_shape_that_is_computed_stays(rewrite):
    result = reshapes(
        rewrite,
        "sizes = Shape (x) a = Reshape (x, heads) y = Reshape (a, sizes)",
        "float[R,6] y",
        heads=[-1, 2, 3],
    )
    assert result.changes == 0


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_a_transposition_that_moves_only_axes_of_size_one_is_a_reshape(rewrite, rows):
    result = reshapes(
        rewrite,
        "a = Reshape (x, heads) y = Transpose <perm = [0, 1, 3, 2]> (a)",
        "float[R,2,3,1] y",
        rows,
        heads=[-1, 2, 1, 3],
    )
    assert result.changes == 2
    assert (result.count("Reshape"), result.count("Transpose")) == (1, 0)


@pytest.mark.parametrize(
    ("perm", "shape", "output"),
    [
        ([0, 2, 1], [-1, 2, 3], "R,3,2"),  # moves data
        ([1, 0, 2], [-1, 1, 6], "1,R,6"),  # the first size is not known, and need not be 1
        ([2, 1, 0], [-1, 1, 6], "6,1,R"),
    ],
)
def test_a_transposition_that_may_move_data_stays(rewrite, perm, shape, output):
    result = reshapes(
        rewrite,
        f"a = Reshape (x, heads) y = Transpose <perm = {perm}> (a)",
        f"float[{output}] y",
        heads=shape,
    )
    moves = sorted(axis for axis in perm if shape[axis] != 1) != [a for a in perm if shape[a] != 1]
    assert (result.count("Transpose") == 1) == moves


def test_a_transposition_of_something_else_than_a_reshape_stays(rewrite):
    result = rewrite(
        "g (float[1,4,6] x) => (float[4,1,6] y) { y = Transpose <perm = [1, 0, 2]> (x) }",
        merge_reshapes,
        {"x": X[np.newaxis]},
    )
    assert result.changes == 0


def scales(rewrite, nodes, output="float[4,6] y", inputs="float[4,6] x", feed=None, **constants):
    """Apply `fold_scales` to nodes that read x [4, 6], weights w and b, and a factor c."""
    return rewrite(
        f"g ({inputs}) => ({output}) {{ {nodes} }}",
        fold_scales,
        {"x": X, **(feed or {})},
        constants={"w": W, "b": B, "c": FACTOR, **constants},
        tolerance=1e-6,
    )


@pytest.mark.parametrize("product", ["Mul (p, c)", "Mul (c, p)"])
def test_a_factor_behind_a_linear_map_is_multiplied_into_it(rewrite, product):
    result = scales(rewrite, f"p = Gemm (x, w, b) y = {product}")
    assert (result.changes, result.count("Mul"), result.count("Gemm")) == (1, 0, 1)


def test_only_the_columns_of_the_query_are_scaled(rewrite):
    """Query, key and value of self-attention: one product, split, and the query's heads scaled."""
    result = scales(
        rewrite,
        """p = Gemm (x, w, b)
           query, key, value = Split <axis = -1> (p, sizes)
           heads = Reshape (query, shape)
           turned = Transpose <perm = [1, 0, 2]> (heads)
           y = Mul (turned, c)
           k = Identity (key)
           v = Identity (value)""",
        "float[2,4,1] y, float[4,1] k, float[4,3] v",
        sizes=np.array([2, 1, 3]),
        shape=np.array([-1, 2, 1]),
    )
    assert (result.changes, result.count("Mul")) == (1, 0)


def test_the_same_weights_elsewhere_keep_their_values(rewrite):
    result = scales(
        rewrite,
        "p = Gemm (x, w, b) y = Mul (p, c) z = Gemm (x, w, b)",
        "float[4,6] y, float[4,6] z",
    )
    assert (result.changes, result.count("Gemm")) == (1, 2)


STAYS = {
    "others read the linear map": (
        "p = Gemm (x, w, b) y = Mul (p, c) z = Neg (p)",
        "float[4,6] y, float[4,6] z",
    ),
    "it is an output as well": ("p = Gemm (x, w, b) y = Mul (p, c)", "float[4,6] y, float[4,6] p"),
    "a factor for each column": ("p = Gemm (x, w, b) y = Mul (p, b)", "float[4,6] y"),
    "a factor that changes the rank": ("p = Gemm (x, w, b) y = Mul (p, rank3)", "float[1,4,6] y"),
    "no bias": ("p = Gemm (x, w) y = Mul (p, c)", "float[4,6] y"),
    "a transposed weight": ("p = Gemm <transB = 1> (x, w, b) y = Mul (p, c)", "float[4,6] y"),
    "a split of rows": (
        "p = Gemm (x, w, b) r, s = Split <axis = 0> (p, halves) y = Mul (r, c) z = Neg (s)",
        "float[2,6] y, float[2,6] z",
    ),
    "a split of other columns than the map's": (
        "p = Gemm (x, w, b) q = Reshape (p, turned) "
        "r, s = Split <axis = 1> (q, halves) y = Mul (r, c) z = Neg (s)",
        "float[6,2] y, float[6,2] z",
    ),
    "a split into equal parts that no constant names": (
        "p = Gemm (x, w, b) r, s = Split <axis = 1, num_outputs = 2> (p) y = Mul (r, c) z = Neg(s)",
        "float[4,3] y, float[4,3] z",
    ),
    "one bias for all columns": (
        "p = Gemm (x, w, one) r, s = Split <axis = 1> (p, thirds) z = Mul (s, c) y = Neg (r)",
        "float[4,4] y, float[4,2] z",
    ),
}


@pytest.mark.parametrize("nodes", STAYS.values(), ids=STAYS.keys())
def test_a_factor_that_is_not_the_maps_alone_stays(rewrite, nodes):
    result = scales(
        rewrite,
        *nodes,
        rank3=np.ones((1, 1, 1), "float32"),
        halves=np.array([2, 2]),
        thirds=np.array([4, 2]),
        turned=np.array([6, 4]),
        one=np.ones(1, "float32"),
    )
    assert result.changes == 0
    assert result.count("Mul") == 1


def test_a_weight_that_is_an_input_is_left_alone(rewrite):
    result = scales(
        rewrite,
        "p = Gemm (x, weight, b) y = Mul (p, c)",
        inputs="float[4,6] x, float[6,6] weight",
        feed={"weight": W},
    )
    assert result.changes == 0


def test_a_linear_map_in_front_of_a_loop_is_scaled_once(rewrite):
    """The body multiplies the same value in each step."""
    result = rewrite(
        """g (float[4,6] x, int64 steps) => (float[4,6] y) {
            p = Gemm (x, w, b)
            y = Loop (steps, go, x) <body = step
                (int64 i, bool d, float[4,6] state) => (bool d_out, float[4,6] state_out) {
                scaled = Mul (p, c)
                state_out = Add (state, scaled)
                d_out = Identity (d)
            }>
        }""",
        fold_scales,
        *({"x": X, "steps": np.array(steps)} for steps in (0, 1, 3)),
        constants={"w": W, "b": B, "c": FACTOR, "go": np.array(True)},
        tolerance=1e-5,
    )
    assert (result.changes, result.count("Mul")) == (1, 0)


def test_the_weights_of_the_model_that_was_opened_are_not_changed(rewrite):
    result = scales(rewrite, "p = Gemm (x, w, b) y = Mul (p, c)")
    graph = Graph(result.before)
    before = {name: array.copy() for name, array in graph.constants.items()}
    fold_scales(graph)
    for name, array in before.items():
        np.testing.assert_array_equal(graph.constants[name], array)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in result.before.graph.initializer}
    np.testing.assert_array_equal(stored["w"], W)
