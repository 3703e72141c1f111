"""The hybrid's configuration: the released Jet-Nemotron keys, and a few more for other teachers."""

# No postponed annotations here: `strict` checks fields against the types themselves.
import math
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, configuration_utils
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from jetlit.blocks import BLOCKS, get_block
from jetlit.errors import UserError

# What the released code reads; only jetlit loads other configurations.
RELEASED_LAYER_TYPES = ("jet", "attn", "swa")
# The Python files beside a checkpoint: of the released code, or jetlit's own (checkpoint.py), which import jetlit.
AUTO_MAP = {
    "AutoConfig": "configuration_jet_nemotron.JetNemotronConfig",
    "AutoModelForCausalLM": "modeling_jet_nemotron.JetNemotronForCausalLM",
}
# Keys that the released code lacks, with the values that it has built in.
_EXTENSIONS: dict[str, Any] = {"attention_bias": True, "output_bias": False, "mlp_bias": False, "qk_norm": False}
_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings",
)  # fmt: skip
_LARGEST_SIZE = 2**30  # the product of two fits a tensor
_MOST_LAYERS = 1000  # more take minutes to build, even without weights


class _LayerTypes(tuple):
    """transformers' names of layer types and those of blocks, which may be registered later.

    Trainer reads config.json as a plain `PreTrainedConfig` when it resumes, whose check knows its own names alone.
    """

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in BLOCKS


configuration_utils.ALLOWED_ATTN_LAYER_TYPES = _LayerTypes(configuration_utils.ALLOWED_ATTN_LAYER_TYPES)


