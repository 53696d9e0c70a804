"""What `layers.py` and `training.py` compare: our model and its peers, each in its own process.

All are one model of the same `Sizes`: post-norm, float32, target tokens tied to the output, dropout
on embeddings, attention weights and sublayers, cross entropy with label smoothing, Adam.
Peers import nothing of ours, so that nothing of ours changes them.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

SMOOTHING, RATE = 0.1, 1e-4
EPSILON = 1e-5  # of every layer normalisation
MATRIX = 2048  # side of the matrices whose product is the machine's speed
WORK = ("train", "forward")


@dataclass(frozen=True)
class Sizes:
    """A model and its batch.

    Attributes:
        layers: of the encoder and of the decoder, each.
        vocabulary: tokens of either side.
        batch, source, target: rows, and positions of a row.
        dropout: on embeddings, attention weights and sublayers.
        shared: one table for source, target and output; False: target and output only.
    """

    layers: int = 3
    d_model: int = 256
    d_ff: int = 1024
    heads: int = 4
    vocabulary: int = 8000
    batch: int = 64
    source: int = 32
    target: int = 32
    dropout: float = 0.1
    shared: bool = False

    def __str__(self) -> str:
        """What stands above a table."""
        return (
            f"{self.layers} + {self.layers} layers, {self.d_model}/{self.d_ff}, {self.heads} heads,"
            f" {self.vocabulary:,} tokens, {self.batch} rows of {self.source} + {self.target}"
        )


SIZES = Sizes()
Step = Callable[[], float]
Maker = Callable[[int, Sizes], tuple[int, dict[str, Step]]]  # threads -> parameters and steps


def floating_point_operations(work: str, sizes: Sizes = SIZES) -> int:
    """Return those of all matrix products, a multiplication and an addition each counting one.

    Causal attention counts whole, as all contestants compute it. In training each product has two
    more behind it, one for the gradient of either factor.
    """
    d_model, length = sizes.d_model, sizes.source
    sources, targets = sizes.batch * length, sizes.batch * sizes.target
    feed_forward = 2 * d_model * sizes.d_ff
    encoder = sources * (4 * d_model**2 + feed_forward) + 2 * sources * length * d_model
    decoder = targets * (6 * d_model**2 + feed_forward) + sources * 2 * d_model**2
    decoder += 2 * targets * (sizes.target + length) * d_model
    products = sizes.layers * (encoder + decoder) + targets * d_model * sizes.vocabulary
    return 2 * products * (3 if work == "train" else 1)


def batch(sizes: Sizes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return full rows of source, target_in and target_out: no padding, but masks are made."""
    chance = np.random.default_rng(0)
    source = chance.integers(4, sizes.vocabulary, (sizes.batch, sizes.source), "int32")
    target = chance.integers(4, sizes.vocabulary, (sizes.batch, sizes.target + 1), "int32")
    return source, target[:, :-1], target[:, 1:]


def sinusoids(length: int, d_model: int) -> np.ndarray:
    """Return position vectors `[length, D]`."""
    angles = np.arange(length)[:, None] / 10000 ** (np.arange(0, d_model, 2) / d_model)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, d_model)


def matrix_product(threads: int, sizes: Sizes) -> tuple[int, dict[str, Step]]:
    """Return a float32 matrix product as the step, whatever the work."""
    matrix = np.random.default_rng(0).normal(size=(MATRIX, MATRIX)).astype("float32")

    def multiply() -> float:
        return float((matrix @ matrix)[0, 0])

    return 0, dict.fromkeys(WORK, multiply)


def ours(threads: int, sizes: Sizes) -> tuple[int, dict[str, Step]]:
    """Return our model with the package's own loss."""
    return keras_steps(our_model(sizes), sizes)


