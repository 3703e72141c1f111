"""Token mixers: attention and the blocks that may replace it. One contract, one file each, one open table."""

from jetlit.blocks import delta_net, gated_delta_net, gla, jet, mamba2, retnet, rwkv7, sliding_window  # noqa: F401
from jetlit.blocks.attention import Attention
from jetlit.blocks.base import (
    BLOCKS,
    AttentionCache,
    BlockPart,
    CarriedState,
    LinearMixer,
    LinearSettings,
    MaskKind,
    StateCache,
    StateSpec,
    TokenMixer,
    build_block,
    check_block_config,
    get_block,
    is_attention,
    register_block,
)

__all__ = [
    "BLOCKS",
    "Attention",
    "AttentionCache",
    "BlockPart",
    "CarriedState",
    "LinearMixer",
    "LinearSettings",
    "MaskKind",
    "StateCache",
    "StateSpec",
    "TokenMixer",
    "build_block",
    "check_block_config",
    "get_block",
    "is_attention",
    "register_block",
]
