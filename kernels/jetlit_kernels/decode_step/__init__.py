"""One decode step of a linear block between its projections, in one launch."""

from __future__ import annotations

from typing import Any

import torch

from jetlit_kernels.decode_step import reference
from jetlit_kernels.decode_step.arguments import Arguments
from jetlit_kernels.dispatch import resolve_backend
from jetlit_kernels.operators import define

STATES = ("recurrent_state", "q_window", "k_window", "v_window")


def recurrent_step(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    recurrent_state: torch.Tensor,
    norm_weight: torch.Tensor,
    *,
    gate: torch.Tensor | None = None,
    norm_before_gate: bool = True,
    norm_eps: float = 1e-5,
    skip_weight: torch.Tensor | None = None,
    beta_logits: torch.Tensor | None = None,
    log_decay: torch.Tensor | None = None,
    a: torch.Tensor | None = None,
    A_log: torch.Tensor | None = None,
    dt_bias: torch.Tensor | None = None,
    q_kernels: torch.Tensor | None = None,
    k_kernels: torch.Tensor | None = None,
    v_kernels: torch.Tensor | None = None,
    q_bias: torch.Tensor | None = None,
    k_bias: torch.Tensor | None = None,
    v_bias: torch.Tensor | None = None,
    q_window: torch.Tensor | None = None,
    k_window: torch.Tensor | None = None,
    v_window: torch.Tensor | None = None,
    slots: torch.Tensor | None = None,
    scale: float | None = None,
    delta_rule: bool = False,
    qk_silu: bool = False,
    qk_l2norm: bool = False,
    backend: str = "auto",
) -> torch.Tensor:
    """Advance linear-attention states by one token of each sequence, from the projections to the input of `o_proj`.

    For every sequence and head, with the state S [K, V]:

    1. q, k and v go through their short convolutions, where they have windows; then q and k through SiLU (`qk_silu`)
       and an L2 norm (`qk_l2norm`), and a convolved v through SiLU.
    2. S ← exp(g) S, with g = −exp(A_log) · softplus(a + dt_bias), or log_decay, or 0.
    3. S ← S + k ⊗ β (v − Sᵀk) with `delta_rule`, else S ← S + k ⊗ β v; β is sigmoid(beta_logits), or without these the
       softplus of 2., or 1.
    4. o = scale · Sᵀq + skip_weight · v, then the RMSNorm and the gate of `jetlit_kernels.gated_rms_norm`.

    All states are updated in place. Nothing but the result is allocated and nothing synchronizes, so it is safe inside
    a CUDA graph. It has no gradient.

    Args:
        q: [B, H, K]. This, k, v, gate, beta_logits, a and the kernels may be strided views of one merged projection:
            only the dimensions after the first must be contiguous.
        k: [B, H, K].
        v: [B, H, V].
        recurrent_state: [N, H, K, V] float32, updated in place; N is B without slots.
        norm_weight: [V].
        gate: [B, H, V] or None for no gate.
        norm_before_gate: see `gated_rms_norm`.
        norm_eps: epsilon of the norm.
        skip_weight: [H] or None.
        beta_logits: [B, H] or None.
        log_decay: [B, H] or [B, H, K], at most 0, any strides; or None.
        a: [B, H] or None.
        A_log: [H], with `a`.
        dt_bias: [H], with `a`.
        q_kernels: [B, H·K, W], taps of the convolution (expanded where all tokens have the same); with `q_window`.
        k_kernels: [B, H·K, W].
        v_kernels: [B, H·V, W].
        q_bias: [H·K] or None.
        k_bias: [H·K] or None.
        v_bias: [H·V] or None.
        q_window: [N, H·K, W], the convolution's last W inputs, oldest first, updated in place; None for no convolution.
        k_window: [N, H·K, W] or None.
        v_window: [N, H·V, W] or None.
        slots: [B] integers, where among the N states each sequence has its own, all different; None: sequence b has
            state b.
        scale: of the queries; K^−½ if None.
        delta_rule: whether a write replaces what the state holds under its key.
        qk_silu: whether q and k go through SiLU.
        qk_l2norm: whether q and k are normalized, as x · rsqrt(Σ x² + 1e-6).
        backend: "auto" (Triton on CUDA, plain PyTorch elsewhere), "triton" or "torch".

    Returns:
        [B, H, V] in the dtype of `v`.

    Raises:
        ValueError: the shapes disagree, arguments that belong together are incomplete, or the backend cannot run here.
    """
    x = Arguments(
        q, k, v, recurrent_state, norm_weight, gate, skip_weight, beta_logits, log_decay, a, A_log, dt_bias,
        q_kernels, k_kernels, v_kernels, q_bias, k_bias, v_bias, q_window, k_window, v_window, slots,
        q.shape[-1] ** -0.5 if scale is None else scale, norm_eps, delta_rule, qk_silu, qk_l2norm, norm_before_gate,
    )  # fmt: skip
    _check(x)
    if resolve_backend(backend, q) == "torch":
        return reference.recurrent_step(x)
    # Outside the compiler the operator's dispatch would only cost time: a step is a few microseconds.
    return _operator(*x) if torch.compiler.is_compiling() else _launch(*x)


