"""What `layers.py` compares: our model and its peers, each made in a process of its own.

All are one model: 3 + 3 layers, 256/1024, 4 heads, 8000 tokens tied to the output, post-norm,
float32, dropout on embeddings, attention weights and sublayers, cross entropy with label smoothing,
Adam.
Peers import nothing of ours, so that nothing of ours changes them.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

LAYERS, D_MODEL, D_FF, HEADS, VOCAB = 3, 256, 1024, 4, 8000
BATCH, SOURCE, TARGET = 64, 32, 32
DROPOUT, SMOOTHING, RATE = 0.1, 0.1, 1e-4
EPSILON = 1e-5  # of every layer normalisation
MATRIX = 2048  # side of the matrices whose product is the machine's speed
WORK = ("train", "forward")

Step = Callable[[], float]
Maker = Callable[[int], tuple[int, dict[str, Step]]]  # threads -> parameters and steps


def floating_point_operations(work: str) -> int:
    """Return those of all matrix products, a multiplication and an addition each counting one.

    Causal attention counts whole, as all contestants compute it. In training each product has two
    more behind it, one for the gradient of either factor.
    """
    sources, targets = BATCH * SOURCE, BATCH * TARGET
    feed_forward = 2 * D_MODEL * D_FF
    encoder = sources * (4 * D_MODEL**2 + feed_forward) + 2 * sources * SOURCE * D_MODEL
    decoder = targets * (6 * D_MODEL**2 + feed_forward) + sources * 2 * D_MODEL**2
    decoder += 2 * targets * (TARGET + SOURCE) * D_MODEL
    products = LAYERS * (encoder + decoder) + targets * D_MODEL * VOCAB
    return 2 * products * (3 if work == "train" else 1)


def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return full rows of source, target_in and target_out: no padding, but masks are made."""
    chance = np.random.default_rng(0)
    source = chance.integers(4, VOCAB, (BATCH, SOURCE), "int32")
    target = chance.integers(4, VOCAB, (BATCH, TARGET + 1), "int32")
    return source, target[:, :-1], target[:, 1:]


def sinusoids(length: int) -> np.ndarray:
    """Return position vectors `[length, D]`."""
    angles = np.arange(length)[:, None] / 10000 ** (np.arange(0, D_MODEL, 2) / D_MODEL)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, D_MODEL)


def matrix_product(threads: int) -> tuple[int, dict[str, Step]]:
    """Return a float32 matrix product as the step, whatever the work."""
    matrix = np.random.default_rng(0).normal(size=(MATRIX, MATRIX)).astype("float32")

    def multiply() -> float:
        return float((matrix @ matrix)[0, 0])

    return 0, dict.fromkeys(WORK, multiply)


def ours(threads: int) -> tuple[int, dict[str, Step]]:
    """Return our model with the package's own loss."""
    import keras_transformer as kt

    config = kt.TransformerConfig(
        source_vocab_size=VOCAB,
        target_vocab_size=VOCAB,
        num_encoder_layers=LAYERS,
        num_decoder_layers=LAYERS,
        d_model=D_MODEL,
        d_ff=D_FF,
        num_heads=HEADS,
        layer_norm_epsilon=EPSILON,
        dropout=DROPOUT,
        attention_dropout=DROPOUT,
    )
    return keras_steps(kt.Transformer(config), kt.losses.SmoothedCrossEntropy(SMOOTHING))


def keras_hub(threads: int) -> tuple[int, dict[str, Step]]:
    """Return KerasHub's layers put together as its users would."""
    import keras
    import keras_hub.layers as hub

    def tokens() -> Any:
        initializer = keras.initializers.RandomNormal(stddev=D_MODEL**-0.5)
        return hub.ReversibleEmbedding(VOCAB, D_MODEL, embeddings_initializer=initializer)

    def embed(table: Any, ids: Any) -> Any:
        x = table(ids) * D_MODEL**0.5
        return keras.layers.Dropout(DROPOUT)(x + hub.SinePositionEncoding()(x))

    options = {"intermediate_dim": D_FF, "num_heads": HEADS, "dropout": DROPOUT}
    options["layer_norm_epsilon"] = EPSILON
    source = keras.Input((SOURCE,), dtype="int32")
    target_in = keras.Input((TARGET,), dtype="int32")
    real = source != 0
    memory = embed(tokens(), source)
    for _ in range(LAYERS):
        memory = hub.TransformerEncoder(**options)(memory, padding_mask=real)
    table = tokens()
    x = embed(table, target_in)
    for _ in range(LAYERS):
        x = hub.TransformerDecoder(**options)(x, memory, encoder_padding_mask=real)
    model = keras.Model((source, target_in), table(x, reverse=True))
    return keras_steps(model, keras_cross_entropy)


def keras_cross_entropy(target_out: Any, logits: Any) -> Any:
    """Return what our `SmoothedCrossEntropy` computes; Keras's own would want one-hot targets."""
    from keras import ops

    target_out = ops.cast(target_out, "int32")  # Keras hands them on as floats
    losses = ops.sparse_categorical_crossentropy(target_out, logits, from_logits=True)
    right = ops.take_along_axis(logits, ops.expand_dims(target_out, -1), axis=-1)
    return losses + SMOOTHING * (ops.squeeze(right, -1) - ops.mean(logits, axis=-1))


def keras_steps(model: Any, loss: Any) -> tuple[int, dict[str, Step]]:
    """Return `train_on_batch`, and a forward pass compiled in the same way."""
    import keras

    jit = os.environ["JIT_COMPILE"] == "1"
    keras.utils.set_random_seed(0)
    adam = keras.optimizers.Adam(RATE, beta_2=0.98, epsilon=1e-9)
    model.compile(adam, loss, jit_compile=jit)
    source, target_in, target_out = batch()
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

        compiled = tf.function(lambda *ids: model(ids, training=False), jit_compile=jit)
        ids = [tf.constant(array) for array in inputs]

        def forward() -> float:
            return float(compiled(*ids)[0, 0, 0])

    return model.count_params(), {"train": train, "forward": forward}


def torch_transformer(threads: int) -> tuple[int, dict[str, Step]]:
    """Return `torch.nn.Transformer` between the same embeddings and output, run eagerly."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    module = torch.nn.Transformer(
        D_MODEL, HEADS, LAYERS, LAYERS, D_FF, DROPOUT, layer_norm_eps=EPSILON, batch_first=True
    )
    module.encoder.norm = module.decoder.norm = None  # post-norm needs none, and no other has any
    layers: list[Any] = [*module.encoder.layers, *module.decoder.layers]
    for layer in layers:
        layer.dropout.p = 0.0  # inside the feed-forward network, where no other has one
    tables = [torch.nn.Embedding(VOCAB, D_MODEL) for _ in range(2)]
    for table in tables:
        torch.nn.init.normal_(table.weight, std=D_MODEL**-0.5)
    positions = torch.from_numpy(sinusoids(max(SOURCE, TARGET)).astype("float32"))
    source, target_in, target_out = (torch.from_numpy(ids.astype("int64")) for ids in batch())
    future = torch.ones(TARGET, TARGET, dtype=torch.bool).triu(1)

    def embed(table: Any, ids: Any) -> Any:
        x = table(ids) * D_MODEL**0.5 + positions[: ids.shape[1]]
        return functional.dropout(x, DROPOUT, module.training)

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
