import numpy as np
from tiny_models import tiny_config

from keras_transformer.decoding import reference

CONFIG = tiny_config()  # pad 0, start 2, end 3


def test_the_whole_prefix_is_given_and_the_last_position_is_read():
    prefixes = []

    def forward(sources, targets):
        prefixes.append(np.asarray(targets).tolist())
        logits = np.zeros((*targets.shape, CONFIG.target_vocab_size))
        logits[:, -1, 4 + targets.shape[1]] = 1
        logits[:, :-1, 12] = 9
        return logits

    found = reference.predict(forward, np.array([[5, 3]]), CONFIG, [3])
    assert found.tolist() == [[5, 6, 7]]
    assert prefixes == [[[2]], [[2, 5]], [[2, 5, 6]]]


def test_rows_end_at_their_end_symbol_or_their_limit():
    def forward(sources, targets):
        logits = np.zeros((*targets.shape, CONFIG.target_vocab_size))
        logits[0, -1, [4, CONFIG.eos_id][targets.shape[1] > 2]] = 1
        logits[1, -1, 7] = 1
        logits[:, -1, [CONFIG.pad_id, CONFIG.bos_id]] = 5  # banned
        return logits

    found = reference.predict(forward, np.zeros((2, 1)), CONFIG, [9, 2])
    assert found.tolist() == [[4, 4, 3], [7, 7, 0]]
