"""The options of the search as inputs of the exported files, and what stands where one is left out.

NumPy only. In SavedModels the integers are of 32 bits, which is what `tf.constant(4)` makes.
"""

import numpy as np

from keras_transformer.search_options import SearchOptions

DEFAULTS = {
    "beam_size": np.array(1, "int64"),  # greedy search
    "num_hypotheses": np.array(1, "int64"),
    "length_penalty": np.array(0.6, "float32"),
    "max_decoding_length": np.array(0, "int64"),  # 0: source length + 50
    "min_decoding_length": np.array(0, "int64"),  # 0: any
    "early_stopping": np.array(True),
    "target_prefix": np.zeros((1, 0), "int64"),  # one row for all: no tokens are given
}


def inputs_of(options: SearchOptions, target_prefix: np.ndarray) -> dict[str, np.ndarray]:
    """Return the inputs that stand for these options.

    Args:
        options: of the search.
        target_prefix: integers `[B or 1, P]`, padded on the right.
    """
    values = [*options.numbers(), target_prefix]
    return {
        name: np.asarray(value).astype(default.dtype)
        for (name, default), value in zip(DEFAULTS.items(), values, strict=True)
    }
