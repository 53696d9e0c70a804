"""Layer normalization and linear maps."""

import numpy as np
import pytest

from keras_transformer_export.graph_passes.layer_norm import fuse_layer_normalization
from keras_transformer_export.graph_passes.linear import fuse_gemm, share_transposed_weights

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(2.0, 3.0, (4, 6)).astype("float32")
NORM = {
    "gamma": RANDOM.normal(1.0, 0.5, 6).astype("float32"),
    "beta": RANDOM.normal(0.0, 0.5, 6).astype("float32"),
    "epsilon": np.float32(1e-3),
    "last": np.array([-1]),
}
MOMENTS = """
    mean = ReduceMean (x, last)
    centered = Sub (x, mean)
    squared = Mul (centered, centered)
    variance = ReduceMean (squared, last)
    shifted = Add (variance, epsilon)
    deviation = Sqrt (shifted)
"""
KERAS = """
    inverse = Reciprocal (deviation)
    factor = Mul (inverse, gamma)
    scaled = Mul (x, factor)
    negative = Neg (mean)
    moved = Mul (negative, factor)
    offset = Add (moved, beta)
    y = Add (scaled, offset)
"""
TEXTBOOK = """
    normal = Div (centered, deviation)
    scaled = Mul (gamma, normal)
    y = Add (scaled, beta)
"""


@pytest.mark.parametrize("arithmetic", [KERAS, TEXTBOOK], ids=["keras", "textbook"])
@pytest.mark.parametrize("leading", [(4,), (2, 2)], ids=["matrix", "batch"])
def test_layer_normalization_is_recognized(rewrite, arithmetic, leading):
    shape = ",".join(map(str, (*leading, 6)))
    result = rewrite(
        f"g (float[{shape}] x) => (float[{shape}] y) {{ {MOMENTS} {arithmetic} }}",
        fuse_layer_normalization,
        {"x": X.reshape(*leading, 6)},
        constants=NORM,
        tolerance=2e-6,
    )
    assert (result.changes, result.count("LayerNormalization")) == (1, 1)


def test_normalization_over_another_axis_stays(rewrite):
    result = rewrite(
        f"g (float[4,6] x) => (float[4,6] y) {{ {MOMENTS} {TEXTBOOK} }}",
        fuse_layer_normalization,
        {"x": X},
        constants={**NORM, "last": np.array([0])},
    )
    assert result.changes == 0


def test_normalization_with_the_mean_of_something_else_stays(rewrite):
    result = rewrite(
        f"""g (float[4,6] x, float[4,6] z) => (float[4,6] y) {{
            {MOMENTS.replace("ReduceMean (x,", "ReduceMean (z,")} {TEXTBOOK}
        }}""",
        fuse_layer_normalization,
        {"x": X, "z": X[::-1].copy()},
        constants=NORM,
    )
    assert result.changes == 0


def test_product_and_bias_become_gemm(rewrite):
    result = rewrite(
        "g (float[4,6] x) => (float[4,5] y) { p = MatMul (x, w) y = Add (b, p) }",
        fuse_gemm,
        {"x": X},
        constants={
            "w": RANDOM.normal(size=(6, 5)).astype("float32"),
            "b": RANDOM.normal(size=5).astype("float32"),
        },
        tolerance=1e-6,
    )
    assert result.changes == 1
    assert result.count("Gemm") == 1


def test_a_product_of_batches_stays(rewrite):
    result = rewrite(
        "g (float[2,2,6] x) => (float[2,2,5] y) { p = MatMul (x, w) y = Add (p, b) }",
        fuse_gemm,
        {"x": X.reshape(2, 2, 6)},
        constants={"w": np.ones((6, 5), "float32"), "b": np.ones(5, "float32")},
    )
    assert result.changes == 0


@pytest.mark.parametrize("folded", [True, False], ids=["folded", "transposed in the graph"])
def test_a_tied_output_projection_stands_once_in_the_file(rewrite, folded):
    table = RANDOM.normal(size=(9, 6)).astype("float32")
    turned = "" if folded else "turned = Transpose <perm = [1, 0]> (table)"
    result = rewrite(
        f"""g (int64[N] i, float[4,6] x) => (float[N,6] rows, float[4,9] logits) {{
            rows = Gather (table, i)
            {turned}
            logits = MatMul (x, turned)
        }}""",
        lambda graph: (share_transposed_weights(graph), graph)[0],
        {"i": np.array([8, 0]), "x": X},
        constants={"table": table, **({"turned": table.T.copy()} if folded else {})},
        tolerance=1e-6,
    )
    assert result.changes == 1
    assert result.count("Gemm") == 1
    stored = [t for t in result.after.graph.initializer if len(t.dims) == 2]
    assert len(stored) == 1
