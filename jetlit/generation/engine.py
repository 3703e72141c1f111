"""The generation engine: prefill in chunks, then decode steps over a preallocated cache."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from typing import Literal

import torch
from jetlit_kernels import narrow_linear

from jetlit.blocks import get_block
from jetlit.errors import UserError
from jetlit.generation.cache import Clock, EngineCache, computed_cache_bytes
from jetlit.generation.engine_layers import EngineLayer, build_layers
from jetlit.generation.sampling import Sampling
from jetlit.models import JetNemotronForCausalLM, SuperNetwork

# Their frequencies depend on the length, which a captured graph cannot follow.
_ROPE_OF_CHANGING_LENGTH = ("dynamic", "longrope")

_WARM_UP_STEPS = 3
# Messages of CUDA and Triton, cuBLAS, and PyTorch's CPU allocator, which have no exception class for it.
_OUT_OF_MEMORY = ("out of memory", "STATUS_ALLOC_FAILED", "can't allocate memory")

logger = logging.getLogger("jetlit")


class CacheDoesNotFit(UserError):
    """The cache is larger than the device's free memory."""


class CapturedStep:
    """A function of tensors that stay in place, captured once in a CUDA graph and replayed.

    It runs a few times before the capture, each time after `rewind`; the state it changes must be reset afterward.
    """

    def __init__(self, run: Callable[[], torch.Tensor], rewind: Callable[[], None]) -> None:
        # On the current stream: cuBLAS keeps a workspace (32 MiB on an H100) for every stream it ever ran on.
        for _ in range(_WARM_UP_STEPS):
            rewind()
            run()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.result = run()

    def __call__(self) -> torch.Tensor:
        """Replay the step; the next call overwrites the result."""
        self.graph.replay()
        return self.result


