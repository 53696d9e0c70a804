"""What each picture shows, and what it refuses."""

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from keras_transformer import visualization as pictures
from keras_transformer.hypothesis import Hypothesis

SOURCE, TARGET = ["the", "cat", "</s>"], ["le", "chat"]
WEIGHTS = np.random.default_rng(0).dirichlet(np.ones(3), (2, 4, 2))  # [L, N, T, S]
BEST = [Hypothesis("a b", -0.1, [5, 6], True), Hypothesis("a", -0.4, [5], False)]


def image_of(axes):
    return np.asarray(axes.images[0].get_array())


def test_a_layer_and_a_head_or_their_mean_are_drawn():
    one = pictures.plot_attention(WEIGHTS, SOURCE, TARGET, layer=1, head=3)
    np.testing.assert_allclose(image_of(one.axes[0]), WEIGHTS[1, 3])
    assert one.axes[0].get_title(loc="left") == "Attention, layer 1, head 3"
    mean = pictures.plot_attention(WEIGHTS, SOURCE, TARGET, layer=0)
    np.testing.assert_allclose(image_of(mean.axes[0]), WEIGHTS[0].mean(axis=0))
    assert mean.axes[0].get_title(loc="left") == "Attention, layer 0, mean of 4 heads"


def test_maps_by_title_stand_side_by_side_on_one_scale():
    maps = {"first": WEIGHTS[0], "second": WEIGHTS[1, 2]}
    figure = pictures.plot_attention(maps, SOURCE, TARGET)
    first, second = figure.axes
    np.testing.assert_allclose(image_of(first), WEIGHTS[0].mean(axis=0))
    np.testing.assert_allclose(image_of(second), WEIGHTS[1, 2])
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(maps)
    largest = max(WEIGHTS[0].mean(axis=0).max(), WEIGHTS[1, 2].max())
    assert {axes.images[0].get_clim() for axes in figure.axes} == {(0, largest)}
    assert first.get_position().x1 < second.get_position().x0


def test_numbers_are_written_in_their_cells_dark_on_light_and_light_on_dark():
    weights = [[0.9, 0.1], [0.25, 0.75]]
    (axes,) = pictures.plot_attention(weights, ["a", "b"], numbers=True).axes
    written = {text.get_position(): (text.get_text(), text.get_color()) for text in axes.texts}
    assert written == {
        (0, 0): ("0.90", "black"),
        (1, 0): ("0.10", "white"),
        (0, 1): ("0.25", "white"),
        (1, 1): ("0.75", "black"),
    }
    (axes,) = pictures.plot_similarity(
        {"dot": [[-100.0, 2.5]]}, ["a", "b"], ["c"], numbers=True
    ).axes
    assert [text.get_text() for text in axes.texts] == ["-100.00", "2.50"]


def test_the_grid_has_every_map_in_its_place_on_one_scale():
    figure = pictures.plot_attention_grid(WEIGHTS, SOURCE, TARGET)
    np.testing.assert_allclose([image_of(a) for a in figure.axes], WEIGHTS.reshape(8, 2, 3))
    assert {axes.images[0].get_clim() for axes in figure.axes} == {(0, WEIGHTS.max())}
    tops = [axes.get_position().y1 for axes in figure.axes]
    assert min(tops[:4]) > max(tops[4:])


def test_maps_name_their_axes_and_their_colours():
    maps = [
        pictures.plot_attention(WEIGHTS[0, 0], SOURCE, TARGET),
        pictures.plot_similarity({"dot": -WEIGHTS[0, 0]}, SOURCE, TARGET),
        pictures.plot_position_encoding(WEIGHTS[0, 0]),
    ]
    for figure in maps:
        (axes,) = figure.axes
        assert axes.get_xlabel()
        assert axes.get_ylabel()
        (bar,) = axes.child_axes
        assert bar.get_ylabel() in {"weight", "score", "value"}
    grid = pictures.plot_attention_grid(WEIGHTS, SOURCE, TARGET)
    assert (grid.get_supylabel(), grid.get_supxlabel()) == ("target", "source")
    assert grid.axes[3].child_axes[0].get_ylabel() == "weight"