def jet_decode_step(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    gate: torch.Tensor,
    beta_logits: torch.Tensor,
    a: torch.Tensor,
    conv_kernels: torch.Tensor,
    A_log: torch.Tensor,
    dt_bias: torch.Tensor,
    norm_weight: torch.Tensor,
    conv_state: torch.Tensor,
    recurrent_state: torch.Tensor,
    *,
    scale: float | None = None,
    norm_eps: float = 1e-5,
    slots: torch.Tensor | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Run steps 1 to 5 of a JetBlock (checkpoint format) for one token of each sequence.

    It is `recurrent_step` with the delta rule, SiLU and L2 norm of q and k, and kernels of the values' convolution,
    `conv_kernels` [B, H·V, W], that are generated from each token, bias included; `conv_state` is its window.

    Returns:
        [B, H, V] in the dtype of `v`, the input of `o_proj`.

    Raises:
        ValueError: the shapes disagree, or the backend cannot run here.
    """
    return recurrent_step(
        q,
        k,
        v,
        recurrent_state,
        norm_weight,
        gate=gate,
        norm_eps=norm_eps,
        beta_logits=beta_logits,
        a=a,
        A_log=A_log,
        dt_bias=dt_bias,
        v_kernels=conv_kernels,
        v_window=conv_state,
        slots=slots,
        scale=scale,
        delta_rule=True,
        qk_silu=True,
        qk_l2norm=True,
        backend=backend,
    )


def _check(x: Arguments) -> None:
    for name in ("q", "k", "v"):
        if (getattr(x, f"{name}_window") is None) != (getattr(x, f"{name}_kernels") is None):
            raise ValueError(f"recurrent_step needs both {name}_window and {name}_kernels, or neither.")
    for name, shape in x.shapes().items():
        tensor = getattr(x, name)
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"recurrent_step needs {name} of shape {list(shape)}; got {list(tensor.shape)}.")
    if x.slots is None and x.recurrent_state.shape[0] != x.q.shape[0]:
        raise ValueError(
            f"recurrent_step needs recurrent_state for {x.q.shape[0]} sequences, not {x.recurrent_state.shape[0]}, or "
            "slots that say where each one's lies."
        )
    for name in STATES:
        tensor = getattr(x, name)
        if tensor is not None and not tensor.is_contiguous():
            raise ValueError(f"recurrent_step updates {name} in place: pass a contiguous tensor.")
    together = [x.a, x.A_log, x.dt_bias]
    if any(t is None for t in together) != all(t is None for t in together) or (
        x.a is not None and x.log_decay is not None
    ):
        raise ValueError("recurrent_step needs a, A_log and dt_bias, or log_decay, or none of them.")


def _launch(*values: Any) -> torch.Tensor:
    from jetlit_kernels.decode_step import kernels

    return kernels.recurrent_step(Arguments._make(values))


def _fake(*values: Any) -> torch.Tensor:
    v = Arguments._make(values).v
    return v.new_empty(v.shape)


_operator = define("jetlit_kernels::recurrent_step", Arguments, _launch, _fake, mutates=STATES)