def our_model(sizes: Sizes) -> Any:
    """Return our model, compiled."""
    import keras_transformer as kt

    config = kt.TransformerConfig(
        source_vocab_size=sizes.vocabulary,
        target_vocab_size=sizes.vocabulary,
        num_encoder_layers=sizes.layers,
        num_decoder_layers=sizes.layers,
        d_model=sizes.d_model,
        d_ff=sizes.d_ff,
        num_heads=sizes.heads,
        layer_norm_epsilon=EPSILON,
        dropout=sizes.dropout,
        attention_dropout=sizes.dropout,
        embeddings="shared" if sizes.shared else "tied",
    )
    return compiled(kt.Transformer(config), kt.losses.SmoothedCrossEntropy(SMOOTHING))


def keras_hub(threads: int, sizes: Sizes) -> tuple[int, dict[str, Step]]:
    """Return KerasHub's layers put together as its users would."""
    return keras_steps(keras_hub_model(sizes), sizes)


def keras_hub_model(sizes: Sizes) -> Any:
    """Return KerasHub's layers as a model of fixed lengths, compiled."""
    import keras
    import keras_hub.layers as hub

    def tokens() -> Any:
        initializer = keras.initializers.RandomNormal(stddev=sizes.d_model**-0.5)
        return hub.ReversibleEmbedding(
            sizes.vocabulary, sizes.d_model, embeddings_initializer=initializer
        )

    def embed(table: Any, ids: Any) -> Any:
        x = table(ids) * sizes.d_model**0.5
        return keras.layers.Dropout(sizes.dropout)(x + hub.SinePositionEncoding()(x))

    options = {
        "intermediate_dim": sizes.d_ff,
        "num_heads": sizes.heads,
        "dropout": sizes.dropout,
        "layer_norm_epsilon": EPSILON,
    }
    source = keras.Input((sizes.source,), dtype="int32")
    target_in = keras.Input((sizes.target,), dtype="int32")
    real = source != 0
    table = tokens()
    memory = embed(table if sizes.shared else tokens(), source)
    for _ in range(sizes.layers):
        memory = hub.TransformerEncoder(**options)(memory, padding_mask=real)
    x = embed(table, target_in)
    for _ in range(sizes.layers):
        x = hub.TransformerDecoder(**options)(x, memory, encoder_padding_mask=real)
    model = keras.Model((source, target_in), table(x, reverse=True))
    return compiled(model, keras_cross_entropy)


def keras_cross_entropy(target_out: Any, logits: Any) -> Any:
    """Return what our `SmoothedCrossEntropy` computes; Keras's own would want one-hot targets.

    Keras takes the mean of it over all positions, padded ones included.
    """
    from keras import ops

    target_out = ops.cast(target_out, "int32")  # Keras hands them on as floats
    losses = ops.sparse_categorical_crossentropy(target_out, logits, from_logits=True)
    right = ops.take_along_axis(logits, ops.expand_dims(target_out, -1), axis=-1)
    losses += SMOOTHING * (ops.squeeze(right, -1) - ops.mean(logits, axis=-1))
    real = ops.cast(target_out != 0, "float32")
    return losses * real / ops.mean(real)


def compiled(model: Any, loss: Any) -> Any:
    """Return the model ready to be trained, with XLA where the environment says so."""
    import keras

    keras.utils.set_random_seed(0)
    adam = keras.optimizers.Adam(RATE, beta_2=0.98, epsilon=1e-9)
    model.compile(adam, loss, jit_compile=os.environ["JIT_COMPILE"] == "1")
    return model


def keras_steps(model: Any, sizes: Sizes) -> tuple[int, dict[str, Step]]:
    """Return `train_on_batch`, and a forward pass compiled in the same way."""
    import keras

    source, target_in, target_out = batch(sizes)
    inputs = (source, target_in)

    def train() -> float:
        return float(np.ravel(model.train_on_batch(inputs, target_out))[0])

    if keras.backend.backend() == "jax":
        import jax

        @jax.jit
        def predict(trained: Any, other: Any) -> Any:
            return model.stateless_call(trained, other, inputs, training=False)[0]

        def forward() -> float:
            trained = [variable.value for variable in model.trainable_variables]
            other = [variable.value for variable in model.non_trainable_variables]
            return float(predict(trained, other)[0, 0, 0])
    else:
        import tensorflow as tf

        compiled = tf.function(
            lambda *ids: model(ids, training=False), jit_compile=model.jit_compile
        )
        ids = [tf.constant(array) for array in inputs]

        def forward() -> float:
            return float(compiled(*ids)[0, 0, 0])

    return model.count_params(), {"train": train, "forward": forward}


