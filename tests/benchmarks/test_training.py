"""What `benchmarks/training.py` counts, compares and varies, without the processes it starts."""

import math
from pathlib import Path

import pytest
from layer_contestants import SIZES, Sizes, floating_point_operations
from layers import Contestant
from markdown_table import print_markdown
from real_batches import GIVING_BACK, Entry, Turn, better, fixed
from training import GRID, varied
from training_report import Point, draw, print_costs, print_real, ratio
from turns import Runner


def entry(name, *speeds):
    turns = [Turn(tokens, 1.0, 2.0, 10**9) for tokens in speeds]
    return Entry(Runner(name, Path("log")), 100, 3, 0.25, turns)


def contestant(name, seconds, sizes=SIZES):
    found = Contestant(Runner(name, Path("log")), sizes, 100)
    found.seconds["train"], found.cpu["train"] = seconds, seconds
    return found


def test_operations_are_those_of_the_products_counted_by_hand():
    one = Sizes(1, 1, 1, 1, vocabulary=1, batch=1, source=1, target=1)
    # encoder: 4 projections, 2 of the feed-forward network, scores and their sum
    # decoder: 4 + 2 of the target, 2 of the memory, 2 feed-forward, twice scores and sum; output
    assert floating_point_operations("forward", one) == 2 * ((4 + 2 + 2) + (6 + 2 + 2 + 4) + 1)
    assert floating_point_operations("train", one) == 3 * floating_point_operations("forward", one)
    assert round(floating_point_operations("train") / 1e9, 1) == 94.6


@pytest.mark.parametrize("axis", GRID)
def test_each_size_is_varied_alone_around_the_middle(axis):
    sizes = [varied(SIZES, axis, value) for value in GRID[axis]]
    assert SIZES in sizes
    assert len(set(sizes)) == len(GRID[axis])
    for one in sizes:
        assert one.batch * one.source == one.batch * one.target == SIZES.batch * SIZES.source
        assert one.d_ff == 4 * one.d_model
        assert one.d_model // one.heads == SIZES.d_model // SIZES.heads


def test_a_ratio_is_the_median_of_the_rounds_and_not_of_the_speeds():
    assert ratio(entry("ours", 20, 90, 40), entry("peer", 10, 30, 40)) == 2.0
    assert math.isnan(ratio(entry("ours", 20), None))


def test_the_better_setting_of_a_side_is_the_one_compared(capsys):
    entries = [
        entry("ours, TensorFlow", 30, 30),
        entry("ours, TensorFlow, jit", 10, 20),
        entry(GIVING_BACK, 99, 99),
        entry("KerasHub, TensorFlow", 5, 5),
        entry("KerasHub, TensorFlow, jit", 10, 10),
        entry("KerasHub that failed"),
    ]
    assert better(entries, "ours") is entries[0]
    assert better(entries, "KerasHub") is entries[4]
    assert better(entries, "torch") is None
    print_real(entries, PREPARED, SIZES, steps=10)
    said = capsys.readouterr().out
    assert "**ours, TensorFlow / KerasHub, TensorFlow, jit: 3.00 x** real target tokens" in said
    assert "cuts 5 pairs (1.0%)" in said


PREPARED = type("Prepared", (), {"pairs": 500, "vocabulary": 90, "cut": 5})()


def test_rows_of_a_fixed_length_end_with_padding():
    assert fixed([5, 6, 3], 5).tolist() == [5, 6, 3, 0, 0]


def test_a_table_is_markdown_with_numbers_to_the_right(capsys):
    print_markdown("Title", ["", "ms"], [["ours", "7"], ["the peer", "1,234"]])
    assert capsys.readouterr().out.splitlines() == [
        "",
        "Title",
        "",
        "|          |    ms |",
        "| -------- | ----: |",
        "| ours     |     7 |",
        "| the peer | 1,234 |",
    ]


def test_costs_are_a_table_and_a_picture(capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra [references]")
    machine = contestant("matrix product", [0.1, 0.1])
    points = [
        Point(axis, value, machine, contestant("ours", [1.0, 3.0], varied(SIZES, axis, value)))
        for axis, values in GRID.items()
        for value in values
    ]
    print_costs(points)
    lines = capsys.readouterr().out.splitlines()
    assert sum("2,000 |" in line for line in lines) == len(points)  # the median of 1 s and 3 s
    draw(tmp_path / "costs.png", points)
    assert (tmp_path / "costs.png").read_bytes().startswith(b"\x89PNG")
