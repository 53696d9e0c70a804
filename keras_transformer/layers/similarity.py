"""Score functions of attention: how much a query has to do with a key."""

import math

import keras
from keras import layers, ops


def scaled_dot(query, prepared_key):
    """Return q.k / sqrt(H) ('Attention Is All You Need', section 3.2.1, equation 1).

    The division keeps the variance of the scores at 1 whatever the head size H, so that the
    softmax does not saturate. It is applied to the query, the smaller operand.

    Args:
        query: `[B, N, T, H]`.
        prepared_key: keys with their last two axes swapped, `[B, N, H, S]`.

    Returns:
        Scores `[B, N, T, S]`.

    Raises:
        ValueError: queries and keys of different sizes H.

    Example:
        >>> query = np.array([[[[2.0, 0.0, 0.0, 0.0]]]], "float32")     # H is 4
        >>> prepared_key = np.eye(4, dtype="float32")[None, None]
        >>> np.asarray(scaled_dot(query, prepared_key)).tolist()
        [[[[1.0, 0.0, 0.0, 0.0]]]]
    """
    if prepared_key.shape[-2] not in (None, query.shape[-1]):
        raise ValueError(
            "prepared_key must be [B, N, H, S], with the H of query: keys with their last two axes "
            f"swapped. Received: query of shape {tuple(query.shape)}, prepared_key of shape "
            f"{tuple(prepared_key.shape)}"
        )
    return ops.matmul(query * query.shape[-1] ** -0.5, prepared_key)


def unit_length(vectors):
    """Return vectors `[..., H]` divided by their length; zero vectors stay zero.

    Computed in float32 whatever their type, which they keep: in float16 squares overflow at 256.
    """
    exact = ops.cast(vectors, "float32")
    squares = ops.sum(exact * exact, axis=-1, keepdims=True)
    return ops.cast(exact * ops.rsqrt(ops.maximum(squares, 1e-12)), vectors.dtype)


class Similarity(layers.Layer):
    """What every similarity is: a layer with two steps, of which the first is cached.

    `prepare_key(key [B, N, S, H])` does what depends on the key alone, once for each key; then
    `call(query [B, N, T, H], prepared)` gives scores `[B, N, T, S]`. `length_axis` is the axis of
    `prepared` along which a cache grows. A subclass of your own is taken by every attention
    layer; weights that it makes in `build(query_shape, prepared_shape)`, where both shapes are
    `(None, N, None, H)`, are trained and saved with the layer.

    Example, minus half the squared distance (|q|^2 is left out: it cancels in the softmax):
        >>> from keras_transformer.layers import MultiHeadAttention
        >>> @keras.saving.register_keras_serializable(package="mine")
        ... class NearestKey(Similarity):
        ...     def call(self, query, prepared):
        ...         return ops.matmul(query, prepared) - ops.sum(prepared**2, 2, keepdims=True) / 2
        >>> attention = MultiHeadAttention(num_heads=2, similarity=NearestKey())
        >>> tuple(attention(np.ones((1, 3, 8), "float32")).shape)
        (1, 3, 8)
    """

    length_axis = -1

    def build(self, query_shape=None, prepared_shape=None):
        if query_shape is not None:
            self.build_heads(query_shape[1], query_shape[-1])
        self.built = True

    def build_heads(self, num_heads, head_dim):
        """Make the weights for N heads of size H; here there are none."""

    def prepare_key(self, key):
        """`[B, N, S, H]` -> `[B, N, H, S]`: stored transposed, so that a step is one product."""
        return ops.transpose(key, (0, 1, 3, 2))

    def compute_output_shape(self, query_shape, prepared_shape):
        return (*query_shape[:3], prepared_shape[self.length_axis])

    def get_config(self):
        # Keras refuses to write a layer without this method once its dtype is a policy object
        return {**super().get_config()}


@keras.saving.register_keras_serializable(package="keras_transformer")
class ScaledDot(Similarity):
    """q.k / sqrt(H): scaled dot product ('Attention Is All You Need', section 3.2.1).

    Raises:
        ValueError: queries and keys of different sizes H.

    Example:
        >>> query, key = np.ones((1, 1, 1, 4), "float32"), np.ones((1, 1, 2, 4), "float32")
        >>> layer = ScaledDot()
        >>> np.asarray(layer(query, layer.prepare_key(key))).tolist()
        [[[[2.0, 2.0]]]]
    """

    def call(self, query, prepared):
        return scaled_dot(query, prepared)


