"""Residual connections that the linear map in front of them adds."""

import numpy as np
import pytest

from keras_transformer_export.graph_passes.residuals import fold_residuals

RANDOM = np.random.default_rng(0)
FEED = {"x": RANDOM.normal(size=(3, 6)).astype("float32")}


def weights(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def fold(rewrite, nodes, output="float[R,6] y", feed=FEED, inputs="float[R,6] x", **constants):
    """Apply the pass to nodes that read x [R, 6] and constants, all of them random."""
    known = {
        "gamma": weights(6), "beta": weights(6), "up": weights(6, 4), "up_bias": weights(4),
        "down": weights(4, 6), "down_bias": weights(6), **constants,
    }  # fmt: skip
    return rewrite(
        f"g ({inputs}) => ({output}) {{ {nodes} }}",
        fold_residuals,
        feed,
        constants=known,
        tolerance=2e-5,
    )


NORM = "n = LayerNormalization <axis = -1, epsilon = 0.00001> (x, gamma, beta) "
FEED_FORWARD = "h = Gemm (n, up, up_bias) r = Relu (h) d = Gemm (r, down, down_bias) "


@pytest.mark.parametrize("total", ["Add (n, d)", "Add (d, n)"])
@pytest.mark.parametrize("rows", [0, 1, 3])
def test_the_map_adds_the_residual_itself(rewrite, total, rows):
    feed = {"x": FEED["x"][:rows]}
    result = fold(rewrite, f"{NORM}{FEED_FORWARD} y = {total}", feed=feed)
    assert (result.changes, result.count("Add"), result.count("Gemm")) == (1, 0, 2)


def test_attention_between_norm_and_map_is_row_by_row(rewrite):
    result = fold(
        rewrite,
        f"""{NORM} q = Gemm (n, up, up_bias) heads = Reshape (q, to_heads)
           s = MatMul (heads, keys) w = Softmax <axis = -1> (s) c = MatMul (w, values)
           rows = Reshape (c, to_rows) d = Gemm (rows, down, down_bias) y = Add (n, d)""",
        to_heads=np.array([-1, 2, 1, 2]),
        to_rows=np.array([-1, 4]),
        keys=weights(1, 2, 2, 5),
        values=weights(1, 2, 5, 2),
    )
    assert (result.changes, result.count("Add")) == (1, 0)


def test_layers_after_each_other_are_all_folded(rewrite):
    second = """n2 = LayerNormalization <axis = -1, epsilon = 0.00001> (t, gamma, beta)
        h2 = Gemm (n2, up, up_bias) r2 = Relu (h2) d2 = Gemm (r2, down, down_bias)"""
    result = fold(rewrite, f"{NORM}{FEED_FORWARD} t = Add (n, d) {second} y = Add (d2, n2)")
    assert (result.changes, result.count("Add")) == (2, 0)


@pytest.mark.parametrize(
    ("nodes", "output"),
    [
        # the norm is an output, or something else than a linear map reads it
        (f"{NORM}{FEED_FORWARD} y = Add (n, d) z = Identity (n)", "float[R,6] y, float[R,6] z"),
        (f"{NORM}{FEED_FORWARD} t = Add (n, d) y = Mul (t, n)", "float[R,6] y"),
        # a Gemm that reads the norm as its addend, or has none
        (f"{NORM}{FEED_FORWARD} t = Add (n, d) y = Gemm (t, square, n)", "float[R,6] y"),
        (
            f"{NORM}{FEED_FORWARD} t = Add (n, d) u = Gemm (n, square) y = Add (t, u)",
            "float[R,6] y",
        ),
        # what the map gives is read twice
        (f"{NORM}{FEED_FORWARD} t = Add (n, d) y = Mul (t, d)", "float[R,6] y"),
        # no normalization
        (f"n = Relu (x) {FEED_FORWARD} y = Add (n, d)", "float[R,6] y"),
    ],
)
def test_a_norm_that_others_need_as_it_is_stays(rewrite, nodes, output):
    assert fold(rewrite, nodes, output, square=weights(6, 6)).changes == 0


def test_one_row_that_is_stretched_over_many_stays(rewrite):
    """Gemm refuses to make one row and add three."""
    nodes = """one = ReduceMean <keepdims = 1> (n, first) h = Gemm (one, up, up_bias)
        d = Gemm (h, down, down_bias) y = Add (n, d)"""
    result = fold(rewrite, NORM + nodes, first=np.array([0]))
    assert result.changes == 0


def test_a_map_of_something_else_stays(rewrite):
    nodes = "d = Gemm (other, down, down_bias) y = Add (n, d)"
    feed = {**FEED, "other": weights(1, 4)}
    result = fold(rewrite, NORM + nodes, feed=feed, inputs="float[R,6] x, float[O,4] other")
    assert result.changes == 0
