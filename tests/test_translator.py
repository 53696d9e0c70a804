import itertools
import random

import numpy as np
import pytest
from tiny_models import disturb

from keras_transformer import backend
from keras_transformer.config import TransformerConfig
from keras_transformer.decoding import reference
from keras_transformer.hypothesis import Hypothesis
from keras_transformer.id_rows import pad_rows
from keras_transformer.model import Transformer
from keras_transformer.search_options import SearchOptions
from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer.translator import Translator

LINES = ["a little girl", "two men in green", "a dog runs", "ein kleines mädchen", "日本語 の"] * 4
TEXTS = [
    "a dog",
    "",
    "two little men in green runs",
    "日本語",
    "zzz",
    "a",
    "ein",
    "girl a dog runs",
]


@pytest.fixture(scope="module")
def tokenizers():
    source = Tokenizer.train(LINES, vocab_size=60, model_type="char")
    target = Tokenizer.train(LINES, vocab_size=40, model_type="word")
    return source, target


def make_translator(tokenizers, seed=1, **fields):
    sizes = {"num_layers": 1, "d_model": 8, "d_ff": 8, "num_heads": 2, "dropout": 0.0}
    config = TransformerConfig.for_tokenizers("tiny", *tokenizers, **{**sizes, **fields})
    random.seed(seed)
    model = Transformer(config)
    disturb(model, seed)
    return Translator(model, *tokenizers)


@pytest.fixture(scope="module")
def translator(tokenizers):
    """A random model whose outputs differ: some end by themselves, early or late, some are cut."""
    options = {"output_bias": True, "embedding_scale": False, "norm_first": True}
    translator = make_translator(tokenizers, 6, final_norm=False, **options)
    for weight in translator.model.weights:
        if "cross_attention" in weight.path:
            weight.assign(weight.numpy() * 3)
    bias = translator.model.output_bias.numpy()
    bias[translator.config.eos_id] += 3
    translator.model.output_bias.assign(bias)
    return translator


def ids_of(hypothesis, config):
    return hypothesis.tokens + [config.eos_id] * hypothesis.finished


def close(first, second):
    """Whether two results have the same hypotheses with the same scores."""
    parts = [
        [[(h.text, h.tokens, h.finished) for h in hypotheses] for hypotheses in side]
        for side in (first, second)
    ]
    scores = [[h.score for hypotheses in side for h in hypotheses] for side in (first, second)]
    return parts[0] == parts[1] and np.allclose(*scores, rtol=1e-4, atol=1e-5)


GREEDY = {"max_decoding_length": 20}
BEAMS = {"beam_size": 4, "num_hypotheses": 3, "max_decoding_length": 12}
each_search = pytest.mark.parametrize("options", [GREEDY, BEAMS], ids=["greedy", "beams"])


def test_each_text_gets_its_own_hypothesis_in_the_order_given(translator):
    found = translator.translate(TEXTS)
    assert [len(hypotheses) for hypotheses in found] == [1] * len(TEXTS)
    assert all(isinstance(hypotheses[0], Hypothesis) for hypotheses in found)
    again = translator.translate(TEXTS[::-1])[::-1]
    assert close(found, again)
    assert len({hypotheses[0].text for hypotheses in found}) == len(TEXTS)
    assert {hypotheses[0].finished for hypotheses in found} == {True, False}
    assert len({len(hypotheses[0].tokens) for hypotheses in found}) > 4


@each_search
def test_promise_2_the_batch_size_changes_nothing(translator, options):
    texts = [" ".join(words) for words in itertools.product(TEXTS, TEXTS[:4])]
    expected = translator.translate(texts, batch_size=32, **options)
    for size in (1, 2, 7):
        assert close(translator.translate(texts, batch_size=size, **options), expected)


@each_search
def test_promise_2_a_text_gets_what_it_gets_alone(translator, options):
    expected = translator.translate(TEXTS, **options)
    for text, hypotheses in zip(TEXTS, expected, strict=True):
        assert close(translator.translate([text], **options), [hypotheses])


@each_search
def test_promise_2_padding_changes_nothing(translator, options):
    rows = translator._rows(translator.source, TEXTS, "texts")
    source_ids = pad_rows(rows, translator.config.pad_id)
    found, more = (
        translator.search(ids, SearchOptions(**options))
        for ids in (source_ids, np.pad(source_ids, ((0, 0), (0, 6))))
    )
    np.testing.assert_array_equal(found.ids, more.ids)
    np.testing.assert_array_equal(found.finished, more.finished)
    np.testing.assert_allclose(found.scores, more.scores, rtol=1e-4)


