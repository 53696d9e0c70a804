"""Source ids in, hypotheses out: the one definition that every exported file is made from."""

from keras import ops

from keras_transformer.decoding.beam import BeamSearch
from keras_transformer.decoding.greedy import GreedySearch, best
from keras_transformer.decoding.phases import Found, Sentences, run
from keras_transformer.decoding.scoring import decoding_limits
from keras_transformer.decoding.tokens import TokenRules


def generate(
    model,
    source_ids,
    *,
    beam_size=1,
    num_hypotheses=1,
    length_penalty=0.6,
    max_decoding_length=0,
    min_decoding_length=None,
    target_prefix=None,
    early_stopping=True,
    capacity=None,
    choose=best,
):
    """Decode source ids.

    Args:
        model: a `Transformer`, or another `SequenceModel`.
        source_ids: int32 `[B, S]`, padded on the right; real ids end with the end symbol.
        beam_size: K. The int 1: greedy search; another int: beam search; an integer scalar
            tensor: whichever it asks for.
        num_hypotheses: n from 1 to K, of the same kind as `beam_size`. Greedy search has 1.
        length_penalty: alpha of ((5 + length) / 6)^alpha, which divides the log-probability.
        max_decoding_length: integer scalar; 0: source length + 50, sentence by sentence.
        min_decoding_length: integer scalar, the fewest tokens, end symbol included; None: any.
        target_prefix: int32 `[B, P]`, or `[1, P]` for all, padded on the right: the tokens that
            an output must begin with; None: free.
        early_stopping: whether beam search ends a sentence once its alive hypotheses, at their
            present length, are no better than the finished ones; see `BeamSearch`.
        capacity: None: the cache grows. A Python int: buffers of so many positions, which is
            then the longest output, for compilers that want fixed shapes.
        choose: greedy search's choice, see `GreedySearch`.

    Returns:
        `Found`.
    """
    config = model.config
    memory = model.project_memory(source_ids)
    sentences = Sentences(
        index=ops.cast(ops.arange(ops.shape(source_ids)[0]), "int32"),
        limit=_limits(config, source_ids, max_decoding_length, capacity),
        prefix=_for_each(target_prefix, ops.shape(source_ids)[0], config.pad_id),
        memory=memory,
    )
    rules = TokenRules(
        config.target_vocab_size,
        config.eos_id,
        config.pad_id,
        tuple(config.banned_ids),
        min_decoding_length,
    )

    def greedy():
        search = GreedySearch(
            model.decode_step, rules, config.start_id, length_penalty, capacity, choose
        )
        return run(search, sentences, model.init_cache(memory, capacity))

    def beam():
        def step(ids, step, cache, memory):
            return model.decode_step(ids, step, cache, memory, beam_size)

        search = BeamSearch(
            step,
            rules,
            config.start_id,
            beam_size,
            num_hypotheses,
            length_penalty,
            capacity,
            early_stopping,
        )
        return run(search, sentences, model.init_cache(memory, capacity, beam_size))

    if isinstance(beam_size, int):
        return greedy() if beam_size == 1 else beam()
    return Found(*ops.cond(ops.equal(beam_size, 1), lambda: tuple(greedy()), lambda: tuple(beam())))


def _limits(config, source_ids, max_decoding_length, capacity):
    """Return the most tokens of each output, int32 `[B]`, as far as positions and buffers reach."""
    real = ops.cast(ops.not_equal(source_ids, config.pad_id), "int32")
    limit = decoding_limits(ops.sum(real, axis=1), max_decoding_length)
    for most in (config.longest, capacity):
        limit = limit if most is None else ops.minimum(limit, most)
    return limit


def _for_each(prefix, count, pad_id):
    """Return `[count, P + 1]`, with a column of pads: behind a prefix anything may come.

    Without a prefix an empty structure, which a loop may carry; it may not carry None.
    """
    if prefix is None:
        return ()
    prefix = ops.broadcast_to(ops.cast(prefix, "int32"), (count, ops.shape(prefix)[1]))
    return ops.concatenate([prefix, ops.full((count, 1), pad_id, "int32")], axis=1)
