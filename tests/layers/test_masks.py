import numpy as np
import pytest

from keras_transformer.layers import causal_mask, padding_mask

pytestmark = pytest.mark.jax


def test_padding_mask_is_true_where_a_token_stands():
    mask = padding_mask(np.array([[5, 3, 0], [7, 8, 3], [0, 0, 0]]), pad_id=0)
    assert np.asarray(mask).tolist() == [
        [[True, True, False]],
        [[True, True, True]],
        [[False, False, False]],
    ]


def test_padding_mask_knows_only_the_pad_id_it_is_given():
    mask = padding_mask(np.array([[0, 1, 9]]), pad_id=9)
    assert np.asarray(mask).tolist() == [[[True, True, False]]]


def test_causal_mask_sees_itself_and_the_past():
    assert np.asarray(causal_mask(3)).tolist() == [
        [[True, False, False], [True, True, False], [True, True, True]]
    ]


def test_masks_combine_to_an_attention_mask_of_every_query():
    ids = np.array([[4, 0, 5], [4, 4, 0]])
    both = np.asarray(causal_mask(3)) & np.asarray(padding_mask(ids, 0))
    assert both.shape == (2, 3, 3)
    assert both[0].tolist() == [[True, False, False], [True, False, False], [True, False, True]]


@pytest.mark.parametrize("length", [-1, 2.5])
def test_a_length_that_is_none_is_refused(length):
    with pytest.raises(ValueError, match=f"length must be an integer from 0.*length={length}"):
        causal_mask(length)
