"""The tokenizer as TensorFlow operators, for what runs inside a graph: the twin of `Tokenizer`."""

# TensorFlow has no type hints to be strict about.
# pyright: basic

from __future__ import annotations

import hashlib
from typing import Any

from keras_transformer import backend
from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer.text.unknowns import Unknowns

# First, so that nothing loads it before onnxruntime-extensions.
tf = backend.import_tensorflow()

import tensorflow_text as tf_text  # noqa: E402
from tensorflow_text.python.ops import sentencepiece_tokenizer as tf_text_ops  # noqa: E402


class GraphTokenizer(tf.Module):
    """Texts to ids and back inside of a TensorFlow graph, equal to `Tokenizer` on any text.

    Holds the same SentencePiece model, as bytes, so that a SavedModel with it needs no other file;
    loading that needs `import tensorflow_text` for its operators.

    Args:
        tokenizer: the `Tokenizer` to be equal to.

    Example:
        >>> tokenizer = Tokenizer.train(["a cat", "a dog"], vocab_size=20, model_type="char")
        >>> graph_tokenizer = GraphTokenizer(tokenizer)
        >>> ids = graph_tokenizer.tokenize(tf.constant(["a dog", ""]))
        >>> graph_tokenizer.detokenize(ids).numpy().tolist()
        [b'a dog', b'']
    """

    def __init__(self, tokenizer: Tokenizer):
        super().__init__(name="tokenizer")
        self.pad_id = tokenizer.pad_id
        self.eos_id = tokenizer.eos_id
        self.skipped_ids = tokenizer.skipped_ids
        self.unknowns = tokenizer.unknowns
        self.sentencepiece = tf_text.SentencepieceTokenizer(tokenizer.serialized, add_eos=True)
        self.sentencepiece._model_resource = _NamedModel(tokenizer.serialized)

    def tokenize(self, texts: Any) -> Any:
        """Returns int32 [B, S]: the pieces and the end id of each text, padded on the right.

        Args:
            texts: string [B], UTF-8. U+0000 and bytes that are not UTF-8 are for the caller to
                refuse (`check_texts`).
        """
        pieces = self.sentencepiece.tokenize(texts)
        if self.unknowns is not None:
            pieces = _settled(pieces, self.unknowns)
        return pieces.to_tensor(default_value=self.pad_id)

    def detokenize(self, ids: Any) -> Any:
        """Returns string [B]: the text of each row up to its first end id.

        Args:
            ids: int32 or int64 [B, T]; `Tokenizer.skipped_ids` are left out wherever they are.

        Raises:
            tf.errors.InvalidArgumentError: for an id outside the vocabulary.
        """
        ids = tf.cast(ids, tf.int32)
        ended = tf.cumsum(tf.cast(tf.equal(ids, self.eos_id), tf.int32), axis=1)
        keep = tf.equal(ended, 0)
        for skipped in self.skipped_ids:
            keep = tf.logical_and(keep, tf.not_equal(ids, skipped))
        return self.sentencepiece.detokenize(tf.ragged.boolean_mask(ids, keep))


def _settled(pieces: Any, unknowns: Unknowns) -> Any:
    """Does what `Unknowns.apply` does, to a ragged tensor whose rows all end with the end id."""
    ids = pieces.flat_values
    unknown = tf.gather(tf.constant(unknowns.stretches), ids)
    continues = unknown & tf.concat([[False], unknown[:-1]], 0)
    is_continued = unknown & tf.concat([unknown[1:], [False]], 0)
    settled = tf.where((ids < unknowns.vocab_size) & ~is_continued, ids, unknowns.unk_id)
    lengths = tf.concat([[0], tf.cumsum(tf.cast(~continues, tf.int64))], 0)
    return tf.RaggedTensor.from_row_splits(
        tf.boolean_mask(settled, ~continues), tf.gather(lengths, pieces.row_splits)
    )


class _NamedModel(tf.saved_model.experimental.TrackableResource):
    """The SentencePiece model of a graph, under a name of its own.

    tensorflow-text leaves it without a name. Then a loaded SavedModel takes two models for one,
    and `tf.random.set_seed`, which drops cached kernels, drops the model with them.
    """

    def __init__(self, serialized: bytes):
        super().__init__()
        self._serialized = serialized
        self._name = f"sentencepiece_{hashlib.sha256(serialized).hexdigest()}"
        _ = self.resource_handle  # creates it now, outside of any graph

    def _create_resource(self) -> Any:
        return tf_text_ops.gen_sentencepiece_tokenizer.sentencepiece_op(
            model=self._serialized, shared_name=self._name
        )
