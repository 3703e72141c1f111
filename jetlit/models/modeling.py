"""The hybrid decoder in transformers' conventions: base model and causal language model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.utils import can_return_tuple, logging

from jetlit.blocks.banded import runs_banded
from jetlit.blocks.base import LinearMixer, MaskKind, is_attention
from jetlit.blocks.masks import attention_mask_for
from jetlit.blocks.packing import packed_positions
from jetlit.blocks.rms_norm import RMSNorm
from jetlit.errors import UserError
from jetlit.models.cache import HybridCache
from jetlit.models.checkpoint import CheckpointModel
from jetlit.models.checkpoint_files import IGNORED_TENSORS
from jetlit.models.configuration import JetNemotronConfig
from jetlit.models.decoder_layer import DecoderLayer, LayerInputs
from jetlit.models.packed_inputs import check_arguments, sequence_bounds

logger = logging.get_logger(__name__)


class HybridRotaryEmbedding(LlamaRotaryEmbedding):
    """transformers' rotary embedding with all its scaling types, whose frequencies stay float32 when the model is cast.

    A bfloat16 frequency is off by up to 0.4%, which is many whole turns at position 10,000.
    """

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        exact = {name: buffer for name, buffer in self.named_buffers() if buffer.dtype == torch.float32}
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            moved = getattr(self, name)
            if moved.dtype != torch.float32:
                setattr(self, name, buffer.to(moved.device))
        return self


class JetNemotronPreTrainedModel(CheckpointModel):
    """The model's settings for transformers and the initialization of weights."""

    supports_gradient_checkpointing = True
    _no_split_modules = ["DecoderLayer"]  # noqa: RUF012 (transformers' own form)
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _keys_to_ignore_on_load_unexpected = [IGNORED_TENSORS]  # noqa: RUF012

    @property
    def dtype(self) -> torch.dtype:
        """The widest dtype among the parameters; frozen ones may be narrower than trained ones."""
        # float8 weights are quantized ones: nothing is computed in them, and they have no wider neighbor.
        types = {p.dtype for p in self.parameters() if p.is_floating_point() and p.dtype.itemsize > 1}
        return functools.reduce(torch.promote_types, types)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialize as transformers does, and a linear block's other parameters as the block does."""
        super()._init_weights(module)
        if isinstance(module, LinearMixer):
            module.init_weights()


