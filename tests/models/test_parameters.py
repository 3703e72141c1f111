"""Parameter counts from shapes alone: the paper's table 2 and the released 2B."""

import pytest

from jetlit.models import JetNemotronConfig
from jetlit.models.parameters import PAPER_GRID, GridRow, count_parameters, grid_config

MISPRINT = PAPER_GRID[3]  # 256 · 144 · 8: see GridRow


def billions(row: GridRow) -> float:
    return round(count_parameters(grid_config(row.key_dim, row.value_dim, row.heads)) / 1e9, 2)


@pytest.mark.parametrize("row", [row for row in PAPER_GRID if row != MISPRINT], ids=str)
def test_table_2_parameter_column(row):
    assert row.key_dim * row.value_dim * row.heads == 294_912
    assert billions(row) == row.billions


def test_row_whose_printed_count_contradicts_its_neighbours():
    # q and k have 2,048 rows, v, g and o 1,152; the rest of the model is that of the first row.
    first, row = (count_parameters(grid_config(r.key_dim, r.value_dim, r.heads)) for r in (PAPER_GRID[0], MISPRINT))
    more_heads = 4 * 2 * (1536 + 1) + 144 - 288  # a, b, A_log, dt_bias of four heads; a narrower output norm
    assert row - first == 24 * (2 * 1024 * (1536 + 4) + more_heads)
    assert billions(MISPRINT) == 1.69


def test_released_2b():
    layers = ["jet"] * 28
    layers[14] = layers[19] = "attn"
    layers[20] = layers[21] = "swa"
    config = JetNemotronConfig(
        layer_types=layers,
        efficient_attention_config={
            "swa": {"window_size": 1152},
            "jet": {
                "mode": "chunk",
                "num_heads": 12,
                "head_dim": 96,
                "expand_v": 2.6666666667,
                "conv_size": 4,
                "dconv_generator_reduction": 8,
                "norm_eps": "1e-5",
                "dconv_implementation": "triton",
            },
        },
    )
    assert count_parameters(config) == 1_964_806_208


def test_tied_embedding_counts_once():
    small = {
        "vocab_size": 10,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    tied = count_parameters(JetNemotronConfig(**small))
    assert count_parameters(JetNemotronConfig(**small, tie_word_embeddings=False)) == tied + 80
