import numpy as np
import pytest

from keras_transformer.training.curve import curve_of, draw_curve

TABLE = """\
epoch,learning_rate,loss,seconds,step,val_averaged_bleu,val_averaged_loss,val_bleu,val_loss
0,0.001,5.0,1800,100,10.0,4.5,10.0,4.5
1,0.002,4.0,3600,200,20.0,3.0,15.0,4.0
2,0.001,3.5,7200,300,22.0,2.5,,3.0
"""


@pytest.fixture
def metrics(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(TABLE)
    return path


def lines(axis):
    return {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in axis.get_lines()}


def test_losses_quality_and_rate_stand_above_each_other_against_steps_and_hours(metrics):
    *panels, hours = curve_of(metrics, "bleu").axes
    assert [panel.get_ylabel() for panel in panels] == [
        "loss (nats a token)",
        "BLEU",
        "learning rate",
    ]
    assert panels[-1].get_xlabel() == "steps"
    names = ["training", "validation", "validation, mean of weights"]
    assert list(lines(panels[0])) == names
    steps, values = lines(panels[0])["validation, mean of weights"]
    assert (steps.tolist(), values.tolist()) == ([100, 200, 300], [4.5, 3.0, 2.5])
    np.testing.assert_array_equal(lines(panels[1])["validation"][1], [10, 15, np.nan])
    assert lines(panels[2])["learning rate"][1].tolist() == [0.001, 0.002, 0.001]
    assert hours.get_xlabel() == "hours"
    marks = dict(zip(hours.get_xticks(), hours.get_xticklabels(), strict=True))
    assert {mark: label.get_text() for mark, label in marks.items() if mark in (100, 200, 300)} == {
        100: "0.5",
        200: "1",
        300: "2",
    }


def test_lines_differ_without_colour(metrics):
    for panel in curve_of(metrics, "bleu").axes[:2]:
        styles = [(line.get_linestyle(), line.get_marker()) for line in panel.get_lines()]
        assert len(set(styles)) == len(styles)


def test_what_was_not_measured_has_no_panel_and_a_short_run_is_in_minutes(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,loss,seconds,step,val_bleu\n0,2.0,90,10,\n")
    losses, minutes = curve_of(path, "bleu").axes
    assert list(lines(losses)) == ["training"]
    assert minutes.get_xlabel() == "minutes"


def test_the_picture_is_whole_and_takes_the_place_of_the_one_before(metrics, tmp_path):
    picture = tmp_path / "curve.png"
    picture.write_bytes(b"older")
    draw_curve(metrics, picture)
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert data.endswith(b"IEND\xaeB`\x82")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.png", "metrics.csv"]