@keras.saving.register_keras_serializable(package="keras_transformer")
class Dot(Similarity):
    """q.k: the dot product as it is (Luong et al. 2015, section 3.1, `dot`).

    Example:
        >>> query, key = np.ones((1, 1, 1, 4), "float32"), np.ones((1, 1, 2, 4), "float32")
        >>> layer = Dot()
        >>> np.asarray(layer(query, layer.prepare_key(key))).tolist()
        [[[[4.0, 4.0]]]]
    """

    def call(self, query, prepared):
        return ops.matmul(query, prepared)


@keras.saving.register_keras_serializable(package="keras_transformer")
class General(Similarity):
    """q W k with a learned W for each head (Luong et al. 2015, section 3.1, `general`).

    W k is computed once for each key, so that a step costs what `dot` costs.

    Example (an attention layer builds it):
        >>> query, key = np.ones((1, 2, 1, 4), "float32"), np.ones((1, 2, 3, 4), "float32")
        >>> layer = General()
        >>> layer.build(query.shape)
        >>> tuple(layer(query, layer.prepare_key(key)).shape), layer.count_params()  # 2 * 4 * 4
        ((1, 2, 1, 3), 32)
    """

    def build_heads(self, num_heads, head_dim):
        self.kernel = self.add_weight(
            shape=(num_heads, head_dim, head_dim), initializer="glorot_uniform", name="kernel"
        )

    def prepare_key(self, key):
        """`[B, N, S, H]` -> W k, `[B, N, H, S]`."""
        return ops.matmul(ops.cast(self.kernel, key.dtype), super().prepare_key(key))

    def call(self, query, prepared):
        return ops.matmul(query, prepared)


@keras.saving.register_keras_serializable(package="keras_transformer")
class Additive(Similarity):
    """v.tanh(W q + U k): a perceptron with one hidden layer (Bahdanau et al. 2015, section A.1.2).

    Luong's `concat`, v.tanh(W' [q; k]) (Luong et al. 2015, section 3.1), is the same function:
    W' is W and U side by side. Every pair of query and key has hidden values of its own, so memory
    and time grow with T * S * units. Queries and keys may be of different size.

    Args:
        units: size of the hidden layer of each head; None: the head size.

    Raises:
        ValueError: `units` is no integer from 1.

    Example (an attention layer builds it):
        >>> query, key = np.ones((1, 2, 1, 4), "float32"), np.ones((1, 2, 3, 4), "float32")
        >>> layer = Additive(units=5)
        >>> layer.build(query.shape)
        >>> tuple(layer(query, layer.prepare_key(key)).shape)
        (1, 2, 1, 3)
        >>> layer.count_params()     # 2 heads * (W 4 * 5, U 4 * 5, v 5)
        90
    """

    length_axis = 2

    def __init__(self, units=None, **kwargs):
        if units is not None and not (isinstance(units, int) and units >= 1):
            raise ValueError(f"units must be an integer from 1, or None. Received: units={units!r}")
        super().__init__(**kwargs)
        self.units = units

    def build(self, query_shape=None, prepared_shape=None):
        if query_shape is not None:
            key_dim = (prepared_shape or query_shape)[-1]
            self.build_heads(query_shape[1], query_shape[-1], key_dim)
        self.built = True

    def build_heads(self, num_heads, head_dim, key_dim=None):
        units = self.units or head_dim
        for name, size in (("query_kernel", head_dim), ("key_kernel", key_dim or head_dim)):
            weight = self.add_weight(
                shape=(num_heads, size, units), initializer="glorot_uniform", name=name
            )
            setattr(self, name, weight)
        self.vector = self.add_weight(
            shape=(num_heads, 1, 1, units), initializer="glorot_uniform", name="vector"
        )

    def prepare_key(self, key):
        """`[B, N, S, H]` -> U k, `[B, N, S, units]`."""
        return ops.matmul(key, ops.cast(self.key_kernel, key.dtype))

    def call(self, query, prepared):
        query = ops.matmul(query, ops.cast(self.query_kernel, query.dtype))
        hidden = ops.tanh(ops.expand_dims(query, 3) + ops.expand_dims(prepared, 2))
        return ops.sum(hidden * ops.cast(self.vector, hidden.dtype), axis=-1)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="keras_transformer")