def test_an_alignment_draws_large_weights_and_always_the_largest():
    figure = pictures.plot_alignment([[0.5, 0.3, 0.2], [0.4, 0.3, 0.3]], SOURCE, TARGET, least=0.45)
    first, second = figure.axes[0].lines
    assert first.get_linewidth() > second.get_linewidth()
    assert tuple(first.get_ydata()) == (2.5, 2.0)  # from "the" to "le"


def test_hypotheses_share_their_beginning_and_show_probabilities():
    log_probs = np.log([[0.5, 0.25, 1.0], [0.5, 0.5, 1.0]])
    figure = pictures.plot_beam_search(
        BEST, lambda ids: ["?ab"[i - 4] for i in ids], log_probs=log_probs
    )
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == [
        "start",
        "a\np = 0.5",
        "b\np = 0.25",
        "1.  score -0.10",
        "2.  score -0.40, not finished",
    ]


def test_what_a_search_gave_up_is_dashed_and_has_no_score():
    dropped = [Hypothesis("", -2.0, [5, 7], False), Hypothesis("", -3.0, [8], False)]
    figure = pictures.plot_beam_search(BEST, given_up=dropped)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == [
        "start", "5", "6", "1.  score -0.10", "2.  score -0.40, not finished", "7", "given up",
        "8", "given up",
    ]  # fmt: skip
    dashed = [line.get_linestyle() == "--" for line in figure.axes[0].lines]
    # start-5, 5-6, 6-end, 5-end, 5-7, 7-end, start-8, 8-end
    assert dashed == [False, False, False, False, True, True, True, True]


def test_the_attention_of_one_token_has_a_row_for_each_head():
    figure = pictures.plot_token_attention(WEIGHTS, SOURCE, TARGET, token=np.int64(1))
    np.testing.assert_allclose(image_of(figure.axes[0]), WEIGHTS[:, :, 1].reshape(8, 3))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert (labels[0], labels[-1]) == ("layer 0, head 0", "layer 1, head 3")
    assert figure.axes[0].get_title(loc="left") == 'Where "chat" looks'


def test_a_history_is_taken_from_keras_from_a_dict_and_from_a_run(tmp_path):
    rows = {"loss": [2.0, 1.5], "val_loss": [2.2, 1.9], "bleu": [1.0, 2.0]}

    class History:
        history = rows

    lines = [
        "epoch,seconds,step,loss,val_loss,val_wer",
        "0,1.5,10,2.0,2.2,",
        "1,3.0,20,1.5,1.9,0.5",
    ]
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")
    for history in (History(), rows):
        figure = pictures.plot_history(history)
        assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "bleu"]
        training, validation = figure.axes[0].lines
        assert training.get_xydata().tolist() == [[1, 2.0], [2, 1.5]]
        assert validation.get_xydata().tolist() == [[1, 2.2], [2, 1.9]]
    for path in (tmp_path, str(tmp_path / "metrics.csv")):
        loss, wer = pictures.plot_history(path).axes
        assert loss.lines[0].get_xydata().tolist() == [[10, 2.0], [20, 1.5]]
        assert wer.lines[0].get_xydata().tolist() == [[20, 0.5]]
    assert len(pictures.plot_history(tmp_path, metrics=["wer"]).axes) == 1


def test_a_loss_that_is_no_number_is_counted_in_the_legend():
    figure = pictures.plot_history({"loss": [2.0, float("nan"), float("inf")]})
    (label,) = figure.axes[0].get_legend().get_texts()
    assert label.get_text() == "training (2 not finite)"
    assert figure.axes[0].get_xlim() == (0.5, 3.5)  # all three epochs


