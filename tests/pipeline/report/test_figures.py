import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from jetlit.pipeline.report import figures, style
from jetlit.pipeline.report.tables import candidate_table, compact, markdown

POINT = st.tuples(st.integers(0, 6), st.integers(0, 6))


@given(st.lists(POINT, min_size=1, max_size=9))
def test_pareto_front_holds_exactly_the_rows_nothing_beats(points: list[tuple[int, int]]) -> None:
    accuracy, throughput = [a for a, _ in points], [t for _, t in points]

    def beaten(i: int) -> bool:
        return any(
            (accuracy[j] >= accuracy[i] and throughput[j] >= throughput[i])
            and (accuracy[j] > accuracy[i] or throughput[j] > throughput[i])
            for j in range(len(points))
        )

    front = figures.pareto_front(accuracy, throughput)
    assert {points[i] for i in front} == {points[i] for i in range(len(points)) if not beaten(i)}
    assert all(throughput[i] < throughput[j] for i, j in itertools.pairwise(front))


def test_heatmap_shows_every_objective_and_marks_the_kept_layers(tmp_path: Path) -> None:
    rows = {"recall": [0.125, 0.5, 0.25], "choice": [-2.0, -1.75, -1.5]}
    figure = figures.heatmap(
        rows,
        {"recall": 0.1, "choice": -2.1},
        {"recall": 0.9, "choice": -1.0},
        [1],
        {"recall": "accuracy", "choice": "nats"},
    )
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.texts] == ["0.125", "0.500", "0.250", "-2.000", "-1.750", "-1.500"]
    assert [label.get_text().endswith("▲") for label in axis.get_xticklabels()] == [False, True, False]
    assert axis.get_title() and axis.get_xlabel()
    style.save(figure, tmp_path / "heatmap.png")
    assert imread(tmp_path / "heatmap.png").ndim == 3


def test_heatmap_of_tasks_without_a_gap_is_drawn_too() -> None:
    figures.heatmap({"a": [0.0, 0.0]}, {"a": 0.0}, {"a": 0.0}, [], {"a": "accuracy"})


def test_curve_has_a_panel_for_the_objective_and_each_task() -> None:
    points = [{"budget": b, "value": b / 2, "scores": {"recall": b / 4, "choice": -b}} for b in (1, 2)]
    figure = figures.curve(points, points, budget=1)
    assert [axis.get_ylabel().split("\n")[0] for axis in figure.axes] == ["combined objective", "choice", "recall"]
    searched = figure.axes[2].lines[0]
    assert list(searched.get_xdata()) == [1, 2] and list(searched.get_ydata()) == [0.25, 0.5]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (7, "7"),
        (9999, "9999"),
        (12345, "12.3k"),
        (1_964_806_208, "1.96B"),
        (0.87346, "0.8735"),
        (2500.4, "2500"),
    ],
)
def test_numbers_as_people_read_them(value: float | None, text: str) -> None:
    assert compact(value) == text


def test_candidate_table_has_units_and_a_dash_for_what_was_not_measured() -> None:
    full = {"accuracy": 0.5, "recall/accuracy": 0.25}
    header, rows = candidate_table("block", ["a", "b"], [full | {"decode_tokens_per_s": 123.0}, full])
    assert header[0] == "block" and "recall\n(accuracy)" in header and "decode\n(tokens/s)" in header
    column = header.index("decode\n(tokens/s)")
    assert rows[0][column] == "123" and rows[1][column] == "-"
    text = markdown(header, rows, chosen=1)
    assert text.splitlines()[-1].startswith("| **b** |") and text.count("\n") == 4


def test_a_figure_that_cannot_be_drawn_leaves_no_file(tmp_path: Path) -> None:
    class Broken:
        def savefig(self, *args: object, **kwargs: object) -> None:
            raise RuntimeError("no canvas")

    with pytest.raises(RuntimeError):
        style.save(Broken(), tmp_path / "x.png")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
