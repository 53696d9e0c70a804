import io

import keras
import numpy as np
import pytest
from rich.console import Console

import keras_transformer as kt
from keras_transformer.hypothesis import Hypothesis
from keras_transformer.training import translation_quality
from keras_transformer.training.losses import SmoothedCrossEntropy

TranslationQuality = translation_quality.TranslationQuality

# Four words, one of which has two pronunciations; 12 phonemes in the references that count.
PAIRS = [
    ("read", "R EH D"),
    ("read", "R IY D"),
    ("cat", "K AE T"),
    ("dog", "D AO G"),
    ("sun", "S AH N"),
]
RIGHT = {"read": "R IY D", "cat": "K AE T", "dog": "D AO G", "sun": "S AH N"}
ONE_WRONG = RIGHT | {"sun": "S AH M"}
TWO_WRONG = ONE_WRONG | {"dog": "D"}
ALL_WRONG = dict.fromkeys(RIGHT, "")


@pytest.fixture
def scripted(monkeypatch):
    """Make a `Translator` out of a list of answers, one for each evaluation."""

    def script(*evaluations):
        answers = iter(evaluations)

        class Scripted:
            def __init__(self, model, source, target):
                self.model = model

            def translate(self, texts, **options):
                assert set(options) <= {"beam_size"}
                if len(texts) == 1:  # the search is compiled and the options are tried
                    return [[Hypothesis("", 0.0, [], True)]]
                found = next(answers)
                return [[Hypothesis(found[text], -1.0, [], True)] for text in texts]

        monkeypatch.setattr(translation_quality, "Translator", Scripted)

    return script


def fit(callback, epochs):
    """Fit a model of one weight, which is the number of the epoch when it ends."""

    class Count(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.set_weights([np.full((1, 1), epoch + 1.0)])

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile("sgd", "mse", run_eagerly=True)
    x = np.ones((1, 1))
    found = model.fit(x, x, epochs=epochs, verbose=0, callbacks=[Count(), callback])
    return found.history


def measured(pairs=PAIRS, metrics=("wer",), **options):
    return TranslationQuality(pairs, None, None, metrics, **{"samples": 0, **options})


def test_every_measure_is_logged_by_its_name_with_the_number_by_hand(scripted):
    scripted(ALL_WRONG, TWO_WRONG, RIGHT)
    history = fit(measured(metrics=("exact_match", "wer", "per", "chrf")), epochs=3)
    assert history["val_exact_match"] == [0.0, 50.0, 100.0]
    assert history["val_wer"] == [100.0, 50.0, 0.0]
    # nothing of 12; one replaced and two left out of 12
    assert history["val_per"] == [100.0, pytest.approx(100 * 3 / 12), 0.0]
    assert history["val_chrf"][0] == 0.0
    assert history["val_chrf"][2] == pytest.approx(100)


def test_bleu_is_that_of_the_corpus_by_hand(scripted):
    pairs = [("a", "the cat sat on a mat"), ("b", "the cat sat on a mat")]
    scripted(dict.fromkeys("ab", "the cat sat on the mat"))
    history = fit(measured(pairs, ("bleu",), beam_size=2), epochs=1)
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 fours; no brevity penalty
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4)
    assert history["val_bleu"] == [pytest.approx(expected)]


def test_training_ends_at_the_evaluation_that_uses_up_the_patience(scripted, tmp_path):
    scripted(TWO_WRONG, ONE_WRONG, TWO_WRONG, ONE_WRONG, RIGHT)
    quality = measured(patience=2, best_path=tmp_path / "best.keras")
    history = fit(quality, epochs=9)
    assert history["val_wer"] == [50.0, 25.0, 50.0, 25.0], "equal is not better"
    assert (quality.best.value, quality.best.waited) == (25.0, 2)
    best = keras.saving.load_model(tmp_path / "best.keras")
    assert best.get_weights()[0].item() == 2.0, "the second epoch's"


def test_the_best_by_a_measure_of_which_more_is_better(scripted, tmp_path):
    scripted(ONE_WRONG, TWO_WRONG, RIGHT)
    path = tmp_path / "best.keras"
    fit(measured(metrics=("wer", "exact_match"), best_by="exact_match", best_path=path), 3)
    assert keras.saving.load_model(path).get_weights()[0].item() == 3.0


def test_only_each_nth_epoch_is_an_evaluation_and_patience_counts_those(scripted):
    scripted(ONE_WRONG, TWO_WRONG, RIGHT)
    quality = measured(every=2, patience=1)
    history = fit(quality, epochs=9)
    assert history["val_wer"] == [25.0, 50.0]
    assert len(history["loss"]) == 4


def test_a_second_fit_has_the_whole_patience_and_the_best_of_the_first(scripted):
    scripted(ONE_WRONG, TWO_WRONG, TWO_WRONG, TWO_WRONG, RIGHT, RIGHT, RIGHT)
    quality = measured(patience=2)
    assert len(fit(quality, epochs=9)["loss"]) == 3
    assert len(fit(quality, epochs=9)["loss"]) == 4
    assert quality.best.value == 0.0