def test_no_finite_loss_at_all_is_said_and_no_scale_invented():
    (axes,) = pictures.plot_history({"loss": [float("nan")] * 3}).axes
    assert [text.get_text() for text in axes.texts] == ["no finite value"]
    assert axes.get_yticks().size == 0
    assert axes.get_xlim() == (0.5, 3.5)


def test_measures_in_percent_say_so_and_epochs_are_counted_from_one():
    rows = {"val_wer": [50.0] * 200, "exact_match": [1.0] * 200, "bleu": [1.0] * 200}
    axes = pictures.plot_history(rows).axes
    assert [one.get_ylabel() for one in axes] == ["wer (%)", "exact match (%)", "bleu"]
    low, high = axes[0].get_xlim()
    assert min(tick for tick in axes[0].get_xticks() if low <= tick <= high) >= 1


def test_one_epoch_and_one_position_have_whole_numbers_at_their_axes():
    one_epoch = pictures.plot_history({"loss": [2.0]}).axes[0]
    one_position = pictures.plot_position_encoding([[0.5, 1.0]]).axes[0]
    for axis in (one_epoch.xaxis, one_position.xaxis, one_position.yaxis):
        assert [place for place in axis.get_ticklocs() if place % 1] == []


def test_weights_that_are_all_zero_are_drawn_on_the_scale_of_weights():
    nothing = np.zeros((1, 1, 2, 2))
    figures = (
        pictures.plot_attention(nothing, ["a", "b"]),
        pictures.plot_attention_grid(nothing, ["a", "b"]),
        pictures.plot_token_attention(nothing, ["a", "b"], token=0),
    )
    assert {figure.axes[0].images[0].get_clim() for figure in figures} == {(0, 1)}


