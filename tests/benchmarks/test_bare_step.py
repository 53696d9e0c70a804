"""The loop that the decode benchmark's bound is measured with."""

from collections import Counter

import numpy as np
import onnx
from bare_step import bare_loop, session

from keras_transformer.config import TransformerConfig

CONFIG = TransformerConfig.preset(
    "tiny", num_layers=2, d_model=16, d_ff=32, source_vocab_size=50, target_vocab_size=50
)


def test_the_bare_loop_makes_the_products_of_every_layer_and_the_logits_in_each_step():
    model = bare_loop(CONFIG)
    onnx.checker.check_model(model, full_check=True)
    (loop,) = model.graph.node
    counts = Counter(node.op_type for node in loop.attribute[0].g.node)
    # query-key-value and output; query and output; up and down: in each of two layers; the logits
    assert (counts["Gemm"], counts["MatMul"], counts["LayerNormalization"]) == (13, 8, 6)
    assert counts["ArgMax"] + counts["LogSoftmax"] == 0


def test_its_cache_grows_with_each_step():
    run = session(bare_loop(CONFIG).SerializeToString(), threads=1).run
    ends = [run(None, {"length": np.array(length)})[0] for length in (0, 1, 2, 5)]
    assert all(end.shape == (1, 16) and np.isfinite(end).all() for end in ends)
    assert np.abs(np.diff(ends, axis=0)).max(axis=(1, 2)).min() > 0
