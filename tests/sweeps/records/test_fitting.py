"""A leaderboard on a terminal: what matters is there at any width, and no line is too long."""

from __future__ import annotations

import pytest

from gatesweep.sweeps.records.summary import leaderboard_text

GATED = ["val/edge_compliance", "val/rule_compliance"]
ROWS = [
    {
        "trial": f"trial_{number:04d}",
        "outcome": "passed" if number == 0 else "stopped",
        "epochs": 6 + number,
        "seconds": 29.6,
        "score": 1.74 - number,
        "best_score": 1.0,
        "val/edge_compliance": 0.9876,
        "val/edge_compliance_low": 0.978,
        "val/edge_compliance_high": 0.991,
        "val/rule_compliance": 0.5 + number / 100,
        "gate.bound=wilson": "misses",
        "trainable.learning_rate": 0.001 * (number + 1),
        "trainable.n_layers": number,
        "trainable.positions": "learned",
        "data.batch_size": 64,
        "reason": None,
    }
    for number in range(3)
]


@pytest.mark.parametrize("width", [45, 60, 80, 110, 400])
def test_the_gated_metrics_come_first_and_the_lines_fit(width: int) -> None:
    lines = leaderboard_text(ROWS, width, GATED).splitlines()
    assert max(map(len, lines)) <= width
    rows = [line.split() for line in lines if line.strip().startswith("trial_")]
    assert [row[:2] for row in rows] == [["trial_0000", "passed"], ["trial_0001", "stopped"], ["trial_0002", "stopped"]]
    if width < 110:
        assert all(row[2:4] == ["0.9876", f"{0.5 + number / 100:.4g}"] for number, row in enumerate(rows))
        assert lines[-1].startswith("not shown: ")
    if width == 80:  # what is the same in all trials goes first
        text = "\n".join(lines)
        assert "learning_" in text and "layers" in text and "positions" in lines[-1]
    if width == 400:
        assert lines == leaderboard_text(ROWS).splitlines()


def test_a_long_table_is_cut_and_an_empty_one_is_empty() -> None:
    assert leaderboard_text([], 80, GATED) == ""
    text = leaderboard_text([{**ROWS[0], "trial": f"trial_{number:04d}"} for number in range(120)], 60, GATED)
    assert text.splitlines()[-1] == "... and 70 more, in leaderboard.csv"