def test_promise_3_the_output_is_that_of_the_papers_plain_loop(translator):
    ids = ((None, None), "int32")
    forward = backend.compile(lambda s, t: translator.model((s, t)), [ids, ids])
    found = translator.translate(TEXTS, max_decoding_length=12)
    for text, [hypothesis] in zip(TEXTS, found, strict=True):
        source = np.array([translator._rows(translator.source, [text], "texts")[0]])
        expected = reference.predict(forward, source, translator.config, [12])
        assert expected[0].tolist() == ids_of(hypothesis, translator.config)


@pytest.mark.parametrize(("size", "count"), [(1, 1), (2, 1), (4, 3), (8, 8)])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.5])
def test_promise_3_scores_are_those_of_the_full_model_over_the_length_penalty(
    translator, alpha, size, count
):
    found = translator.translate(TEXTS, size, count, alpha, max_decoding_length=9)
    rows = translator._rows(translator.source, TEXTS, "texts")
    sources = [row for row, hypotheses in zip(rows, found, strict=True) for _ in hypotheses]
    found = [hypothesis for hypotheses in found for hypothesis in hypotheses]
    assert len(found) == count * len(TEXTS)
    targets = [ids_of(hypothesis, translator.config) for hypothesis in found]
    log_probs = translator.score_ids(sources, targets)
    penalties = [((5 + len(ids)) / 6) ** alpha for ids in targets]
    np.testing.assert_allclose(
        [hypothesis.score for hypothesis in found], log_probs / penalties, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("early_stopping", [True, False])
def test_n_best_are_distinct_and_best_first_with_those_that_are_cut_last(
    translator, early_stopping
):
    found = translator.translate(TEXTS, 8, 8, max_decoding_length=6, early_stopping=early_stopping)
    for hypotheses in found:
        assert len(hypotheses) == 8
        assert len({(tuple(h.tokens), h.finished) for h in hypotheses}) == 8
        keys = [(not h.finished, -h.score) for h in hypotheses]
        assert keys == sorted(keys)
    endings = {h.finished for hypotheses in found for h in hypotheses}
    assert endings == {True, False}, "or nothing is shown"


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_without_early_stopping_the_first_of_n_best_is_the_one_best(translator, alpha):
    options = {"length_penalty": alpha, "max_decoding_length": 8, "early_stopping": False}
    several = translator.translate(TEXTS, 5, 4, **options)
    one = translator.translate(TEXTS, 5, 1, **options)
    assert close([hypotheses[:1] for hypotheses in several], one)


@pytest.mark.parametrize("size", [1, 3])
def test_outputs_are_as_long_as_asked_for(translator, size):
    config = translator.config
    found = translator.translate(TEXTS, size, min_decoding_length=8, max_decoding_length=11)
    assert all(8 <= len(ids_of(h, config)) <= 11 for [h] in found)
    shorter = translator.translate(TEXTS, size, max_decoding_length=11)
    assert any(len(ids_of(h, config)) < 8 for [h] in shorter), "or nothing is shown"


@pytest.mark.parametrize("size", [1, 3])
def test_translations_begin_with_their_prefix_and_free_ones_stay_as_they_are(translator, size):
    prefix = [[], [5], [6, 7, 8], [], [9] * 20, [5, 6], [], [7]]
    options = {"beam_size": size, "num_hypotheses": size, "max_decoding_length": 8}
    found = translator.translate(TEXTS, target_prefix=prefix, **options)
    free = translator.translate(TEXTS, **options)
    for forced, hypotheses, others in zip(prefix, found, free, strict=True):
        for hypothesis in hypotheses:
            assert hypothesis.tokens[: len(forced)] == forced[:8]
        if not forced:
            assert close([hypotheses], [others])
    assert [len(hypotheses) for hypotheses in found] == [
        1 if len(row) > 8 else size for row in prefix
    ]
    ids = np.array(pad_rows(translator._rows(translator.source, TEXTS, "texts"), 0))
    of_ids = translator.search(ids, SearchOptions(**options), prefix)
    np.testing.assert_allclose(
        of_ids.scores[:, 0], [hypotheses[0].score for hypotheses in found], rtol=1e-4
    )


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ([[5]], r"target_prefix must have a row for each text.*1 rows for 2 texts"),
        ([[5], [0]], r"target_prefix\[1\] must hold target ids.*Received: 0"),
        ([[2], []], r"target_prefix\[0\] must hold target ids.*Received: 2"),
        ([[5, 3], []], r"target_prefix\[0\] must hold target ids.*Received: 3"),
        ([[], [5, -1]], r"target_prefix\[1\] must hold target ids.*Received: -1"),
        ([[], [10**12]], r"target_prefix\[1\] must hold target ids.*Received: 10{12}"),
        ([[5.5], []], r"target_prefix\[0\] must hold target ids.*Received: 5.5"),
        ([[True], []], r"target_prefix\[0\] must hold target ids.*Received: True"),
        (["56", []], r"target_prefix\[0\] must hold target ids.*Received: '5'"),
        ([[[5]], []], r"target_prefix\[0\] must hold target ids.*Received: \[5\]"),
        ([5, 6], r"target_prefix\[0\] must be a list of target ids.*Received: 5"),
    ],
)
def test_a_prefix_that_no_output_can_have_is_refused(translator, prefix, message):
    with pytest.raises(ValueError, match=message):
        translator.translate(["a", "dog"], target_prefix=prefix)
    with pytest.raises(ValueError, match=message):
        translator.search(np.array([[5, 3], [6, 3]]), None, prefix)


