"""Masks that are added to scores in the place of scores that are selected."""

import numpy as np
import pytest

from keras_transformer_export.graph_passes.loop_motion import move_invariants_out
from keras_transformer_export.graph_passes.masks import LOWEST, add_masks

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(0.0, 3.0, (3, 4)).astype("float32")
SEEN = np.array([[True, True, False, True], [False, True, False, False], [True] * 4])
HIDDEN = np.float32(-1e9)
ATTEND = "masked = Where (seen, x, low) y = Softmax <axis = -1> (masked)"


def masks(rewrite, nodes=ATTEND, output="float[3,4] y", seen=SEEN, low=HIDDEN, **more):
    """Apply `add_masks` to nodes that read scores x [3, 4], the mask seen, and low."""
    shape = ",".join(map(str, seen.shape))
    return rewrite(
        f"g (float[3,4] x, bool[{shape}] seen) => ({output}) {{ {nodes} }}",
        add_masks,
        {"x": X, "seen": seen},
        constants={"low": low, **more},
    )


@pytest.mark.parametrize("low", [LOWEST, -1e9, np.finfo("float32").min, -np.inf])
@pytest.mark.parametrize("seen", [SEEN, SEEN[:1], SEEN[0]], ids=["each", "shared", "vector"])
def test_a_mask_is_added_and_the_weights_are_the_same(rewrite, seen, low):
    result = masks(rewrite, seen=seen, low=np.float32(low))
    assert result.changes == 1
    assert [node.op_type for node in result.after.graph.node] == ["Where", "Add", "Softmax"]
    assert "x" not in result.after.graph.node[0].input, "the mask is made without the scores"


def test_a_low_value_of_more_dimensions_than_the_scores_keeps_them(rewrite):
    result = masks(rewrite, output="float[1,3,4] y", low=np.full((1, 1, 1), HIDDEN))
    assert result.changes == 1


def test_rows_with_nothing_to_attend_to_give_no_nan(rewrite, run_onnx):
    result = masks(rewrite)
    nothing = {"x": X, "seen": np.zeros((3, 4), bool)}
    for model in (result.before, result.after):
        np.testing.assert_array_equal(run_onnx(model, nothing)[0], np.full((3, 4), 0.25))
    # Scores above the rounding of `low` show through, but each row is a distribution still.
    (weights,) = run_onnx(result.after, {**nothing, "x": 1000 * X})
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-6)


STAYS = {
    "its low value is not low": (
        "masked = Where (seen, x, zero) y = Softmax <axis = -1> (masked)",
        "float[3,4] y",
    ),
    "its low value is not one number": (
        "masked = Where (seen, x, lows) y = Softmax <axis = -1> (masked)",
        "float[3,4] y",
    ),
    "what is seen is low": (
        "masked = Where (seen, low, x) y = Softmax <axis = -1> (masked)",
        "float[3,4] y",
    ),
    "others read it": (f"{ATTEND} z = Neg (masked)", "float[3,4] y, float[3,4] z"),
    "it is an output as well": (ATTEND, "float[3,4] y, float[3,4] masked"),
    "no softmax reads it": ("masked = Where (seen, x, low) y = Neg (masked)", "float[3,4] y"),
    "it selects other numbers than float32": (
        "d = Cast <to = 11> (x) masked = Where (seen, d, double) y = Softmax <axis = -1> (masked)",
        "double[3,4] y",
    ),
}


@pytest.mark.parametrize("nodes", STAYS.values(), ids=STAYS.keys())
def test_a_where_that_is_not_the_mask_of_a_softmax_stays(rewrite, nodes):
    result = masks(
        rewrite,
        *nodes,
        zero=np.float32(0),
        lows=np.full((3, 1), HIDDEN),
        double=np.float64(HIDDEN),
    )
    assert (result.changes, result.count("Where"), result.count("Add")) == (0, 1, 0)


def test_the_mask_of_every_step_of_a_loop_is_made_in_front_of_it(rewrite):
    made_inside = []

    def passes(graph):
        changes = add_masks(graph)
        made_inside.extend(graph.region_of(node) is not graph.top for node in graph.nodes("Where"))
        return changes + move_invariants_out(graph)

    result = rewrite(
        """g (float[3,4] x, bool[3,4] seen, int64 steps) => (float[3,4] y) {
            y = Loop (steps, go, x) <body = step
                (int64 i, bool c, float[3,4] state) => (bool c_out, float[3,4] state_out) {
                c_out = Identity (c)
                masked = Where (seen, state, low)
                weights = Softmax <axis = -1> (masked)
                state_out = Add (weights, state)
            }>
        }""",
        passes,
        *({"x": X, "seen": SEEN, "steps": np.array(steps)} for steps in (0, 1, 5)),
        constants={"go": np.array(True), "low": HIDDEN},
    )
    assert made_inside == [True]
    assert (result.changes, result.count("Where"), result.body_count("Where")) == (2, 1, 0)
    assert result.body_count("Softmax") == 1