class LinearConcat(Similarity):
    """w.[q; k]: linear in query and key side by side.

    The softmax over the keys makes the query cancel: w_q.q adds the same to every score of a
    row. So every query attends alike, which is why a nonlinearity (`additive`) or a product
    (`dot`) is needed.

    Example:
        >>> from keras_transformer.layers import MultiHeadAttention
        >>> attention = MultiHeadAttention(num_heads=2, similarity="linear_concat")
        >>> x = np.random.default_rng(0).normal(size=(1, 3, 8)).astype("float32")
        >>> weights = np.asarray(attention.return_scores(x))
        >>> bool(np.abs(weights - weights[:, :, :1]).max() < 1e-6)
        True
    """

    def build_heads(self, num_heads, head_dim):
        self.query_vector = self.add_weight(
            shape=(num_heads, head_dim, 1), initializer="glorot_uniform", name="query_vector"
        )
        self.key_vector = self.add_weight(
            shape=(num_heads, 1, head_dim), initializer="glorot_uniform", name="key_vector"
        )

    def prepare_key(self, key):
        """`[B, N, S, H]` -> w_k.k, `[B, N, 1, S]`."""
        return ops.matmul(ops.cast(self.key_vector, key.dtype), super().prepare_key(key))

    def call(self, query, prepared):
        return ops.matmul(query, ops.cast(self.query_vector, query.dtype)) + prepared


@keras.saving.register_keras_serializable(package="keras_transformer")
class Cosine(Similarity):
    """cos(q, k) / t with a temperature t learned for each head (Henry et al. 2020, section 3).

    t is kept positive as exp(log_temperature).

    Args:
        temperature: t at the start of training.

    Raises:
        ValueError: `temperature` is not above 0.

    Example (an attention layer builds it):
        >>> query, key = np.ones((1, 1, 1, 4), "float32"), 3 * np.ones((1, 1, 1, 4), "float32")
        >>> layer = Cosine(temperature=0.5)
        >>> layer.build(query.shape)
        >>> np.asarray(layer(query, layer.prepare_key(key))).astype(float).round(4).tolist()
        [[[[2.0]]]]
    """

    def __init__(self, temperature=0.1, **kwargs):
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0. Received: temperature={temperature}")
        super().__init__(**kwargs)
        self.temperature = temperature

    def build_heads(self, num_heads, head_dim):
        self.log_temperature = self.add_weight(
            shape=(num_heads, 1, 1),
            initializer=keras.initializers.Constant(math.log(self.temperature)),
            name="log_temperature",
        )

    def prepare_key(self, key):
        """`[B, N, S, H]` -> k / |k|, `[B, N, H, S]`."""
        return super().prepare_key(unit_length(key))

    def call(self, query, prepared):
        factor = ops.cast(ops.exp(-self.log_temperature), query.dtype)
        return ops.matmul(unit_length(query) * factor, prepared)

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}


SIMILARITIES = {
    "scaled_dot": ScaledDot,
    "dot": Dot,
    "general": General,
    "additive": Additive,
    "concat": Additive,
    "linear_concat": LinearConcat,
    "cosine": Cosine,
}


def get(similarity, **options):
    """Return a similarity layer.

    Args:
        similarity: a name of `SIMILARITIES`, the name of a class registered with
            `keras.saving.register_keras_serializable` ('package>Class'), a serialized layer, or a
            layer, which is returned as it is.
        **options: for the constructor, where a name is given.

    Raises:
        ValueError: unknown name, or something else than a `Similarity`.
    """
    if isinstance(similarity, str):
        found = SIMILARITIES.get(similarity) or keras.saving.get_registered_object(similarity)
        if found is None:
            raise ValueError(
                f"similarity must be one of {', '.join(SIMILARITIES)}, the name of a registered "
                "class ('package>Class'), or a subclass of Similarity. "
                f"Received: similarity={similarity!r}"
            )
        layer = found(name="similarity", **options)
    elif isinstance(similarity, dict):
        layer = keras.saving.deserialize_keras_object(similarity)
    else:
        layer = similarity
    if not isinstance(layer, Similarity):
        raise ValueError(
            "similarity must be a registered name or an instance of a subclass of "
            "keras_transformer.layers.Similarity, with prepare_key(key) and call(query, prepared). "
            f"Received: similarity={similarity!r}"
        )
    return layer


def to_config(similarity):
    """Return a name or a serialized layer, of which each attention layer makes one of its own."""
    if isinstance(similarity, layers.Layer):
        return keras.saving.serialize_keras_object(similarity)
    return similarity