def test_scores_are_sums_of_log_softmax(translator):
    config, sources, targets = translator.config, ["a dog", ""], ["two men", "a dog runs"]
    found = translator.score(sources, targets)
    for index in range(2):
        source = [*translator.source.encode(sources)[index], config.eos_id]
        target = [*translator.target.encode(targets)[index], config.eos_id]
        target_in = np.array([[config.start_id, *target[:-1]]])
        logits = np.asarray(translator.model((np.array([source]), target_in)), "float64")[0]
        log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        expected = log_probs[np.arange(len(target)), target].sum()
        assert found[index] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(translator.score(sources, targets, batch_size=1), found, rtol=1e-5)


def test_score_needs_as_many_targets_as_sources(translator):
    with pytest.raises(ValueError, match=r"equally many.*2 sources, 1 targets"):
        translator.score(["a", "b"], ["c"])


def test_no_texts_give_no_hypotheses(translator):
    assert translator.translate([]) == []
    assert translator.score([], []).shape == (0,)


@pytest.mark.parametrize("size", [1, 3])
def test_a_cut_output_says_so_and_has_exactly_that_length(translator, size):
    for limit in (1, 3):
        found = translator.translate(TEXTS, size, size, max_decoding_length=limit)
        for text, hypotheses in zip(TEXTS, found, strict=True):
            for hypothesis in hypotheses:
                length = len(ids_of(hypothesis, translator.config))
                assert length <= limit
                assert hypothesis.finished or length == limit, text


def test_without_a_limit_the_output_may_be_fifty_longer_than_the_source(translator):
    for text, [hypothesis] in zip(TEXTS, translator.translate(TEXTS), strict=True):
        if not hypothesis.finished:
            source = translator.source.encode([text])[0]
            assert len(hypothesis.tokens) == len(source) + 1 + 50


def test_tokens_are_the_ids_of_the_text(translator):
    for [hypothesis] in translator.translate(TEXTS):
        assert translator.target.decode([hypothesis.tokens]) == [hypothesis.text]
        assert not {0, 2, 3} & set(hypothesis.tokens)


@pytest.mark.parametrize("bad", ["a\0b", "a\ud800", "\udfff"])
def test_texts_with_nul_or_lone_surrogates_are_refused_with_their_index(translator, bad):
    with pytest.raises(ValueError, match=r"texts\[1\]"):
        translator.translate(["good", bad])
    with pytest.raises(ValueError):
        translator.score(["good"], [bad])


def test_one_text_instead_of_a_list_is_refused(translator):
    with pytest.raises(ValueError, match=r"Received"):
        translator.translate("a dog")


@pytest.mark.parametrize(
    "options",
    [
        {"beam_size": 0},
        {"beam_size": 10**6},
        {"num_hypotheses": 2},
        {"num_hypotheses": 4, "beam_size": 3},
        {"length_penalty": -1},
        {"max_decoding_length": 0},
        {"min_decoding_length": -3},
        {"min_decoding_length": 4, "max_decoding_length": 3},
        {"early_stopping": 1},
        {"batch_size": 0},
    ],
)
def test_options_that_no_search_can_honour_are_refused(translator, options):
    name, value = next(iter(options.items()))
    for texts in (["a"], []):
        with pytest.raises(ValueError, match=f"{name} must be .*Received: .*{name}={value}"):
            translator.translate(texts, **options)


def test_a_beam_may_be_as_wide_as_the_vocabulary_and_no_wider(translator):
    size = translator.config.target_vocab_size
    [found] = translator.translate(["a"], size, size, max_decoding_length=2)
    assert len(found) == size
    with pytest.raises(
        ValueError, match=f"at most the target vocabulary's size, {size}.*beam_size={size + 1}"
    ):
        translator.translate(["a"], size + 1)


def test_there_are_fewer_hypotheses_where_there_are_fewer_outputs(translator):
    size = translator.config.target_vocab_size
    [found] = translator.translate(["a"], size, size, max_decoding_length=1)
    assert len(found) == size - len(translator.config.banned_ids)
    assert len({h.text for h in found if not h.finished}) <= len(found)