@strict
class JetNemotronConfig(PreTrainedConfig):
    """Configuration of a decoder whose layers each choose their token mixer.

    The keys are those of the released checkpoints. Both the old names of the rotary settings (`rope_theta`,
    `rope_scaling`, which are written) and the new one (`rope_parameters`) are read. Defaults are those of the 2B with
    full attention in every layer.

    Args:
        layer_types: a block name (`jetlit.blocks.BLOCKS`) for each layer; None means "attn" in all.
        efficient_attention_config: constructor arguments by block name: `{"swa": {"window_size": 1152}}`.
        head_dim: head size of attention; None means hidden_size / num_attention_heads.
        attention_bias: whether the query, key and value projections have biases.
        output_bias: whether attention's output projection has a bias.
        mlp_bias: whether the MLP has biases.
        qk_norm: whether queries and keys pass an RMSNorm.

    Raises:
        UserError: a size, the layer types, the window, the activation, the rotary settings or the number of heads does
            not make sense.
    """

    model_type = "jet_nemotron"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    default_theta = 10000.0
    auto_map: ClassVar[dict[str, str]] = {}  # remote code is never run; others read the attribute

    vocab_size: int = 151936
    hidden_size: int = 1536
    intermediate_size: int = 8960
    num_hidden_layers: int = 28
    num_attention_heads: int = 12
    num_key_value_heads: int | None = 2
    hidden_act: str = "silu"
    max_position_embeddings: int = 32768
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    tie_word_embeddings: bool = True
    rope_parameters: dict | None = None
    attention_dropout: float | int = 0.0
    layer_types: list[str] | None = None
    efficient_attention_config: dict | None = None
    head_dim: int | None = None
    attention_bias: bool = True
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in what was left out and refuse what cannot be built."""
        kwargs.pop("auto_map", None)
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        for name in _SIZES:
            _check_range(name, getattr(self, name), _LARGEST_SIZE)
        _check_range("num_hidden_layers", self.num_hidden_layers, _MOST_LAYERS)
        for name in ("rms_norm_eps", "initializer_range"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must be a number from 0, not {getattr(self, name)}: correct it.")
        if self.head_dim is None:
            if self.hidden_size % self.num_attention_heads:
                raise UserError(
                    f"hidden_size {self.hidden_size} does not divide into {self.num_attention_heads} heads: "
                    "correct one of them or give head_dim."
                )
            self.head_dim = self.hidden_size // self.num_attention_heads
        _check_range("head_dim", self.head_dim, _LARGEST_SIZE)
        if self.layer_types is None:
            self.layer_types = ["attn"] * self.num_hidden_layers
        if self.efficient_attention_config is None:
            self.efficient_attention_config = {}
        super().__post_init__(**kwargs)
        for name in sorted(set(self.layer_types)):
            get_block(name)
        if len(self.layer_types) != self.num_hidden_layers:
            raise UserError(
                f"layer_types has {len(self.layer_types)} entries for {self.num_hidden_layers} layers: "
                "give one for each layer."
            )
        for name in set(self.layer_types) & set(self.efficient_attention_config):
            if not isinstance(self.efficient_attention_config[name], dict):
                raise UserError(f"efficient_attention_config.{name} must map settings to values: correct config.json.")
        windowed = sorted(name for name in set(self.layer_types) if get_block(name).mask_kind == "sliding")
        for name in windowed:
            window = self.block_config(name).get("window_size")
            if isinstance(window, bool) or not isinstance(window, int) or window < 1:
                raise UserError(
                    f"efficient_attention_config.{name}.window_size must be a positive whole number of tokens, "
                    f"not {window!r}: set it to the window of the checkpoint."
                )
        if self.hidden_act not in ACT2FN:
            raise UserError(f"hidden_act {self.hidden_act!r} is no activation of transformers: use silu, for example.")
        self._check_rotary()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Read a config.json's values; raise UserError if one is of the wrong type.

        With `num_hidden_layers` in place of the file's, the first so many layers are kept.
        """
        layers, types = kwargs.get("num_hidden_layers"), config_dict.get("layer_types")
        if isinstance(layers, int) and isinstance(types, list) and "layer_types" not in kwargs:
            config_dict = config_dict | {"num_hidden_layers": layers, "layer_types": types[:layers]}
        try:
            return super().from_dict(config_dict, **kwargs)
        except StrictDataclassError as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(f"The configuration does not make sense ({reason}): correct config.json.") from None

    def validate_layer_type(self) -> None:
        """Do nothing: transformers' check knows only its own names."""

    def validate_rope(self) -> None:
        """Do nothing: `_check_rotary` refuses what cannot be computed, with a sentence."""

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Do nothing: saving shall not copy this module, which is part of a package."""

    def _check_rotary(self) -> None:
        """Refuse rotary settings whose frequencies cannot be computed."""
        rope = self.rope_parameters or {}
        kind = rope.get("rope_type", "default")
        if kind not in ("default", *ROPE_INIT_FUNCTIONS):
            known = ", ".join(["default", *ROPE_INIT_FUNCTIONS])
            raise UserError(f"The rotary positions' rope_type {kind!r} is not known: use one of {known}.")
        compute = ROPE_INIT_FUNCTIONS.get(kind, LlamaRotaryEmbedding.compute_default_rope_parameters)
        try:
            for length in (None, 2 * self.max_position_embeddings):  # some types have others for long contexts
                with torch.device("cpu"):  # also where a model is built on the meta device
                    frequencies, scale = compute(self, device="cpu", seq_len=length)
                if not (frequencies.isfinite().all() and math.isfinite(scale)):
                    raise ValueError("they are not finite")
                if 2 * len(frequencies) != self.head_dim:
                    raise ValueError(f"they are {len(frequencies)} for a head_dim of {self.head_dim}")
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).splitlines()[0]
            raise UserError(
                f"The rotary frequencies of rope_type {kind!r} cannot be computed ({reason}): correct rope_parameters."
            ) from None

    def block_config(self, name: str) -> dict[str, Any]:
        """Return the arguments of block `name` in this configuration."""
        return dict((self.efficient_attention_config or {}).get(name, {}))

    @property
    def window_size(self) -> int | None:
        """Tokens in a sliding window, the current one included; None without a window."""
        windowed = (name for name in self.efficient_attention_config or {} if get_block(name).mask_kind == "sliding")
        return next((self.block_config(name).get("window_size") for name in windowed), None)

    @property
    def is_released_format(self) -> bool:
        """Whether the released code can build this model too."""
        return (
            set(self.layer_types or ()) <= set(RELEASED_LAYER_TYPES)
            and all(getattr(self, key) == value for key, value in _EXTENSIONS.items())
            and self.head_dim * self.num_attention_heads == self.hidden_size  # type: ignore[operator]
        )

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the values of config.json under the released names, which old and new transformers read."""
        values = super().to_diff_dict()
        rope = dict(values.pop("rope_parameters", None) or {})
        values["rope_theta"] = rope.pop("rope_theta", self.default_theta)
        values["rope_scaling"] = rope if rope.get("rope_type", "default") != "default" else None
        if "dtype" in values:
            values["torch_dtype"] = values.pop("dtype")
        if self.pad_token_id is None:
            values.pop("pad_token_id", None)
        values["auto_map"] = dict(AUTO_MAP)
        if self.is_released_format:
            values.pop("head_dim")
        for key, released in _EXTENSIONS.items():
            if values.get(key) == released:
                values.pop(key)
        return values


def _check_range(name: str, value: Any, most: int) -> None:
    """Raise UserError unless a size of the configuration is a whole number from 1 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise UserError(f"{name} must be a whole number from 1 to {most:,}, not {value!r}: correct the configuration.")