class JetNemotronModel(JetNemotronPreTrainedModel):
    """Embedding, decoder layers and final norm."""

    def __init__(self, config: JetNemotronConfig) -> None:
        super().__init__(config)
        # Without a padding index: padding may be the token that ends texts, whose embedding must learn.
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = HybridRotaryEmbedding(config)  # type: ignore[arg-type]
        self.gradient_checkpointing = False
        self.post_init()

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embed tokens, [B, T] to [B, T, H], in autocast's dtype if enabled.

        Left in float32, the hidden states would be cast again for every projection that reads them, and each cast
        kept until the backward pass.
        """
        hidden, device = self.embed_tokens(input_ids), input_ids.device.type
        return hidden.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else hidden

    def layer_inputs(
        self,
        hidden: torch.Tensor,
        *,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: HybridCache | None = None,
        cu_seqlens: torch.Tensor | None = None,
    ) -> LayerInputs:
        """Prepare what the layers need beside the hidden states [B, T, H]; the arguments are those of `forward`."""
        batch, length, _ = hidden.shape
        seen = 0 if cache is None else cache.seen_tokens
        if position_ids is None:
            position_ids = (
                torch.arange(seen, seen + length, device=hidden.device)[None]
                if cu_seqlens is None
                else packed_positions(cu_seqlens, length)[None]
            )
        padding = None if attention_mask is None else attention_mask.to(hidden.device, torch.bool)
        if padding is not None and bool(padding.all()):
            padding = None
        implementation = self.config._attn_implementation or "sdpa"

        def build_mask(kind: MaskKind) -> torch.Tensor | None:
            if kind == "padding":
                return padding
            unbroken = cache is None and padding is None and cu_seqlens is None
            if kind == "sliding" and unbroken and runs_banded(hidden.device, hidden.dtype):
                return None  # the block needs none
            kv_length, kv_offset = (length, 0) if cache is None else cache.mask_sizes(kind, length)
            return attention_mask_for(
                implementation,
                batch_size=batch,
                q_length=length,
                kv_length=kv_length,
                q_offset=seen,
                kv_offset=kv_offset,
                window=self.config.window_size if kind == "sliding" else None,
                padding=padding,
                cu_seqlens=cu_seqlens,
                explicit=cache is not None and cache.max_length is not None,
                dtype=hidden.dtype,
                device=hidden.device,
            )

        return LayerInputs(self.rotary(hidden, position_ids), cache, cu_seqlens, build_mask)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: HybridCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        cu_seqlens: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the decoder.

        Args:
            input_ids: [B, T].
            attention_mask: [B, seen + T], 1 at real tokens; None if all are real.
            position_ids: [B or 1, T]; by default counted from the cache, or within each packed sequence. A position
                that does not follow the one before it begins a sequence, which does not see those before it.
            past_key_values: the cache, which advances by T tokens.
            inputs_embeds: [B, T, H], in place of input_ids.
            use_cache: create a cache if none is given; by default as configured, but never for training.
            output_hidden_states: also return L + 1 tensors [B, T, H]: the embedding and each layer's output, before
                the final norm; by default as configured.
            cu_seqlens: [N + 1] bounds of packed sequences, which do not see each other, in rows one after the other.
            **kwargs: `return_dict`, and the other ways to say where packed sequences begin (`sequence_bounds`).

        Returns:
            The normed last hidden state [B, T, H], the cache, and the hidden states on request.

        Raises:
            TypeError: an argument is unknown.
            UserError: the cache is full or cannot be combined with packed sequences, or an argument cannot be followed.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        hidden = self.embed(input_ids) if input_ids is not None else inputs_embeds
        assert hidden is not None
        cu_seqlens = self.find_bounds(hidden, attention_mask, position_ids, past_key_values, cu_seqlens, kwargs)
        check_arguments(type(self).__name__, kwargs)
        cache = self._cache(past_key_values, use_cache, cu_seqlens)
        if cache is not None:
            cache.check_room(hidden.shape[1])
        rows = hidden.shape[:2]
        packs = cu_seqlens is not None and rows[0] > 1
        if cu_seqlens is not None:
            attention_mask = None
        if packs:  # the rows one after the other
            hidden = hidden.flatten(0, 1)[None]
            position_ids = None if position_ids is None else position_ids.expand(rows).reshape(1, -1)
        inputs = self.layer_inputs(
            hidden, attention_mask=attention_mask, position_ids=position_ids, cache=cache, cu_seqlens=cu_seqlens
        )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        states = None if output_hidden_states is False else [hidden]
        for layer in self.layers:
            hidden = layer(hidden, inputs)
            if states is not None:
                states.append(hidden)
        if cache is not None:
            cache.seen_tokens += hidden.shape[1]
        hidden = self.norm(hidden)
        if packs:
            hidden = hidden.view(*rows, -1)
            states = None if states is None else [state.view(*rows, -1) for state in states]
        return BaseModelOutputWithPast(
            last_hidden_state=hidden,
            past_key_values=cache,
            hidden_states=None if states is None else tuple(states),
        )

    def find_bounds(
        self,
        rows: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        cache: HybridCache | None,
        cu_seqlens: torch.Tensor | None,
        extra: dict[str, Any],
    ) -> torch.Tensor | None:
        """Return the bounds of packed sequences, or None; see `jetlit.models.packed_inputs.sequence_bounds`.

        Raises:
            UserError: the mask is not [B, tokens], or packed sequences come with padding or a cache.
        """
        if attention_mask is not None and attention_mask.ndim != 2:
            raise UserError(
                f"attention_mask must be [sequences, tokens], not {list(attention_mask.shape)}: "
                "say by cu_seqlens or position_ids where packed sequences begin."
            )
        bounds = sequence_bounds(
            rows, position_ids=position_ids, attention_mask=attention_mask, cu_seqlens=cu_seqlens, extra=extra
        )
        if bounds is not None and attention_mask is not None and not bool(attention_mask.all()):
            raise UserError("Give either attention_mask (a padded batch) or cu_seqlens (a packed one), not both.")
        if bounds is not None and cache is not None:
            raise UserError("Packed sequences cannot continue from a cache: pass cu_seqlens or a cache, not both.")
        return bounds

    @property
    def layer_types(self) -> list[str]:
        """The block of each layer; in a super network, of the active path."""
        return [
            getattr(layer.self_attn, "active", name)
            for layer, name in zip(self.layers, self.config.layer_types or (), strict=True)
        ]

    def new_cache(self, max_length: int | None = None) -> HybridCache:
        """Return an empty cache of the current layers; with `max_length`, keys and values are allocated once."""
        return HybridCache(self.config, max_length, self.layer_types)

    def _cache(
        self, given: HybridCache | None, use_cache: bool | None, cu_seqlens: torch.Tensor | None
    ) -> HybridCache | None:
        if given is not None and not isinstance(given, HybridCache):
            raise UserError(
                f"This model needs a HybridCache, not a {type(given).__name__}: leave past_key_values out, "
                "or pass model.new_cache()."
            )
        if cu_seqlens is not None:
            return None
        if self.gradient_checkpointing and self.training and (given is not None or use_cache):
            if given is not None and given.seen_tokens:
                raise UserError(
                    "Gradient checkpointing computes layers twice and cannot continue from a cache: disable it, or "
                    "leave past_key_values out."
                )
            logger.warning_once("There is no cache with gradient checkpointing, which computes layers twice.")
            return None
        if given is not None:
            return given
        if use_cache is None:
            # Training reads no cache, which would keep every layer's state alive.
            use_cache = self.config.use_cache and not self.training and not torch.is_grad_enabled()
        return self.new_cache() if use_cache else None


class JetNemotronForCausalLM(JetNemotronPreTrainedModel, GenerationMixin):
    """The decoder with its language model head, tied to the embedding if the configuration says so."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: JetNemotronConfig) -> None:
        super().__init__(config)
        self.model = JetNemotronModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: HybridCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        cu_seqlens: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        shift_labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Predict the next token at every position; the other arguments are those of `JetNemotronModel.forward`.

        Args:
            labels: [B, T], not shifted; −100 and the first token of each packed sequence are ignored.
            logits_to_keep: number of last positions whose logits are computed, or their indices; 0 means all.
            shift_labels: [B, T], the token after each position, in place of labels; −100 is ignored.
            num_items_in_batch: what the sum over the targets is divided by, in place of their number.
            **kwargs: as for `JetNemotronModel.forward`.

        Returns:
            Loss (mean nats per target, 0 without any) if there are labels, logits [B, T, V], cache, and hidden states
            on request.
        """
        rows = input_ids if inputs_embeds is None else inputs_embeds
        if labels is not None and rows is not None:
            cu_seqlens = self.model.find_bounds(rows, attention_mask, position_ids, past_key_values, cu_seqlens, kwargs)
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            cu_seqlens=cu_seqlens,
            return_dict=True,
            **kwargs,
        )
        hidden = output.last_hidden_state
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, keep])
        loss = None
        if labels is not None or shift_labels is not None:
            if shift_labels is None:
                assert labels is not None
                if cu_seqlens is not None:
                    first = packed_positions(cu_seqlens.to(labels.device), labels.numel()) == 0
                    labels = labels.masked_fill(first.view(labels.shape), -100)
                shift_labels = F.pad(labels[:, 1:], (0, 1), value=-100)
            if num_items_in_batch is None:
                # A batch without a target has no loss: the mean of nothing is not a number.
                num_items_in_batch = (shift_labels != -100).sum().clamp(min=1)
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=self.config.vocab_size,
                num_items_in_batch=num_items_in_batch,
                shift_labels=shift_labels,
            )
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=output.past_key_values, hidden_states=output.hidden_states
        )

    @property
    def _is_stateful(self) -> bool:  # type: ignore[override]
        """Whether a layer's past cannot be shortened, which assisted generation needs."""
        return not all(is_attention(name) for name in self.model.layer_types)

    def new_cache(self, max_length: int | None = None) -> HybridCache:
        """Return an empty cache for `past_key_values`; with `max_length`, keys and values are allocated once."""
        return self.model.new_cache(max_length)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: torch.Tensor, inputs_embeds: torch.Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Prepare a step of `generate`, whose tokenizers (for stop strings and token healing) are no model inputs."""
        for name in ("tokenizer", "assistant_tokenizer"):
            kwargs.pop(name, None)
        base: Any = super().prepare_inputs_for_generation  # type: ignore[misc]
        return base(input_ids, inputs_embeds=inputs_embeds, **kwargs)

    def _prepare_cache_for_generation(  # type: ignore[override]
        self, generation_config: Any, model_kwargs: dict[str, Any], generation_mode: Any, batch_size: int, length: int
    ) -> None:
        """Give `generate` the hybrid's cache, since those of transformers do not know its layers."""
        if generation_config.is_assistant and self._is_stateful:
            raise UserError(
                "A model with linear layers cannot be an assistant, since its state cannot be rolled back: "
                "use one with attention alone."
            )
        implementation = generation_config.cache_implementation
        if model_kwargs.get("past_key_values") is not None or not generation_config.use_cache:
            base: Any = super()._prepare_cache_for_generation  # type: ignore[misc]
            base(generation_config, model_kwargs, generation_mode, batch_size, length)
        elif implementation in (None, "dynamic", "hybrid"):
            model_kwargs["past_key_values"] = self.new_cache()
        elif implementation == "static":
            model_kwargs["past_key_values"] = self.new_cache(max(length, generation_config.max_cache_len or 0))
        else:
            raise UserError(
                f"cache_implementation {implementation!r} is not available for this model: "
                'leave it out, or use "dynamic" or "static".'
            )
        if generation_config.is_assistant and isinstance(model_kwargs.get("past_key_values"), HybridCache):
            model_kwargs["past_key_values"].activate_past_recording()
