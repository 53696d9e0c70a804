"""Labels are whole, apart from each other and drawn in their own script."""

import itertools
import warnings

import matplotlib
import numpy as np
import pytest
from matplotlib import font_manager

from keras_transformer import visualization as pictures
from keras_transformer.hypothesis import Hypothesis
from keras_transformer.visualization import fonts
from keras_transformer.visualization.labels import label_of

SCRIPTS = ["▁שלום", "▁السلام", "你好", "▁こんにちは", "안녕하세요", "▁Ωμέγα", "▁привет", "ệ"]
SPECIAL = ["<s>", "", "  ", "\n", "$x$", "▁Donaudampfschifffahrtsgesellschaft", "</s>", "glyph"]
FORTY = ((SCRIPTS + SPECIAL) * 3)[:40]
DEVANAGARI = "नमस्ते"


def random_weights(*shape):
    return np.random.default_rng(0).dirichlet(np.ones(shape[-1]), shape[:-1])


def hypotheses_of_forty_tokens():
    rows = [[*range(40)], [*range(20), *range(5, 25)], [*range(20), *range(9)], [7, *range(39)]]
    return [Hypothesis("", -0.3 * rank, row, True) for rank, row in enumerate(rows)]


PICTURES = {
    "attention": lambda: pictures.plot_attention(random_weights(40, 40), FORTY, FORTY[::-1]),
    "numbers": lambda: pictures.plot_attention(random_weights(40, 40), FORTY, numbers=True),
    "maps by title": lambda: pictures.plot_attention(
        {name: random_weights(40, 40) for name in ("one", "two", "three", "four")}, FORTY
    ),
    "grid": lambda: pictures.plot_attention_grid(random_weights(2, 3, 40, 40), FORTY),
    "similarity": lambda: pictures.plot_similarity({"dot": random_weights(40, 40)}, FORTY),
    "alignment": lambda: pictures.plot_alignment(random_weights(40, 40), FORTY, FORTY[::-1]),
    "beam search": lambda: pictures.plot_beam_search(
        hypotheses_of_forty_tokens(), lambda ids: [FORTY[i] for i in ids]
    ),
}


def drawn_texts(figure):
    """The text of everything that is written in a figure, with its box in pixels."""
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    texts = [
        text
        for text in figure.findobj(matplotlib.text.Text)
        if text.get_visible() and text.get_text().strip()
    ]
    # Axes without a frame have tick labels that are never drawn.
    hidden = {
        id(label)
        for axes in figure.axes
        if not axes.axison
        for axis in (axes.xaxis, axes.yaxis)
        for label in axis.findobj(matplotlib.text.Text)
    }
    # Matplotlib makes ticks outside of an axis's limits, and does not draw them.
    axes_of_bars = [child for axes in figure.axes for child in axes.child_axes]
    for axes in [*figure.axes, *axes_of_bars]:
        for axis in (axes.xaxis, axes.yaxis):
            shown = {id(tick) for tick in axis._update_ticks()}
            for tick in [*axis.majorTicks, *axis.minorTicks]:
                if id(tick) not in shown:
                    hidden |= {id(tick.label1), id(tick.label2)}
    return [(t.get_text(), t.get_window_extent(renderer)) for t in texts if id(t) not in hidden]


def overlaps(one, other):
    """Whether two boxes share more than the rounding of half a pixel."""
    across = min(one.x1, other.x1) - max(one.x0, other.x0)
    up = min(one.y1, other.y1) - max(one.y0, other.y0)
    return across > 0.5 and up > 0.5


@pytest.mark.parametrize("name", PICTURES)
def test_no_text_overlaps_another_or_is_cut_at_40_tokens(name):
    figure = PICTURES[name]()
    texts = drawn_texts(figure)
    assert len(texts) >= 5
    pairs = itertools.combinations(texts, 2)
    assert [(a[0], b[0]) for a, b in pairs if overlaps(a[1], b[1])] == []
    page = figure.bbox
    assert [
        text
        for text, box in texts
        if not (page.x0 <= box.x0 and page.y0 <= box.y0 and box.x1 <= page.x1 and box.y1 <= page.y1)
    ] == []


def test_the_check_of_overlaps_finds_labels_that_do():
    figure = PICTURES["attention"]()
    for label in figure.axes[0].get_yticklabels():
        label.set_fontsize(20)
    texts = drawn_texts(figure)
    assert any(overlaps(a[1], b[1]) for a, b in itertools.combinations(texts, 2))


