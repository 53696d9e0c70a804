"""The Transformer as a functional model: a graph of its layers, to be drawn and summed up."""

from keras_transformer import backend

backend.start()

import keras
from keras import layers

from keras_transformer.layers.dropout import Dropout


class Logits(layers.Layer):
    """The last step of a `Transformer`, with its weights: `[B, T, D]` -> float32 `[B, T, V]`.

    A projection and a bias count as weights of this layer; a matrix that is tied counts where it
    is the embedding.
    """

    def __init__(self, model, **kwargs):
        super().__init__(**kwargs)
        self.projection = model.output_projection
        self.bias = model.output_bias if model.config.output_bias else None
        self.to_logits = model.to_logits
        self.vocab_size = model.config.target_vocab_size

    def call(self, x):
        return self.to_logits(x)

    def compute_output_spec(self, x):
        return keras.KerasTensor((*x.shape[:-1], self.vocab_size), dtype="float32")


def functional_model(model):
    """Return a functional model of the layers of a `Transformer`; see `Transformer.functional`."""
    source_ids = keras.Input((None,), dtype="int32", name="source_ids")
    target_in = keras.Input((None,), dtype="int32", name="target_in")
    mask = _box("source_mask", model.source_mask, ids=source_ids)
    memory = _dropout(model, "source_dropout")(model.source_vectors(source_ids))
    memory = _stack(model.encoder, x=memory, attention_mask=mask)
    x = _dropout(model, "target_dropout")(model.target_vectors(target_in))
    x = _stack(model.decoder, x=x, memory=memory, attention_mask=mask)
    logits = Logits(model, name="logits", dtype=model.dtype_policy)(x)
    return keras.Model([source_ids, target_in], logits, name=f"{model.name}_functional")


def _dropout(model, name):
    """Make a dropout of its own for each side, so that a drawing keeps the two apart."""
    return Dropout(model.embedding_dropout.rate, name=name, dtype=model.dtype_policy)


def _stack(stack, **inputs):
    """Put the layers of an encoder or decoder into one box."""

    def run(x, *others):
        for layer in stack.layers:
            x = layer(x, *others)
        return x if stack.norm is None else stack.norm(x)

    return _box(stack.name, run, **inputs)


def _box(name, run, **inputs):
    """Run a function inside a nested model, which `expand_nested` opens."""
    own = [
        keras.Input(batch_shape=x.shape, dtype=x.dtype, name=its_name)
        for its_name, x in inputs.items()
    ]
    nested = keras.Model(own, run(*own), name=name)
    return nested(list(inputs.values()))