def test_a_picture_shows_itself_in_jupyter_and_leaves_no_figure_open():
    figure = pictures.plot_attention([[1.0]], ["a"])
    assert isinstance(figure, Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: pictures.plot_attention(WEIGHTS[0, 0], SOURCE[:2], TARGET),
            r"shape \(2, 3\), 2 source_tokens, 2 target_tokens",
        ),
        (
            lambda: pictures.plot_attention_grid(WEIGHTS, SOURCE, SOURCE),
            r"shape \(2, 4, 2, 3\), 3 source_tokens, 3 target_tokens",
        ),
        (
            lambda: pictures.plot_alignment(WEIGHTS, TARGET, SOURCE),
            r"shape \(2, 3\), 2 source_tokens, 3 target_tokens",
        ),
        (
            lambda: pictures.plot_similarity({"dot": WEIGHTS[0, 0]}, SOURCE),
            r"scores\['dot'\] must have a row .* of shape \(2, 3\), 3 source_tokens",
        ),
        (
            lambda: pictures.plot_attention([[0.5, np.nan]], TARGET, ["x"]),
            r"weights must be finite .* Received: nan at \[0, 1\]$",
        ),
        (lambda: pictures.plot_attention([[-0.5, 1.5]], TARGET, ["x"]), "plot_similarity.*-0.5"),
        (lambda: pictures.plot_attention([[0.5, 1.5]], TARGET, ["x"]), "plot_similarity.* 1.5"),
        (lambda: pictures.plot_attention([[0.5j]], ["x"]), "weights must be numbers.*complex"),
        (
            lambda: pictures.plot_attention_grid(WEIGHTS[0], SOURCE, TARGET),
            r"Of one layer, give weights\[None\]. Received: shape \(4, 2, 3\)",
        ),
        (lambda: pictures.plot_attention(WEIGHTS, SOURCE, TARGET, title=5), "title=5"),
        (lambda: pictures.plot_attention_grid(WEIGHTS, SOURCE, TARGET, title=5), "title=5"),
        (lambda: pictures.plot_alignment([[1.0]], ["a"], ["b"], title=5), "title=5"),
        (lambda: pictures.plot_position_encoding([[1.0]], title=5), "title=5"),
        (lambda: pictures.plot_beam_search(BEST, title=5), "title=5"),
        (
            lambda: pictures.plot_token_attention(WEIGHTS, SOURCE, TARGET, token=0, title=5),
            "title=5",
        ),
        (lambda: pictures.explore_attention(["a"], encoder=[[1.0]], title=5), "title=5"),
        (
            lambda: pictures.plot_beam_search([Hypothesis("a", float("nan"), [5], True)]),
            r"hypotheses\[0\].score=nan",
        ),
        (
            lambda: pictures.plot_attention(WEIGHTS[None], SOURCE, TARGET),
            r"weights\[0\].*\(1, 2, 4",
        ),
        (lambda: pictures.plot_attention([["a"]], ["x"]), "weights must be numbers"),
        (lambda: pictures.plot_attention(np.zeros((0, 3)), SOURCE, []), r"shape \(0, 3\)"),
        (lambda: pictures.plot_attention([[1.0]], []), r"at least one token. Received: source_tok"),
        (lambda: pictures.plot_attention([[1.0]], "a"), "source_tokens='a'"),
        (lambda: pictures.plot_attention([[1.0]], [7]), r"source_tokens\[0\]=7"),
        (
            lambda: pictures.plot_attention(WEIGHTS, SOURCE, TARGET, head=4),
            "head must be an integer from 0 to 3, .* Received: head=4",
        ),
        (
            lambda: pictures.plot_attention(WEIGHTS[0], SOURCE, TARGET, layer=0),
            "layer must be None .* Received: layer=0",
        ),
        (lambda: pictures.plot_attention({}, SOURCE), "at least one map.* Received: weights={}"),
        (
            lambda: pictures.plot_attention({"x": WEIGHTS[0, 0]}, SOURCE),
            r"weights\['x'\] must have a row .* of shape \(2, 3\)",
        ),
        (lambda: pictures.plot_attention({"x": [[1]]}, ["a"], title="t"), "Received: title='t'"),
        (
            lambda: pictures.plot_attention(np.eye(60), ["a"] * 60, numbers=True),
            "numbers=True needs fewer tokens.* Received: 60 rows, 60 columns",
        ),
        (
            lambda: pictures.plot_token_attention(WEIGHTS, SOURCE, TARGET, token=2),
            "token must be an integer from 0 to 1, .* Received: token=2",
        ),
        (lambda: pictures.plot_architecture(7), "model must be a Transformer.* Received: int"),
        (
            lambda: pictures.plot_beam_search(BEST, given_up=[Hypothesis("", 0.0, [], False)]),
            r"at least one token .* Received: given_up\[0\]=Hypothesis",
        ),
        (lambda: pictures.plot_alignment([[1.0]], ["a"], ["b"], least=2), "least=2"),
        (lambda: pictures.plot_similarity({}, SOURCE), "scores must be a dict"),
        (lambda: pictures.plot_position_encoding([1.0, 2.0]), r"\[T, D\].*shape \(2,\)"),
        (lambda: pictures.plot_beam_search([]), "at least one. Received: hypotheses="),
        (lambda: pictures.plot_beam_search([BEST]), "hypotheses must be a list of Hypothesis"),
        (lambda: pictures.plot_beam_search(BEST, lambda ids: ["x"]), "1 strings for 2 ids"),
        (
            lambda: pictures.plot_beam_search(BEST, log_probs=[[-1.0, -1.0]]),
            r"shape \(1, 2\), 2 hypotheses of up to 2 tokens",
        ),
        (lambda: pictures.plot_history({}), "at least one epoch"),
        (lambda: pictures.plot_history(7), "Received: int"),
        (lambda: pictures.plot_history({"loss": [1], "val_loss": [1, 2]}), "equally many"),
        (lambda: pictures.plot_history({"loss": [1]}, metrics=["wer"]), r"loss. Received: .*wer"),
        (lambda: pictures.plot_history("no such run"), "no such run is missing or damaged"),
    ],
)
def test_what_a_picture_cannot_show_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