def test_a_stream_is_translated_chunk_by_chunk_in_order(translator):
    expected = translator.translate(TEXTS)
    read = []

    def lines():
        for text in TEXTS:
            read.append(text)
            yield text

    found = translator.translate_iter(lines(), chunk_size=3)
    first = next(found)
    assert read == TEXTS[:3]
    assert close([first, *found], expected)
    assert list(translator.translate_iter(iter([]))) == []


@each_search
def test_a_stream_takes_all_options(translator, options):
    found = list(translator.translate_iter(iter(TEXTS), chunk_size=3, batch_size=2, **options))
    assert close(found, translator.translate(TEXTS, **options))


def test_learned_positions_say_their_limit_and_never_decode_past_it(tokenizers):
    translator = make_translator(tokenizers, positions="learned", max_positions=6)
    with pytest.raises(ValueError, match=r"texts\[1\] must have at most 6 tokens.*learned"):
        translator.translate(["a", "two little men"])
    with pytest.raises(ValueError, match=r"sources\[0\] must have at most 6 tokens"):
        translator.score(["two little men"], ["a"])
    with pytest.raises(ValueError, match=r"targets\[0\] must have at most 6 tokens"):
        translator.score(["a"], ["a dog runs a dog runs a dog runs"])
    for size in (1, 3):
        found = translator.translate(["a", "dog"], size, size, max_decoding_length=50)
        for hypotheses in found:
            assert len(hypotheses) == size
            assert all(len(ids_of(h, translator.config)) <= 6 for h in hypotheses)


def test_a_tokenizer_of_another_model_is_refused(tokenizers):
    source, target = tokenizers
    model = make_translator(tokenizers).model
    with pytest.raises(
        ValueError, match=f"target tokenizer must have as many.*{source.vocab_size} pieces"
    ):
        Translator(model, source, source)
    config = model.config.model_copy(update={"eos_id": 4})
    with pytest.raises(ValueError, match=r"must agree on eos_id. Received: 3 and 4"):
        Translator(Transformer(config), source, target)


def test_one_trace_of_each_search_serves_all_sizes_and_options(tokenizers, monkeypatch):
    translator = make_translator(tokenizers)
    traces = []
    step = translator.model.decode_step

    def counted(*arguments):
        traces.append(len(arguments))
        return step(*arguments)

    monkeypatch.setattr(translator.model, "decode_step", counted)
    for size in (1, 2):
        translator.translate(["a"], size)
    first = len(traces)
    for size in (1, 2, 5, 1, 8):
        for texts in (["a"], TEXTS, TEXTS[:3]):
            translator.translate(
                texts, size, (size + 1) // 2, 0.1 * size, size + 1, min_decoding_length=size,
                early_stopping=size > 2, target_prefix=[[5] * (size - 1)] * len(texts),
            )  # fmt: skip
            translator.translate(texts, size, max_decoding_length=3)
    searches = [translator._search._compiled(kind) for kind in ("greedy", "beam")]
    assert [search.experimental_get_tracing_count() for search in searches] == [1, 1]
    assert len(traces) == first, "the step is traced with its search only"


def test_a_run_folder_loads_as_a_translator(tiny_run):
    translator = Translator.load(tiny_run.path)
    assert translator.recipe == tiny_run.recipe
    assert translator.held_out == [source for source, _ in tiny_run.held_out()]
    [[hypothesis]] = translator.translate(["1 2 3"])
    assert set(hypothesis.text.split()) <= set("0123456789⁇")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[5, -1, 3]], "source_ids must be from 0 to .*ids from -1 to 5"),
        ([[5, 2**33 + 5, 3]], "source_ids must be from 0 to .*8589934597"),
        ([[5.7, 3.0]], "source_ids must be integers.*float64"),
        ([5, 3], r"source_ids must be integers \[B, S\].*shape \(2,\)"),
    ],
)
def test_ids_outside_the_vocabulary_are_never_searched(translator, ids, message):
    with pytest.raises(ValueError, match=message):
        translator.search(ids)


@pytest.mark.parametrize(
    ("sources", "targets", "message"),
    [
        ([[-2, 3]], [[5, 3]], r"source_rows\[0\] must be from 0 to .*-2"),
        ([[5, 3]], [[5, 3], [6, 3]], "must be equally many.*1 and 2"),
        ([[5, 3], [6, 3]], [[5, 3], [10**6, 3]], r"target_rows\[1\] must be from 0 to"),
        ([[5, 3]], [[]], r"target_rows\[0\] must end with the end symbol"),
    ],
)
def test_ids_outside_the_vocabulary_are_never_scored(translator, sources, targets, message):
    with pytest.raises(ValueError, match=message):
        translator.score_ids(sources, targets)
