"""Rewrites of ONNX graphs, made for what tf2onnx leaves of a decoding loop: ONNX and NumPy only.

Each pass is a function `(graph) -> number of changes` in a file of its own, keeps what the graph
computes, and knows nothing of a Transformer. `PASSES` is the order in which they help each other.
"""

from onnx import ModelProto

from keras_transformer_export.graph_passes.argmax import (
    drop_negative_zero_test,
    split_long_searches,
)
from keras_transformer_export.graph_passes.common import merge_equal_nodes
from keras_transformer_export.graph_passes.comparisons import compare_integers
from keras_transformer_export.graph_passes.constants import fold_constants
from keras_transformer_export.graph_passes.dead_code import remove_dead_code
from keras_transformer_export.graph_passes.erfc import expand_erfc
from keras_transformer_export.graph_passes.graph import Graph
from keras_transformer_export.graph_passes.identity import remove_identities
from keras_transformer_export.graph_passes.indices import drop_index_guards
from keras_transformer_export.graph_passes.layer_norm import fuse_layer_normalization
from keras_transformer_export.graph_passes.linear import fuse_gemm, share_transposed_weights
from keras_transformer_export.graph_passes.local_weights import make_weights_local
from keras_transformer_export.graph_passes.loop_motion import move_invariants_out
from keras_transformer_export.graph_passes.loop_states import hoist_loop_states
from keras_transformer_export.graph_passes.masks import add_masks
from keras_transformer_export.graph_passes.no_ops import remove_no_ops
from keras_transformer_export.graph_passes.reshapes import merge_reshapes
from keras_transformer_export.graph_passes.residuals import fold_residuals
from keras_transformer_export.graph_passes.scales import fold_scales
from keras_transformer_export.graph_passes.selects import restore_where

PASSES = (
    expand_erfc,
    remove_identities,
    hoist_loop_states,
    fold_constants,
    restore_where,
    drop_negative_zero_test,
    compare_integers,
    drop_index_guards,
    remove_no_ops,
    remove_dead_code,
    add_masks,
    move_invariants_out,
    fold_constants,
    merge_equal_nodes,
    fuse_layer_normalization,
    remove_dead_code,
    fuse_gemm,
    merge_reshapes,
    fold_scales,
    fold_residuals,
    split_long_searches,
    share_transposed_weights,
    merge_equal_nodes,
    remove_dead_code,
    make_weights_local,
)

__all__ = ["PASSES", "Graph", "optimize"]


def optimize(model: ModelProto) -> tuple[ModelProto, list[tuple[str, int]]]:
    """Apply all passes.

    Args:
        model: an ONNX model; it is not changed.

    Returns:
        The rewritten model, and for each pass its name and number of changes.
    """
    graph = Graph(model)
    report = []
    for rewrite in PASSES:
        if rewrite is fuse_gemm:
            graph.infer()  # layer normalizations hide the ranks of what follows them
        report.append((rewrite.__name__, rewrite(graph)))
    return graph.to_model(), report
