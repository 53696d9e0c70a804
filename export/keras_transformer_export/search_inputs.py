"""The options of the search as inputs of the exported files, and what stands where one is left out.

NumPy only. In SavedModels the integers are of 32 bits, which is what `tf.constant(4)` makes.
"""

import numpy as np

DEFAULTS = {
    "beam_size": np.array(1, "int64"),  # greedy search
    "num_hypotheses": np.array(1, "int64"),
    "length_penalty": np.array(0.6, "float32"),
    "max_decoding_length": np.array(0, "int64"),  # 0: source length + 50
    "min_decoding_length": np.array(0, "int64"),  # 0: any
    "target_prefix": np.zeros((1, 0), "int64"),  # one row for all: no tokens are given
}