class GenerationEngine:
    """Generate the same tokens as `model.generate`, with a hybrid or a full-attention model.

    On CUDA a decode step is one captured graph, which reads the position from the device and so serves every length.

    Args:
        model: model in evaluation mode, with its final device and dtype.
        max_batch: largest number of sequences.
        max_context: largest number of tokens of a sequence, prompt included.
        prefill_chunk: number of prompt tokens run at once; fewer need less memory.
        cuda_graph: "auto" captures on CUDA if every block's step can be captured; True requires it, False never does.

    Raises:
        CacheDoesNotFit: the cache does not fit into the device's memory.
        UserError: a required graph is impossible, or a limit is not positive.
    """

    def __init__(
        self,
        model: JetNemotronForCausalLM | SuperNetwork,
        max_batch: int,
        max_context: int,
        prefill_chunk: int = 2048,
        cuda_graph: bool | Literal["auto"] = "auto",
    ) -> None:
        self.model = model.causal_lm if isinstance(model, SuperNetwork) else model
        if min(max_batch, max_context, prefill_chunk) < 1:
            raise UserError("max_batch, max_context and prefill_chunk must all be at least 1.")
        self.max_batch, self.max_context, self.prefill_chunk = max_batch, max_context, prefill_chunk
        self.device = self.model.lm_head.weight.device
        rope_type = (self.model.config.rope_parameters or {}).get("rope_type", "default")
        possible = self.device.type == "cuda" and rope_type not in _ROPE_OF_CHANGING_LENGTH
        if cuda_graph is True and not possible:
            raise UserError(
                f"A CUDA graph needs a CUDA device and fixed rotary frequencies, not {self.device.type} and "
                f'{rope_type!r}: leave cuda_graph at "auto".'
            )
        self.uses_graphs, self._insists_on_graphs = possible and cuda_graph is not False, cuda_graph is True
        needed, free = computed_cache_bytes(self.model, max_batch, max_context), free_bytes(self.device)
        if free is not None and needed > free:
            raise CacheDoesNotFit(
                f"A cache of {max_batch} sequences of {max_context} tokens needs {needed / 2**30:.1f} GiB, "
                f"but {free / 2**30:.1f} GiB are free: use a smaller batch or a shorter context."
            )
        self._cache: EngineCache | None = None
        self._tokens = torch.zeros(0, dtype=torch.int64, device=self.device)
        self._layers: list[EngineLayer] = []
        self._graph: CapturedStep | None = None

    @torch.inference_mode()
    def generate(
        self,
        input_ids: torch.Tensor,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop_tokens: Collection[int] = (),
        stream: Callable[[torch.Tensor], None] | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Continue prompts of equal length.

        Args:
            input_ids: [B, T].
            max_new_tokens: largest number of tokens to add.
            temperature: divides the logits; 0 takes the most likely token.
            top_p: probability mass of nucleus sampling.
            stop_tokens: each ends its sequence, which is padded with that token.
            stream: called with every step's tokens [B].
            generator: generator of random numbers on the model's device.

        Returns:
            Prompts and continuations [B, T + n], n ≤ max_new_tokens.

        Raises:
            UserError: prompts and continuations do not fit the cache or the model's positions, and nothing is
                allocated; or the model's logits are not finite.
        """
        sampling = Sampling(temperature, top_p, generator)
        batch = self._check_request(input_ids, max_new_tokens)
        self._check_positions(input_ids.shape[1] + max_new_tokens)
        input_ids = input_ids.to(self.device)
        logits = self._prefill(input_ids)
        _check_finite(logits)
        stops = torch.tensor(sorted(stop_tokens), dtype=torch.int64, device=self.device)
        finished = torch.zeros(batch, dtype=torch.bool, device=self.device)
        steps = [input_ids]
        tokens = torch.zeros(batch, dtype=torch.int64, device=self.device)
        for step in range(max_new_tokens):
            if step:
                logits = self.decode_step(tokens)
            tokens = torch.where(finished, tokens, sampling.choose(logits))
            steps.append(tokens[:, None])
            if stream is not None:
                stream(tokens)
            if len(stops):
                finished |= torch.isin(tokens, stops)
                # The only synchronization in this loop, and only with stop tokens.
                if bool(finished.all()):
                    break
        _check_finite(logits)
        return torch.cat(steps, 1)

    @torch.inference_mode()
    def prefill(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Start new sequences: run prompts [B, T] in chunks and return the last token's logits [B, V]."""
        self._check_request(input_ids, 0)
        return self._prefill(input_ids.to(self.device))

    @torch.inference_mode()
    def decode_step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append one token [B] to each sequence and return logits [B, V], which a graph's next step overwrites.

        Raises:
            UserError: nothing was prefilled, or the cache is full.
        """
        cache = self._cache
        if cache is None or cache.clock.seen == 0:
            raise UserError("There is nothing to continue: call prefill first.")
        if cache.clock.seen >= self.max_context:
            raise UserError(f"The cache is full at {self.max_context} tokens: make max_context larger.")
        self._tokens.copy_(tokens)
        logits = self._decode() if self._graph is None else self._graph()
        cache.clock.seen += 1
        return logits

    @torch.inference_mode()
    def jump(self, batch: int, seen: int) -> None:
        """Continue as if `batch` sequences had `seen` tokens, for measurements: time does not depend on content.

        Raises:
            UserError: that many sequences or tokens do not fit.
        """
        if not (1 <= batch <= self.max_batch and 1 <= seen < self.max_context):
            raise UserError(f"{batch} sequences of {seen} tokens are too many: make max_batch or max_context larger.")
        self._prepare(batch).clock.move_to(seen)

    def cache_bytes(self) -> int:
        """Return the bytes of the allocated cache."""
        return 0 if self._cache is None else self._cache.byte_count()

    def _prefill(self, input_ids: torch.Tensor) -> torch.Tensor:
        cache, decoder = self._prepare(len(input_ids)), self.model.model
        clock = cache.clock
        hidden = None
        for chunk in input_ids.split(self.prefill_chunk, 1):
            hidden = decoder.embed_tokens(chunk)
            positions = torch.arange(clock.seen, clock.seen + chunk.shape[1], device=self.device)[None]
            rotation = decoder.rotary(hidden, positions)
            for layer, layer_cache in zip(self._layers, cache.layers, strict=True):
                hidden = layer.prefill(hidden, rotation, layer_cache, only_last=layer is self._layers[-1])
            clock.move_to(clock.seen + chunk.shape[1])
        assert hidden is not None
        return self._head(hidden)

    def _decode(self) -> torch.Tensor:
        """Run one step on tensors that stay in place, as a captured graph needs."""
        assert self._cache is not None
        clock, decoder = self._cache.clock, self.model.model
        hidden = decoder.embed_tokens(self._tokens)
        rotation = decoder.rotary(hidden, clock.position[None])
        for layer, cache in zip(self._layers, self._cache.layers, strict=True):
            hidden = layer.decode(hidden, rotation, cache)
        clock.tick()
        return self._head(hidden)

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        norm, head = self.model.model.norm, self.model.lm_head
        return narrow_linear(hidden, head.weight, head.bias, norm_weight=norm.weight, norm_eps=norm.eps)

    def _prepare(self, batch: int) -> EngineCache:
        """Create an empty cache for `batch` sequences and a graph of its decode step, or reuse them."""
        if self._cache is None or self._cache.batch != batch or self._cache.layer_types != self.model.model.layer_types:
            self._graph = self._cache = None  # before the new ones, or both would take memory
            # Before the cache, which may leave no room to move weights.
            self._layers = build_layers(self.model)
            cache = self._cache = EngineCache(self.model, batch, self.max_context)
            self._tokens = torch.zeros(batch, dtype=torch.int64, device=self.device)
            if self.uses_graphs:
                self._graph = self._capture(cache.clock)
                self._cache = cache
        self._cache.reset()
        return self._cache

    def _capture(self, clock: Clock) -> CapturedStep | None:
        clock.capturing = True
        try:
            return CapturedStep(self._decode, rewind=lambda: clock.move_to(0))
        except RuntimeError as error:
            # Without its graph the cache is not ready.
            self._cache = None
            if self._insists_on_graphs or ran_out_of_memory(error):
                raise
            logger.warning("Decoding runs without a CUDA graph, because a step cannot be captured: %s", error)
            self.uses_graphs = False
            return None
        finally:
            clock.capturing = False

    def _check_positions(self, tokens: int) -> None:
        """Refuse text at positions that the model was not made for; measurements may go there."""
        config = self.model.config
        rope_type = (config.rope_parameters or {}).get("rope_type", "default")
        far = any(get_block(name).mask_kind == "causal" for name in self.model.model.layer_types)
        if far and rope_type != "dynamic" and tokens > config.max_position_embeddings:
            raise UserError(
                f"The model's attention knows {config.max_position_embeddings} positions (max_position_embeddings), "
                f"and {tokens} are needed: shorten the prompt or the continuation."
            )

    def _check_request(self, input_ids: torch.Tensor, new_tokens: int) -> int:
        """Return the batch of a request, or refuse one that does not fit."""
        if input_ids.ndim != 2 or input_ids.dtype not in (torch.int32, torch.int64) or not input_ids.numel():
            raise UserError(
                f"Prompts must be integers [sequences, tokens], at least one of each, not {input_ids.dtype} of shape "
                f"{list(input_ids.shape)}."
            )
        batch, length = input_ids.shape
        if new_tokens < 0:
            raise UserError(f"The number of new tokens must be 0 or more, not {new_tokens}.")
        if batch > self.max_batch:
            raise UserError(f"The engine takes {self.max_batch} sequences, not {batch}: make max_batch larger.")
        if length + new_tokens > self.max_context:
            raise UserError(
                f"A prompt of {length} tokens and {new_tokens} new ones do not fit the engine's cache of "
                f"{self.max_context} tokens: shorten the prompt or make max_context larger."
            )
        # On a GPU an unknown token would leave the device unusable, which is worth one synchronization.
        lowest, highest = (int(x) for x in input_ids.aminmax())
        if lowest < 0 or highest >= self.model.config.vocab_size:
            raise UserError(
                f"The prompt holds token {lowest if lowest < 0 else highest}, but the model knows "
                f"{self.model.config.vocab_size}, from 0: use the model's own tokenizer."
            )
        return batch


def _check_finite(logits: torch.Tensor) -> None:
    if not bool(logits.isfinite().all()):
        raise UserError("The model's logits are not finite: its weights are damaged, or too large for their dtype.")


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Say whether an error, its cause or its context means that memory ran out.

    The context counts because ending a graph's capture after such an error raises another one.
    """
    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return True
        if isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes a cache can take: free memory of a GPU, all memory of a CPU; None if unknown."""
    if device.type == "cuda":
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reusable
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