def torch_transformer(threads: int, sizes: Sizes) -> tuple[int, dict[str, Step]]:
    """Return `torch.nn.Transformer` between the same embeddings and output, run eagerly."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    module = torch.nn.Transformer(
        sizes.d_model,
        sizes.heads,
        sizes.layers,
        sizes.layers,
        sizes.d_ff,
        sizes.dropout,
        layer_norm_eps=EPSILON,
        batch_first=True,
    )
    module.encoder.norm = module.decoder.norm = None  # post-norm needs none, and no other has any
    layers: list[Any] = [*module.encoder.layers, *module.decoder.layers]
    for layer in layers:
        layer.dropout.p = 0.0  # inside the feed-forward network, where no other has one
    tables = [torch.nn.Embedding(sizes.vocabulary, sizes.d_model) for _ in range(2)]
    for table in tables:
        torch.nn.init.normal_(table.weight, std=sizes.d_model**-0.5)
    vectors = sinusoids(max(sizes.source, sizes.target), sizes.d_model)
    positions = torch.from_numpy(vectors.astype("float32"))
    source, target_in, target_out = (torch.from_numpy(ids.astype("int64")) for ids in batch(sizes))
    future = torch.ones(sizes.target, sizes.target, dtype=torch.bool).triu(1)

    def embed(table: Any, ids: Any) -> Any:
        x = table(ids) * sizes.d_model**0.5 + positions[: ids.shape[1]]
        return functional.dropout(x, sizes.dropout, module.training)

    def logits() -> Any:
        pads = source == 0
        x = module(
            embed(tables[0], source),
            embed(tables[1], target_in),
            tgt_mask=future,
            src_key_padding_mask=pads,
            memory_key_padding_mask=pads,
            tgt_is_causal=True,
        )
        return functional.linear(x, tables[1].weight)

    weights = [*module.parameters(), *(table.weight for table in tables)]
    adam = torch.optim.Adam(weights, RATE, betas=(0.9, 0.98), eps=1e-9, fused=True)

    def train() -> float:
        module.train()
        adam.zero_grad()
        loss = functional.cross_entropy(
            logits().flatten(0, 1), target_out.flatten(), label_smoothing=SMOOTHING
        )
        loss.backward()
        adam.step()
        return loss.item()

    def forward() -> float:
        module.eval()
        with torch.inference_mode():
            return logits()[0, 0, 0].item()

    return sum(weight.numel() for weight in weights), {"train": train, "forward": forward}


def on(backend: str, jit_compile: bool) -> dict[str, str]:
    """Return the environment of a Keras process."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "ABSL_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "ERROR"}
    plain = {"JAX_TRACEBACK_FILTERING": "off"}  # an error's last line is then the error
    return {"KERAS_BACKEND": backend, "JIT_COMPILE": str(int(jit_compile)), **quiet, **plain}


# name: what makes it, and the environment it is made in
CONTESTANTS: dict[str, tuple[Maker, dict[str, str]]] = {
    "matrix product": (matrix_product, {}),
    "ours, TensorFlow": (ours, on("tensorflow", False)),
    "ours, TensorFlow, jit": (ours, on("tensorflow", True)),
    "ours, JAX": (ours, on("jax", True)),
    "KerasHub, TensorFlow": (keras_hub, on("tensorflow", False)),
    "KerasHub, TensorFlow, jit": (keras_hub, on("tensorflow", True)),
    "KerasHub, JAX": (keras_hub, on("jax", True)),
    # Its threads would spin while they wait: four times the time where a neighbour holds a core.
    "torch.nn.Transformer": (torch_transformer, {"OMP_WAIT_POLICY": "PASSIVE"}),
}
NAMES = "only these (the matrix product always): " + ", ".join(CONTESTANTS)
