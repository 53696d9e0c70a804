"""The picture of a model has the boxes, shapes and parameters of that model."""

import re

import pytest
from matplotlib.patches import FancyBboxPatch

import keras_transformer as kt

SIZES = {
    "num_layers": 2,
    "d_model": 16,
    "d_ff": 32,
    "num_heads": 4,
    "source_vocab_size": 11,
    "target_vocab_size": 11,
}
OPTIONS = [
    {"embeddings": "shared"},
    {"embeddings": "tied", "positions": "rotary", "norm_first": True},
    {"embeddings": "separate", "positions": "learned", "norm_first": True, "final_norm": False},
]


def drawn(**options):
    model = kt.Transformer(kt.TransformerConfig.preset("tiny", **(SIZES | options)))
    return model, kt.visualization.plot_architecture(model)


def texts_of(figure):
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_parameters_of_all_boxes_are_those_of_the_model(options):
    model, figure = drawn(**options)
    lines = "\n".join(texts_of(figure))
    boxes = sum(int(n.replace(",", "")) for n in re.findall(r"([\d,]+) parameters", lines))
    layers = sum(int(n.replace(",", "")) for n in re.findall(r"([\d,]+) each", lines))
    assert boxes + layers == model.count_params()  # a layer is drawn once, and there are two
    assert figure.axes[0].get_title(loc="left") == f"{model.count_params():,} parameters"


def test_norms_stand_where_the_model_has_them():
    behind, before = (texts_of(drawn(norm_first=first)[1]) for first in (False, True))
    assert (behind.count("add and norm"), behind.count("norm")) == (5, 0)
    assert (before.count("add and norm"), before.count("norm")) == (0, 7)  # two behind the stacks


@pytest.mark.parametrize("options", OPTIONS)
def test_texts_are_apart_and_inside_their_boxes(options):
    _, figure = drawn(d_ff=20_000, **options)
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    texts = [text for text in figure.axes[0].texts if text.get_text()]
    places = [text.get_window_extent(renderer) for text in texts]
    overlaps = [
        (texts[i].get_text(), texts[j].get_text())
        for i in range(len(texts))
        for j in range(i)
        if places[i].overlaps(places[j])
    ]
    assert overlaps == []
    boxes = [
        patch.get_window_extent(renderer)
        for patch in figure.axes[0].patches
        if isinstance(patch, FancyBboxPatch)
    ]
    for text, place in zip(texts, places, strict=True):
        box = next((box for box in boxes if box.overlaps(place)), None)
        assert box is None or (box.x0 <= place.x0 and place.x1 <= box.x1), text.get_text()


def test_another_model_is_refused():
    sizes = {"d_embedding": 4, "hidden_size": 6, "units": 5, "maxout_size": 3}
    config = kt.RNNSearchConfig(source_vocab_size=9, target_vocab_size=9, **sizes)
    with pytest.raises(ValueError, match="model must be a Transformer.* Received: RNNSearch"):
        kt.visualization.plot_architecture(kt.RNNSearch(config))
