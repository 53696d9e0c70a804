import numpy as np
import onnx

from keras_transformer_export.graph_passes import Graph
from keras_transformer_export.graph_passes.local_weights import (
    make_weights_local,
    make_weights_shared,
)

LOOP_IN_LOOP = """
g (float[N,16] start, int64 steps, bool yes) => (float[N,16] result) {
    first = MatMul (start, weight)
    result = Loop (steps, yes, first) <body = outer
        (int64 i, bool c, float[N,16] s) => (bool c1, float[N,16] s2) {
        c1 = Identity (c)
        s1 = Gemm (s, weight)
        s2 = Loop (steps, c, s1) <body = inner
            (int64 j, bool d, float[N,16] t) => (bool d1, float[N,16] t3) {
            d1 = Identity (d)
            t1 = Gemm <transB = 1> (t, weight)
            t2 = MatMul (t1, weight)
            t3 = Tanh (t2)
        }>
    }>
}"""
WEIGHT = {"weight": np.random.default_rng(0).normal(size=(16, 16)).astype("float32") / 4}


def feed(rows):
    start = np.random.default_rng(1).normal(size=(rows, 16)).astype("float32")
    return {"start": start, "steps": np.array(2), "yes": np.array(True)}


def test_a_body_within_a_body_gets_its_weights_by_a_reshape_of_its_own(rewrite):
    found = rewrite(LOOP_IN_LOOP, make_weights_local, feed(3), feed(0), constants=WEIGHT)
    assert found.changes == 2
    assert found.body_count("Reshape") == found.count("Reshape") == 1
    stored = [t for t in found.after.graph.initializer if t.dims == [16, 16]]
    assert len(stored) == 1


def test_small_weights_stay_where_they_are(rewrite):
    small = {"weight": np.eye(4, dtype="float32")}
    text = LOOP_IN_LOOP.replace("16", "4")
    assert rewrite(text, make_weights_local, constants=small).changes == 0


def test_it_can_be_taken_back(rewrite):
    found = rewrite(LOOP_IN_LOOP, make_weights_local, constants=WEIGHT)
    graph = Graph(found.after)
    assert make_weights_shared(graph) == 1
    again = graph.to_model()
    onnx.checker.check_model(again, full_check=True)
    assert not Graph(again).nodes("Reshape")
    assert make_weights_local(Graph(again)) == 2


def test_the_runtime_has_a_constant_of_the_body(rewrite, tmp_path):
    """What the pass is for: ONNX Runtime computes the Reshape when it loads the file."""
    import onnxruntime

    found = rewrite(LOOP_IN_LOOP, make_weights_local, constants=WEIGHT)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        found.after.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    outer = next(n for n in onnx.load(tmp_path / "loaded.onnx").graph.node if n.op_type == "Loop")
    inner = next(n for n in outer.attribute[0].g.node if n.op_type == "Loop").attribute[0].g
    assert not [node for node in inner.node if node.op_type == "Reshape"]
    assert [16, 16] in [list(tensor.dims) for tensor in inner.initializer]
