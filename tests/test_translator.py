import keras
import numpy as np
import pytest
from tiny_models import disturb

from keras_transformer import backend
from keras_transformer.config import TransformerConfig
from keras_transformer.decoding import reference
from keras_transformer.hypothesis import Hypothesis
from keras_transformer.model import Transformer
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
    keras.utils.set_random_seed(seed)
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
    same = [(a[0].text, a[0].tokens, a[0].finished) == (b[0].text, b[0].tokens, b[0].finished)
            for a, b in zip(first, second, strict=True)]  # fmt: skip
    scores = [[pair[0].score for pair in side] for side in (first, second)]
    return all(same) and np.allclose(*scores, rtol=1e-4, atol=1e-5)


def test_each_text_gets_its_own_hypothesis_in_the_order_given(translator):
    found = translator.translate(TEXTS)
    assert [len(hypotheses) for hypotheses in found] == [1] * len(TEXTS)
    assert all(isinstance(hypotheses[0], Hypothesis) for hypotheses in found)
    again = translator.translate(TEXTS[::-1])[::-1]
    assert close(found, again)
    assert len({hypotheses[0].text for hypotheses in found}) == len(TEXTS)
    assert {hypotheses[0].finished for hypotheses in found} == {True, False}
    assert len({len(hypotheses[0].tokens) for hypotheses in found}) > 4


def test_promise_2_the_batch_size_changes_nothing(translator):
    expected = translator.translate(TEXTS)
    for size in (1, 3):
        assert close(translator.translate(TEXTS, batch_size=size), expected)
    for text, hypotheses in zip(TEXTS, expected, strict=True):
        assert close(translator.translate([text]), [hypotheses])


def test_promise_3_the_output_is_that_of_the_papers_plain_loop(translator):
    ids = ((None, None), "int32")
    forward = backend.compile(lambda s, t: translator.model((s, t)), [ids, ids])
    found = translator.translate(TEXTS, max_decoding_length=12)
    for text, [hypothesis] in zip(TEXTS, found, strict=True):
        source = np.array([translator._rows(translator.source, [text], "texts")[0]])
        expected = reference.predict(forward, source, translator.config, [12])
        assert expected[0].tolist() == ids_of(hypothesis, translator.config)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.5])
def test_promise_3_scores_are_those_of_the_full_model_over_the_length_penalty(translator, alpha):
    found = [h[0] for h in translator.translate(TEXTS, length_penalty=alpha, max_decoding_length=9)]
    sources = translator._rows(translator.source, TEXTS, "texts")
    targets = [ids_of(hypothesis, translator.config) for hypothesis in found]
    log_probs = translator.score_ids(sources, targets)
    penalties = [((5 + len(ids)) / 6) ** alpha for ids in targets]
    np.testing.assert_allclose(
        [hypothesis.score for hypothesis in found], log_probs / penalties, rtol=1e-4, atol=1e-5
    )


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


def test_a_cut_output_says_so_and_has_exactly_that_length(translator):
    for limit in (1, 3):
        for text, [hypothesis] in zip(
            TEXTS, translator.translate(TEXTS, max_decoding_length=limit), strict=True
        ):
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
    [{"beam_size": 4}, {"num_hypotheses": 2}, {"beam_size": 0}, {"max_decoding_length": 0}],
)
def test_options_that_greedy_search_cannot_honour_are_refused(translator, options):
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name} must be .*Received: {name}={value}"):
        translator.translate(["a"], **options)


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


def test_learned_positions_say_their_limit_and_never_decode_past_it(tokenizers):
    translator = make_translator(tokenizers, positions="learned", max_positions=6)
    with pytest.raises(ValueError, match=r"texts\[1\] must have at most 6 tokens.*learned"):
        translator.translate(["a", "two little men"])
    with pytest.raises(ValueError, match=r"sources\[0\] must have at most 6 tokens"):
        translator.score(["two little men"], ["a"])
    with pytest.raises(ValueError, match=r"targets\[0\] must have at most 6 tokens"):
        translator.score(["a"], ["a dog runs a dog runs a dog runs"])
    for [hypothesis] in translator.translate(["a", "dog"], max_decoding_length=50):
        assert len(ids_of(hypothesis, translator.config)) <= 6


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


def test_one_trace_serves_all_sizes_and_options(translator):
    translator.translate(["a"])
    compiled = translator._compiled_search(None)
    before = compiled.experimental_get_tracing_count()
    translator.translate(TEXTS, max_decoding_length=2)
    translator.translate(TEXTS[:3], length_penalty=1.0)
    assert translator._compiled_search(None) is compiled
    assert compiled.experimental_get_tracing_count() == before == 1


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
