"""Parameter counts from shapes alone."""

from jetlit.models import JetNemotronConfig
from jetlit.models.assembly import count_parameters


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
