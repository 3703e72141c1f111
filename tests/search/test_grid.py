import pytest

from jetlit.errors import UserError
from jetlit.models.assembly import count_parameters
from jetlit.search.grid import PAPER_BILLIONS, PAPER_GRID, GridRow, grid_config, state_size_rows

TABLE_2 = [(row.key_dim, row.value_dim, row.heads) for row in PAPER_GRID]
MISPRINT = PAPER_GRID[3]  # 256 · 144 · 8: see PAPER_BILLIONS


def billions(row: GridRow) -> float:
    return round(count_parameters(grid_config(row)) / 1e9, 2)


@pytest.mark.parametrize(
    ("row", "printed"), [pair for pair in zip(PAPER_GRID, PAPER_BILLIONS, strict=True) if pair[0] != MISPRINT], ids=str
)
def test_table_2_parameter_column(row: GridRow, printed: float) -> None:
    assert row.state_size == 294_912
    assert billions(row) == printed


def test_row_whose_printed_count_contradicts_its_neighbors() -> None:
    # q and k have 2,048 rows, v, g and o 1,152; the rest of the model is that of the first row.
    first, row = (count_parameters(grid_config(row)) for row in (PAPER_GRID[0], MISPRINT))
    more_heads = 4 * 2 * (1536 + 1) + 144 - 288  # a, b, A_log, dt_bias of four heads; a narrower output norm
    assert row - first == 24 * (2 * 1024 * (1536 + 4) + more_heads)
    assert billions(MISPRINT) == 1.69


def test_rows_of_table_2_come_out_of_its_grid() -> None:
    rows = state_size_rows(
        294_912, [256, 192, 128, 96, 64], sorted({value for _, value, _ in TABLE_2}), [4, 8, 12], tolerance=0.0
    )
    found = [(row.key_dim, row.value_dim, row.heads) for row in rows]
    assert set(TABLE_2) <= set(found)
    assert all(key * value * heads == 294_912 for key, value, heads in found)
    assert len(set(found)) == len(found)


def test_tolerance_is_relative_and_inclusive() -> None:
    values = {row.value_dim for row in state_size_rows(1000, [10], [9, 10, 11, 12], [10], tolerance=0.1)}
    assert values == {9, 10, 11}


def test_conv_sizes_multiply_the_rows_and_reach_the_block() -> None:
    rows = state_size_rows(64, [4], [8], [2], conv_sizes=[2, 4])
    assert [row.block_config() for row in rows] == [
        {"num_heads": 2, "head_dim": 4, "expand_v": 2.0, "conv_size": size} for size in (2, 4)
    ]
    assert "conv_size" not in state_size_rows(64, [4], [8], [2])[0].block_config()
    assert len({row.name for row in rows}) == 2


def test_expand_v_gives_the_value_dim_back() -> None:
    for row in state_size_rows(10**6, range(3, 200, 7), range(3, 200, 5), [1, 3], tolerance=1e9):
        assert int(row.key_dim * row.block_config()["expand_v"] + 1e-6) == row.value_dim


def test_a_state_size_no_row_meets_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"nearest is 96 \(d_K 4, d_V 8, 3 heads\)"):
        state_size_rows(100, [4], [8], [1, 3], tolerance=0.01)
    with pytest.raises(UserError, match="must be positive"):
        state_size_rows(100, [0], [8], [1])
