import numpy as np

from keras_transformer_export.graph_passes.dead_code import remove_dead_code
from keras_transformer_export.graph_passes.loop_motion import move_invariants_out
from keras_transformer_export.graph_passes.loop_states import hoist_loop_states

FEEDS = [{"x": np.array([[1.0, -2.0]], "float32"), "steps": np.array(steps)} for steps in (0, 1, 5)]
WEIGHT = {"w": np.array([[0.5, 1.0], [2.0, -1.0]], "float32"), "go": np.array(True)}


def test_weights_carried_through_a_loop_are_read_from_outside(rewrite):
    result = rewrite(
        """g (float[1,2] x, int64 steps) => (float[1,2] y, float[2,2] weight_out) {
            y, weight_out = Loop (steps, go, x, w) <body = step
                (int64 i, bool c, float[1,2] state, float[2,2] weight)
                => (bool c_out, float[1,2] state_out, float[2,2] weight_same) {
                c_out = Identity (c)
                state_out = MatMul (state, weight)
                weight_same = Identity (weight)
            }>
        }""",
        lambda graph: _with_identities_removed(graph, hoist_loop_states),
        *FEEDS,
        constants=WEIGHT,
    )
    assert result.changes == 1
    loop = next(node for node in result.after.graph.node if node.op_type == "Loop")
    assert list(loop.input) == ["steps", "go", "x"]
    assert len(loop.attribute[0].g.input) == 3


def test_a_state_the_loop_does_change_stays_carried(rewrite):
    result = rewrite(
        """g (float[1,2] x, int64 steps) => (float[1,2] y, float[1,2] z) {
            y, z = Loop (steps, go, x, x) <body = step
                (int64 i, bool c, float[1,2] a, float[1,2] b)
                => (bool c_out, float[1,2] b_out, float[1,2] a_out) {
                c_out = Identity (c)
                b_out = Neg (b)
                a_out = Add (a, a)
            }>
        }""",
        hoist_loop_states,
        *FEEDS,
        constants={"go": np.array(True)},
    )
    assert result.changes == 0


def test_equal_work_of_every_step_moves_in_front_of_the_loop(rewrite):
    result = rewrite(
        """g (float[1,2] x, int64 steps) => (float[1,2] y, float[K,1,2] all) {
            y, all = Loop (steps, go, x) <body = step
                (int64 i, bool c, float[1,2] state)
                => (bool c_out, float[1,2] state_out, float[1,2] seen) {
                turned = Transpose <perm = [1, 0]> (w)
                scaled = Mul (turned, x)
                state_out = MatMul (state, scaled)
                seen = Identity (state)
                c_out = Identity (c)
            }>
        }""",
        move_invariants_out,
        *FEEDS,
        constants=WEIGHT,
    )
    assert result.changes == 2
    assert result.body_count("Transpose") == result.body_count("Mul") == 0
    assert result.body_count("MatMul") == 1


def test_unread_nodes_and_states_are_removed(rewrite):
    result = rewrite(
        """g (float[1,2] x, int64 steps) => (float[1,2] y) {
            unread = Exp (x)
            y, ignored = Loop (steps, go, x, unread) <body = step
                (int64 i, bool c, float[1,2] state, float[1,2] never)
                => (bool c_out, float[1,2] state_out, float[1,2] never_out) {
                c_out = Identity (c)
                state_out = Add (state, state)
                never_out = Sin (state)
            }>
        }""",
        remove_dead_code,
        *FEEDS,
        constants={"go": np.array(True)},
    )
    assert result.changes == 3
    assert result.count("Exp") == result.count("Sin") == 0


def test_a_loop_that_nothing_reads_goes_with_its_body(rewrite):
    result = rewrite(
        """g (float[1,2] x, int64 steps) => (float[1,2] y) {
            y = Neg (x)
            unread = Loop (steps, go, x) <body = step
                (int64 i, bool c, float[1,2] state) => (bool c_out, float[1,2] state_out) {
                c_out = Identity (c)
                state_out = Add (state, w)
            }>
        }""",
        remove_dead_code,
        *FEEDS,
        constants={"go": np.array(True), "w": np.ones((1, 2), "float32")},
    )
    assert [node.op_type for node in result.after.graph.node] == ["Neg"]
    assert not result.after.graph.initializer


def _with_identities_removed(graph, one_pass):
    from keras_transformer_export.graph_passes.identity import remove_identities

    remove_identities(graph)
    return one_pass(graph)
