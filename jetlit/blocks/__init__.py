"""Token mixers: attention and the blocks that may replace it. One contract, one file each, one open table."""

from jetlit.blocks.attention import Attention
from jetlit.blocks.base import (
    AttentionCache,
    BlockPart,
    CarriedState,
    LinearMixer,
    LinearSettings,
    MaskKind,
    StateCache,
    StateSpec,
    TokenMixer,
)
from jetlit.blocks.delta_net import DeltaNet
from jetlit.blocks.gated_delta_net import GatedDeltaNet
from jetlit.blocks.gla import GLA
from jetlit.blocks.jet import JetBlock
from jetlit.blocks.mamba2 import Mamba2
from jetlit.blocks.retnet import RetNet
from jetlit.blocks.rwkv7 import RWKV7
from jetlit.blocks.sliding_window import SlidingWindowAttention
from jetlit.blocks.table import BLOCKS, build_block, check_block_config, get_block, is_attention, register_block

__all__ = [
    "BLOCKS",
    "GLA",
    "RWKV7",
    "Attention",
    "AttentionCache",
    "BlockPart",
    "CarriedState",
    "DeltaNet",
    "GatedDeltaNet",
    "JetBlock",
    "LinearMixer",
    "LinearSettings",
    "Mamba2",
    "MaskKind",
    "RetNet",
    "SlidingWindowAttention",
    "StateCache",
    "StateSpec",
    "TokenMixer",
    "build_block",
    "check_block_config",
    "get_block",
    "is_attention",
    "register_block",
]
