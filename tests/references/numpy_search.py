"""Greedy and beam search in float64 NumPy, written from their rules, and search by brute force.

For one sentence, hypothesis by hypothesis, to be checked by eye. A model here is a function from
the tokens so far, a tuple, to log-probabilities `[V]`.
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np


class Rules(NamedTuple):
    """What may be output, and how it is scored."""

    eos_id: int
    never: tuple  # ids, the pad among them
    limit: int
    alpha: float = 0.6
    min_length: int = 0
    prefix: tuple = ()


class Output(NamedTuple):
    ids: tuple  # with the end symbol
    score: float
    finished: bool


def log_softmax(logits):
    logits = np.asarray(logits, "float64")
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def penalty(length, alpha):
    return ((5 + length) / 6) ** alpha


def by_recomputing(forward, config, source, longest):
    """The log-probabilities of a model `(source_ids, target_in) -> logits`, without a cache.

    Target rows are padded to `longest`, so that a compiler sees one shape.
    """

    @functools.cache
    def log_probs_of(tokens):
        target_in = np.full((1, longest), config.pad_id, "int32")
        target_in[0, : len(tokens) + 1] = config.start_id, *tokens
        return log_softmax(forward(source[None], target_in)[0, len(tokens)])

    return log_probs_of


def allowed(rules, position, vocab_size):
    """The tokens that may stand at a position, in order."""
    if position < len(rules.prefix):
        return [rules.prefix[position]]
    too_early = position + 1 < rules.min_length
    return [
        token
        for token in range(vocab_size)
        if token not in rules.never and not (too_early and token == rules.eos_id)
    ]


def every_output(log_probs_of, rules, vocab_size):
    """All outputs there are, best first, those that are cut after all that end."""
    outputs = []
    for length in range(1, rules.limit + 1):
        steps = [allowed(rules, position, vocab_size) for position in range(length)]
        for ids in itertools.product(*steps):
            ends = rules.eos_id in ids
            if ids.index(rules.eos_id) + 1 < length if ends else length < rules.limit:
                continue
            total = sum(log_probs_of(ids[:i])[token] for i, token in enumerate(ids))
            outputs.append(Output(ids, total / penalty(length, rules.alpha), ends))
    return sorted(outputs, key=lambda output: (not output.finished, -output.score))


def greedy_search(log_probs_of, rules):
    ids, total = (), 0.0
    while len(ids) < rules.limit and rules.eos_id not in ids:
        log_probs = log_probs_of(ids)
        token = max(allowed(rules, len(ids), len(log_probs)), key=lambda token: log_probs[token])
        ids, total = (*ids, token), total + log_probs[token]
    return Output(ids, total / penalty(len(ids), rules.alpha), rules.eos_id in ids)


def beam_search(log_probs_of, rules, beam_size, num_hypotheses=1, early_stopping=True):
    """Up to n outputs, best first, and how many steps were made."""
    alive, finished, steps = [(0.0, ())], [], 0

    def is_settled():
        if not alive:
            return True
        if len(finished) < num_hypotheses:
            return False
        length = steps + 1 if early_stopping else rules.limit
        return alive[0][0] / penalty(length, rules.alpha) <= finished[num_hypotheses - 1].score

    while steps < rules.limit and not is_settled():
        candidates = []
        for parent, (total, ids) in enumerate(alive):
            log_probs = log_probs_of(ids)
            for token in allowed(rules, steps, len(log_probs)):
                candidates.append((-(total + log_probs[token]), parent, token))
        best = [
            (-negative, (*alive[parent][1], token))
            for negative, parent, token in sorted(candidates)[: 2 * beam_size]
        ]
        steps += 1
        for total, ids in best:
            if ids[-1] == rules.eos_id:
                finished.append(Output(ids, total / penalty(steps, rules.alpha), True))
        finished = sorted(finished, key=lambda output: -output.score)[:beam_size]
        alive = [pair for pair in best if pair[1][-1] != rules.eos_id][:beam_size]
    cut = [Output(ids, total / penalty(steps, rules.alpha), False) for total, ids in alive]
    return (finished + cut)[:num_hypotheses], steps
