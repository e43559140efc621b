"""Tables for a terminal."""

from __future__ import annotations

from gatesweep.sweeps.records.summary import leaderboard_text
from gatesweep.sweeps.records.text import format_cell, text_table


def test_a_table_is_aligned_to_either_side() -> None:
    rows = [["1", "x"], ["222", ""]]
    assert text_table(["a", "long"], rows) == "a    long\n1    x\n222"
    assert text_table(["a", "long"], rows, align="right") == "  a  long\n  1     x\n222      "


def test_a_leaderboard_has_a_column_for_each_key_even_where_short_names_are_equal() -> None:
    rows = [
        {"trial": "trial_0000", "val/loss": 0.123456, "a.lr": 0.5, "reason": "none"},
        {"trial": "trial_0001", "val/loss": None, "b.lr": 2, "best_score": 1.0},
    ]
    assert leaderboard_text(rows).splitlines() == [
        "     trial    loss   lr  lr",
        "trial_0000  0.1235  0.5    ",
        "trial_0001                2",
    ]
    assert leaderboard_text([]) == ""


def test_a_cell_holds_four_digits_or_nothing() -> None:
    assert [format_cell(value) for value in (None, 0.123456, 12345, "text", True)] == [
        "", "0.1235", "12345", "text", "True"
    ]  # fmt: skip