def test_all_40_tokens_are_named_and_of_more_it_is_said_how_many():
    axes = PICTURES["attention"]().axes[0]
    assert len(axes.get_xticklabels()) == 40
    assert min(label.get_fontsize() for label in axes.get_xticklabels()) >= 8
    many = pictures.plot_attention(random_weights(3, 400), ["a"] * 400, ["b"] * 3).axes[0]
    assert "is named" in many.get_xlabel()
    assert len(many.get_xticklabels()) < 400


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_drawn_without_boxes_and_warnings(script):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (drawn,), _ = fonts.fonts_for([script])
        figure = pictures.plot_attention([[1.0]], [script])
        figure.canvas.draw()
    assert drawn == script


def ink(text, families):
    """What is drawn for a text, without the empty space around it."""
    figure = matplotlib.figure.Figure(figsize=(4, 1))
    canvas = matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
    figure.text(0.1, 0.5, text, family=families, fontsize=20)
    canvas.draw()
    dark = np.asarray(canvas.buffer_rgba())[:, :, 0] < 128
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    return dark[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def test_hebrew_runs_from_right_to_left_and_arabic_letters_join():
    _, families = fonts.fonts_for(["ול", "بب"])
    lamed, vav = ink("ל", families), ink("ו", families)
    both = ink("ול", families)  # vav is read first, so it stands at the right
    assert both[:, -vav.shape[1] :].sum() < both[:, : lamed.shape[1]].sum()
    assert len(lamed) > len(vav)
    assert both[0, : both.shape[1] // 2].any()  # the tall lamed
    assert not both[0, -vav.shape[1] :].any()
    assert ink("بب", families).any(axis=0).all(), "joined letters leave no gap"
    assert not ink("ب\u200cب", families).any(axis=0).all(), "and others do"


def test_shared_characters_take_the_forms_of_the_language_beside_them():
    japanese = fonts.fonts_for(["直", "こ"])[1]
    korean = fonts.fonts_for(["直", "안"])[1]
    chinese = fonts.fonts_for(["直"])[1]
    assert [names[-1][-2:] for names in (japanese, korean, chinese)] == ["JP", "KR", "SC"]


@pytest.fixture
def _only_latin_fonts(monkeypatch):
    """A machine that has DejaVu alone."""
    entries = [e for e in font_manager.fontManager.ttflist if e.name.startswith("DejaVu")]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", entries)
    monkeypatch.setattr(fonts, "add_packaged_font", lambda: None)


@pytest.mark.usefixtures("_only_latin_fonts")
def test_letters_that_no_font_has_are_one_warning_that_says_what_to_do():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure = pictures.plot_attention([[0.5, 0.5]], [DEVANAGARI, "你好"], ["ok"])
        figure.canvas.draw()
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "Chinese, Japanese or Korean, Devanagari" in message
    assert 'pip install ".[notebooks]"' in message
    assert "fonts-noto-core" in message
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["□" * 6, "□□"]


@pytest.mark.usefixtures("_only_latin_fonts")
def test_joiners_and_marks_of_direction_are_not_missing_letters():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = pictures.plot_attention([[1.0]], ["می\u200cروم\u200f"])
        figure.canvas.draw()
    [label] = figure.axes[0].get_xticklabels()
    assert "روم" in label.get_text()
    assert "□" not in label.get_text()


@pytest.mark.parametrize(
    ("token", "label"),
    [
        ("", "(empty)"),
        (" ", "␣"),
        ("a\tb", "a\\tb"),
        ("\n", "\\n"),
        ("\ud800", "\\ud800"),
        ("▁the", "▁the"),
        ("x" * 20, "x" * 20),
        ("x" * 21, "x" * 19 + "…"),
        ("x" * 18 + "e\u0301" + "xx", "x" * 18 + "…"),
        ("a\u200bb", "a\\u200bb"),
        ("\u202e", "\\u202e"),
        ("soft\u00adly", "soft\\xadly"),
        ("\u2003", "\\u2003"),
        ("\u3000", "␣"),
        ("\u200d", "\\u200d"),
        ("می\u200cروم", "می\u200cروم"),
        ("\u0301", "\u25cc\u0301"),
    ],
)
def test_what_is_written_for_a_token(token, label):
    assert label_of(token) == label
