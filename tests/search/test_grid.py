import pytest

from jetlit.errors import UserError
from jetlit.search.grid import state_size_rows

TABLE_2 = [
    (256, 288, 4),
    (192, 384, 4),
    (128, 576, 4),
    (256, 144, 8),
    (192, 192, 8),
    (128, 288, 8),
    (128, 192, 12),
    (96, 256, 12),
    (64, 384, 12),
]


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