def test_another_model_has_a_best_of_its_own(scripted, tmp_path):
    scripted(RIGHT, ONE_WRONG)
    quality = measured(best_path=tmp_path / "best.keras")
    fit(quality, epochs=1)
    (tmp_path / "best.keras").unlink()
    fit(quality, epochs=1)
    assert quality.best.value == 25.0
    assert (tmp_path / "best.keras").exists()


def test_measuring_before_fit_says_what_is_missing():
    with pytest.raises(RuntimeError, match=r"pass this callback to model.fit first"):
        measured().measure()


def test_the_first_metric_says_whether_equal_sources_are_one_example():
    words = measured(metrics=("wer", "bleu"), num_examples=2).examples
    assert words == [("read", ["R EH D", "R IY D"]), ("cat", ["K AE T"])]
    sentences = measured(metrics=("bleu", "wer"), num_examples=2).examples
    assert sentences == [("read", ["R EH D"]), ("read", ["R IY D"])]


def test_samples_are_shown_in_lines_of_80_columns_and_what_cannot_be_printed_is_not(scripted):
    long = "größe 日本語 \x1b[31m[bold]" + " word" * 40
    scripted({"read": "R IY D", "cat": long, "dog": "", "sun": ""})
    screen = io.StringIO()
    console = Console(file=screen, width=120)
    metrics = ("bleu", "chrf", "exact_match", "wer", "per")
    pairs = [pair for pair in PAIRS if pair[1] != "R EH D"]
    fit(measured(pairs, metrics, samples=2, console=console), epochs=1)
    lines = screen.getvalue().splitlines()
    assert lines[1].startswith("epoch 1  BLEU ")
    # 43 symbols for 3, and twice none for 3: 49 edits of 12
    assert lines[1].endswith("exact match 25.0  WER 75.0  PER 408.3")
    assert lines[2:7] == [
        "  source     read",
        "  reference  R IY D",
        "  output     R IY D",
        "  source     cat",
        "  reference  K AE T",
    ]
    assert lines[7].startswith("  output     größe 日本語  [31m[bold] word word")
    assert lines[7].endswith("…")
    assert len(lines) == 8
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in screen.getvalue()


def test_that_training_ended_early_is_said(scripted):
    scripted(ONE_WRONG, TWO_WRONG)
    screen = io.StringIO()
    fit(measured(patience=1, samples=1, console=Console(file=screen)), epochs=9)
    assert "No better validation WER for 1 evaluation; best 25.0." in screen.getvalue()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ()}, r"metrics must be a list of .*bleu, chrf.* metrics=\(\)"),
        ({"metrics": "bleu"}, "metrics must be a list of .* metrics='bleu'"),
        ({"metrics": ("blue",)}, r"metrics must be a list of .* metrics=\('blue',\)"),
        ({"metrics": ("wer", "wer")}, "metrics must be a list of different names"),
        ({"best_by": "bleu"}, r"best_by must be one of metrics.*'bleu', metrics=\('wer',\)"),
        ({"every": 0}, "every must be an integer from 1 .* every=0"),
        ({"patience": 0}, "patience must be an integer from 1 .* patience=0"),
        ({"num_examples": 0}, "num_examples must be an integer from 1 .* num_examples=0"),
        ({"pairs": []}, "pairs must hold at least one pair of texts. Received: none"),
        ({"pairs": [("a", "")], "metrics": ("per",)}, "references must not all be empty"),
    ],
)
def test_bad_arguments_are_refused_before_training(options, message):
    with pytest.raises(ValueError, match=message):
        measured(**options)


@pytest.mark.jax
def test_plain_fit_measures_the_weights_of_the_moment_with_a_search_compiled_once(tmp_path):
    pairs = [(f"{n} {m}", f"{m} {n}") for n in range(4) for m in range(4)]
    tokenizer = kt.Tokenizer.train((source for source, _ in pairs), 20, "word")
    sizes = {"num_layers": 1, "d_model": 16, "d_ff": 16, "num_heads": 2, "dropout": 0.0}
    config = kt.TransformerConfig.for_tokenizers("tiny", tokenizer, tokenizer, **sizes)
    model = kt.Transformer(config)
    model.compile(keras.optimizers.Adam(0.03), SmoothedCrossEntropy(0.1))
    batches = kt.data.make_dataset(pairs, tokenizer, tokenizer, batch_tokens=64)
    quality = kt.callbacks.TranslationQuality(
        pairs, tokenizer, tokenizer, ("exact_match",), best_path=tmp_path / "best.keras", samples=0
    )
    found = model.fit(batches, epochs=12, shuffle=False, verbose=0, callbacks=[quality]).history
    assert max(found["val_exact_match"]) > found["val_exact_match"][0]
    assert quality.outputs == texts(kt.Translator(model, tokenizer, tokenizer), pairs)
    best = keras.saving.load_model(tmp_path / "best.keras", compile=False)
    right = sum(
        output == target
        for output, (_, target) in zip(
            texts(kt.Translator(best, tokenizer, tokenizer), pairs), pairs, strict=True
        )
    )
    assert 100 * right / len(pairs) == max(found["val_exact_match"])
    if keras.backend.backend() == "tensorflow":
        compiled = quality._translator._search._compiled("greedy")
        assert compiled.experimental_get_tracing_count() == 1


def texts(translator, pairs):
    found = translator.translate([source for source, _ in pairs])
    return [hypotheses[0].text for hypotheses in found]
