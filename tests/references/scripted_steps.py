"""Models that are a rule, for the search: a step callback made of log-probabilities by prefix."""

import functools

import numpy as np
from keras import ops
from numpy_search import log_softmax

from keras_transformer.decoding import phases
from keras_transformer.decoding.beam import BeamSearch
from keras_transformer.decoding.greedy import GreedySearch
from keras_transformer.decoding.tokens import TokenRules
from keras_transformer.hypothesis import LOWEST_SCORE

# A tiny alphabet: pad, start, end, and letters.
PAD, START, END, A, B, C = range(6)
SIZE = 6
BANNED = (PAD, START)


class Scripted:
    """A step of eager search whose logits are `log_probs_of(sentence, tokens so far)`.

    Its cache is the tokens it was given, row by row, so a search that mixes rows up gets the
    log-probabilities of another hypothesis; its memory is the sentences' places in the batch.
    `calls` has, for each call, the position and the tokens so far of each row, start first.
    """

    def __init__(self, log_probs_of):
        self.log_probs_of = log_probs_of
        self.calls = []

    def __call__(self, ids, step, cache, memory):
        cache = ops.concatenate([cache, ops.expand_dims(ids, 1)], axis=1)
        histories = [tuple(map(int, row)) for row in np.asarray(cache)]
        sentences = np.repeat(memory, len(histories) // len(memory))
        self.calls.append((int(step), histories))
        rows = [
            self.log_probs_of(int(s), ids[1:]) for s, ids in zip(sentences, histories, strict=True)
        ]
        return ops.convert_to_tensor(np.array(rows, "float32")), cache

    @property
    def rows(self):
        """How many rows each call was given."""
        return [len(histories) for _, histories in self.calls]


def random_log_probs(seed, size=SIZE, spread=1.5):
    """A function of sentence and tokens whose log-probabilities are those of random logits."""

    @functools.cache
    def log_probs_of(sentence, tokens):
        generator = np.random.default_rng([seed, sentence, *tokens])
        return log_softmax(generator.normal(0, spread, size))

    return log_probs_of


def tree(probabilities, usual=None):
    """The same for all sentences: `{tokens so far: {token: probability}}`; the rest get 1e-6."""
    usual = usual or {END: 1.0}

    def log_probs_of(sentence, tokens):
        row = np.full(SIZE, 1e-6)
        for token, probability in probabilities.get(tokens, usual).items():
            row[token] = probability
        return np.log(row / row.sum())

    return log_probs_of


def sentences_of(limits, prefix=None, memory=None):
    """`Sentences` of those limits; prefixes are lists of ids."""
    rows = len(limits)
    if prefix is not None:
        width = max(map(len, prefix), default=0) + 1
        prefix = np.array([[*row, *[PAD] * (width - len(row))] for row in prefix], "int32")
        prefix = prefix.reshape(rows, width)
    return phases.Sentences(
        index=np.arange(rows, dtype="int32"),
        limit=np.array(limits, "int32"),
        prefix=() if prefix is None else prefix,
        memory=np.arange(rows, dtype="int32") if memory is None else memory,
    )


def make_search(step, beam_size=None, *, size=SIZE, banned_ids=BANNED, min_length=None, **options):
    """A `BeamSearch`, or a `GreedySearch` where no beam size is given."""
    rules = TokenRules(size, END, PAD, tuple(i for i in banned_ids if i != PAD), min_length)
    if beam_size is None:
        return GreedySearch(step, rules, START, **options)
    return BeamSearch(step, rules, START, beam_size, **options)


def run(step, limits, beam_size=None, prefix=None, **options):
    """Search with a `Scripted` step; `Found` as NumPy arrays."""
    search = make_search(step, beam_size, **options)
    cache = np.zeros((len(limits) * (beam_size or 1), 0), "int32")
    found = phases.run(search, sentences_of(limits, prefix), cache)
    return phases.Found(*map(np.asarray, found))


def outputs(found, sentence):
    """The hypotheses of a sentence that exist: pairs of ids and whether they ended."""
    return [
        (tuple(int(i) for i in ids if i != PAD), bool(finished))
        for ids, score, finished in zip(*(part[sentence] for part in found), strict=True)
        if score > LOWEST_SCORE
    ]


def assert_found(found, sentence, expected, tolerance=1e-5):
    """A sentence's hypotheses are the outputs `expected`, ids and scores, and no more."""
    wanted = [(output.ids, output.finished) for output in expected]
    assert outputs(found, sentence) == wanted
    scores = found.scores[sentence, : len(expected)]
    np.testing.assert_allclose(scores, [o.score for o in expected], rtol=tolerance, atol=tolerance)
    assert (found.scores[sentence, len(expected) :] <= LOWEST_SCORE).all()
    assert (found.ids[sentence, len(expected) :] == PAD).all()
    assert not found.finished[sentence, len(expected) :].any()
