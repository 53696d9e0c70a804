"""What every encoder-decoder here is to `model.fit`, to the search and to `Translator`."""

import json

from keras_transformer import backend

backend.start()

import keras
import numpy as np
from keras import ops

from keras_transformer.layers.shapes import check_equal

CONFIG = "config"  # beside the variables in a file of weights


class SequenceModel(keras.Model):
    """A Keras model from `(source_ids, target_in)` to logits.

    A subclass has `config`, a `SequenceConfig`, and besides `call` the parts that decoding reads:
    `project_memory(source_ids)`, `init_cache(memory, capacity)` and
    `decode_step(ids, step, cache, memory)`.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._loss_per_token = keras.metrics.Mean(name="loss_per_token")

    def unpack(self, inputs):
        """Return `(source_ids, target_in)`.

        Raises:
            ValueError: something else than two inputs, or not both of rank 2.
        """
        if not isinstance(inputs, (tuple, list)) or len(inputs) != 2:
            raise ValueError(
                "inputs must be a pair (source_ids [B, S], target_in [B, T]). "
                f"Received: {type(inputs).__name__}"
            )
        shapes = [tuple(ids.shape) if hasattr(ids, "shape") else np.shape(ids) for ids in inputs]
        if any(len(shape) != 2 or shape[1] == 0 for shape in shapes):
            raise ValueError(
                "inputs must be ids of two axes, source_ids [B, S] and target_in [B, T], with at "
                f"least one position. Received: shapes {shapes[0]} and {shapes[1]}"
            )
        check_equal(0, source_ids=shapes[0], target_in=shapes[1])
        return inputs

    @property
    def tokens_seen(self):
        """Real target tokens of the current epoch of `fit` so far."""
        return int(ops.convert_to_numpy(self._loss_per_token.count + 0))  # a sum over devices

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if self._is_a_mean_over_tokens:
            tokens = ops.sum(self.loss.position_weights(y, sample_weight))
            everywhere, replicas = backend.over_replicas(tokens)
            if replicas == 1:
                self._loss_per_token.update_state(loss, sample_weight=tokens)
            else:  # Keras has divided the mean of each replica by their number
                loss = loss * replicas
                self._loss_per_token.update_state(loss, sample_weight=tokens)
                loss = loss * tokens / ops.maximum(everywhere, 1)
        return loss

    def _symbolic_build(self, iterator=None, data_batch=None):
        if data_batch is not None:  # under tf.distribute a mean over devices: ids became floats
            inputs, target_out, weights = keras.utils.unpack_x_y_sample_weight(data_batch)
            inputs = tuple(ops.cast(ids, "int32") for ids in inputs)
            data_batch = inputs, ops.cast(target_out, "int32"), weights
        super()._symbolic_build(iterator, data_batch)

    def get_metrics_result(self):
        # Keras averages the loss over rows; batches hold different numbers of real tokens
        results = super().get_metrics_result()
        loss_per_token = results.pop("loss_per_token")
        return {**results, "loss": loss_per_token} if self._is_a_mean_over_tokens else results

    @property
    def _is_a_mean_over_tokens(self):
        reduction = getattr(self.loss, "reduction", None)
        return hasattr(self.loss, "position_weights") and reduction == "mean_with_sample_weight"

    def export(self, filepath, format="tf_saved_model", *, input_signature=None, **options):
        """Write the forward pass with Keras's own export: int32 ids in, logits out.

        Arguments are those of `keras.Model.export`. To write a whole translator, text in and text
        out, use `keras_transformer.export`.
        """
        if input_signature is None:  # Keras would guess floats
            names = ("source_ids", "target_in")
            input_signature = [
                [keras.InputSpec(shape=(None, None), dtype="int32", name=name) for name in names]
            ]
        super().export(filepath, format, input_signature=input_signature, **options)

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store[CONFIG] = np.frombuffer(self.config.model_dump_json().encode(), "uint8")

    def load_own_variables(self, store):
        """Load the variables of a file, after a look at the model it was saved from.

        Raises:
            ValueError: that model has another architecture; the fields that differ are named.
        """
        names = list(store.keys())
        if CONFIG in names:
            saved = json.loads(np.asarray(store[CONFIG]).tobytes())
            own = self.config.model_dump(mode="json")
            changed = [
                f"{name} is {own.get(name)!r}, of the file {saved.get(name)!r}"
                for name in own | saved
                if own.get(name) != saved.get(name) and "dropout" not in name
            ]
            if changed:
                raise ValueError(
                    "The weights must be those of a model with this architecture. Make the model "
                    f"with the configuration of the file. Received: {'; '.join(changed)}"
                )
        super().load_own_variables({name: store[name] for name in names if name != CONFIG})

    def compute_output_shape(self, input_shape):
        return (*input_shape[1], self.config.target_vocab_size)

    def get_config(self):
        return {**super().get_config(), "config": self.config.model_dump()}
