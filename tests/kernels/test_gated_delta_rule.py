from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jetlit_kernels import gated_delta_rule
from jetlit_kernels.gated_delta_rule.reference import recurrent_gated_delta_rule

from tests.kernels.backends import INTERPRETED
from tests.kernels.recurrence_cases import (
    assert_close,
    cut_short_rows,
    relative_error,
    run_with_gradients,
    upstream_like,
    watch_turns,
)


def draw(
    B: int, T: int, H: int = 2, K: int = 16, V: int = 24, N: int | None = None, decay: float = 0.1, seed: int = 0
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "q": normal(B, T, H, K),
        "k": normal(B, T, H, K),
        "v": normal(B, T, H, V),
        "g": -decay * normal(B, T, H).exp(),
        "beta": normal(B, T, H).sigmoid(),
        "initial_state": normal(N or B, H, K, V),
    }


def oracle(**arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return recurrent_gated_delta_rule(**arguments)


def check(tensors: dict[str, torch.Tensor], dtype: torch.dtype, tolerance: float, **options: object) -> None:
    upstream = upstream_like(tensors["v"], tensors["initial_state"])
    expected = run_with_gradients(recurrent_gated_delta_rule, tensors, upstream, **options)
    actual = run_with_gradients(
        gated_delta_rule, tensors, upstream, dtype=dtype, backend="torch", output_final_state=True, **options
    )
    assert_close(actual, expected, tolerance)


@pytest.mark.parametrize("T", [1, 2, 63, 64, 65, 150])
def test_matches_the_recurrence_in_float64(T: int) -> None:
    check(draw(2, T), torch.float64, 1e-11)


@pytest.mark.parametrize("T", [65, 200])
def test_matches_the_recurrence_in_float32(T: int) -> None:
    check(draw(1, T), torch.float32, 1e-5)


@pytest.mark.parametrize("use_qk_l2norm", [True, False])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_options(use_qk_l2norm: bool, scale: float | None) -> None:
    tensors = draw(1, 70, K=8)
    tensors["k"] = torch.nn.functional.normalize(tensors["k"], dim=-1)
    check(tensors, torch.float64, 1e-10, use_qk_l2norm=use_qk_l2norm, scale=scale)


def test_silu_comes_before_the_norm() -> None:
    tensors = draw(1, 70)
    activated = tensors | {name: tensors[name] * tensors[name].sigmoid() for name in "qk"}
    o, state = gated_delta_rule(**tensors, qk_activation="silu", output_final_state=True)
    expected, last = oracle(**activated)
    assert state is not None and relative_error(o, expected) < 1e-11 and relative_error(state, last) < 1e-11
    check(tensors, torch.float64, 1e-11, qk_activation="silu")


@pytest.mark.parametrize("lengths", [(5, 64, 1, 130), (0, 3, 65), (7,)])
def test_packed_sequences_equal_separate_ones(lengths: tuple[int, ...]) -> None:
    bounds = torch.tensor((0, *lengths)).cumsum(0)
    tensors = draw(1, int(bounds[-1]), N=len(lengths))
    o, state = gated_delta_rule(**tensors, output_final_state=True, cu_seqlens=bounds)
    assert state is not None
    for n, length in enumerate(lengths):
        alone = {name: t[:, bounds[n] : bounds[n + 1]] for name, t in tensors.items() if name != "initial_state"}
        expected, last = oracle(**alone, initial_state=tensors["initial_state"][n : n + 1])
        if length:
            assert relative_error(o[:, bounds[n] : bounds[n + 1]], expected) < 1e-11
        assert relative_error(state[n : n + 1], last) < 1e-11


def test_packed_gradients() -> None:
    bounds = torch.tensor([0, 9, 80, 81])
    check(draw(1, 81, N=3), torch.float64, 1e-11, cu_seqlens=bounds)


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(1, 149), max_size=5, unique=True), seed=st.integers(0, 99))
def test_any_split_carries_the_state(cuts: list[int], seed: int) -> None:
    tensors = draw(1, 150, seed=seed)
    whole, last = gated_delta_rule(**tensors, output_final_state=True)
    state: torch.Tensor | None = tensors.pop("initial_state")
    pieces = []
    for start, end in zip((0, *sorted(cuts)), (*sorted(cuts), 150)):
        piece = {name: t[:, start:end] for name, t in tensors.items()}
        o, state = gated_delta_rule(**piece, initial_state=state, output_final_state=True)
        pieces.append(o)
    assert relative_error(torch.cat(pieces, 1), whole) < 1e-11
    assert state is not None and last is not None and relative_error(state, last) < 1e-11


@pytest.mark.parametrize("decay", [0.0, 1e-6, 30.0, 1000.0])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_extreme_gates(decay: float, beta: float) -> None:
    tensors = draw(1, 130, decay=decay)
    tensors["beta"].fill_(beta)
    check(tensors, torch.float64, 1e-9)


def test_weak_decay_after_strong_decay_keeps_its_digits() -> None:
    tensors = draw(1, 64, decay=0.05)
    tensors["g"][:, ::7] = -3000.0
    check(tensors, torch.float32, 1e-5)


def test_no_decay_is_g_none() -> None:
    tensors = draw(1, 70, decay=0.0)
    zero_decay, _ = gated_delta_rule(**tensors)
    tensors["g"] = None  # type: ignore[assignment]
    assert torch.equal(gated_delta_rule(**tensors)[0], zero_decay)


def test_bfloat16_is_computed_in_float32() -> None:
    tensors = {name: t.bfloat16() for name, t in draw(1, 90).items()}
    o, state = gated_delta_rule(**tensors, output_final_state=True)
    expected, last = gated_delta_rule(**{n: t.float() for n, t in tensors.items()}, output_final_state=True)
    assert o.dtype == torch.bfloat16 and torch.equal(o, expected.bfloat16())
    assert state is not None and last is not None and state.dtype == torch.float32 and torch.equal(state, last)


def test_autocast_does_not_lower_the_precision() -> None:
    tensors = {name: t.float() for name, t in draw(1, 90).items()}
    expected, _ = gated_delta_rule(**tensors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        o, _ = gated_delta_rule(**tensors)
    assert torch.equal(o, expected)


def test_arguments_that_disagree_are_refused() -> None:
    tensors = draw(2, 10)
    with pytest.raises(ValueError, match="B must be 1"):
        gated_delta_rule(**tensors, cu_seqlens=torch.tensor([0, 10]))
    with pytest.raises(ValueError, match="initial_state must have the shape"):
        gated_delta_rule(**{**tensors, "initial_state": tensors["initial_state"][:1]})
    with pytest.raises(ValueError, match="beta must have the shape"):
        gated_delta_rule(**{**tensors, "beta": tensors["beta"][..., :1]})
    with pytest.raises(ValueError, match="qk_activation"):
        gated_delta_rule(**tensors, qk_activation="relu")
    with pytest.raises(ValueError, match="float64"):
        gated_delta_rule(**tensors, backend="triton")
    with pytest.raises(ValueError, match="backend must be"):
        gated_delta_rule(**tensors, backend="cuda")


@INTERPRETED
class TestTriton:
    """The Triton kernels in the interpreter, in float32, whose chunks hold 32 tokens; tests/gpu has the large cases."""

    def check(self, tensors: dict[str, torch.Tensor], **options: object) -> None:
        tensors = {name: t.float() for name, t in tensors.items()}
        upstream = upstream_like(tensors["v"], tensors["initial_state"])
        expected = run_with_gradients(recurrent_gated_delta_rule, tensors, upstream, dtype=torch.float64, **options)
        actual = run_with_gradients(
            gated_delta_rule, tensors, upstream, backend="triton", output_final_state=True, **options
        )
        assert_close(actual, expected, 1e-5)

    def check_without_gradients(self, tensors: dict[str, torch.Tensor], **options: object) -> None:
        tensors = {name: t.float() for name, t in tensors.items()}
        expected = recurrent_gated_delta_rule(**{name: t.double() for name, t in tensors.items()}, **options)
        actual = gated_delta_rule(**tensors, backend="triton", output_final_state=True, **options)
        for a, e in zip(actual, expected, strict=True):
            assert a is not None and relative_error(a, e) < 1e-5

    @pytest.fixture
    def short_segments(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cut_short_rows(monkeypatch)

    @pytest.mark.parametrize("T", [1, 31, 33, 70])
    def test_triton_lengths(self, T: int) -> None:
        self.check(draw(1, T, H=1))

    @pytest.mark.parametrize(("K", "V"), [(48, 40), (160, 72)])
    def test_triton_widths(self, K: int, V: int) -> None:
        self.check(draw(1, 40, H=1, K=K, V=V))

    @pytest.mark.parametrize("carried", [True, False])
    @pytest.mark.parametrize(("T", "qk_activation", "sets"), [(203, None, 2), (195, "silu", 2), (203, "silu", 1)])
    def test_triton_backward_in_groups_of_chunks(
        self, T: int, qk_activation: str | None, sets: int, carried: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from jetlit_kernels.gated_delta_rule import plan

        monkeypatch.setattr(plan, "INTERVAL", 2)
        monkeypatch.setattr(plan, "GROUP_TILES", 4)
        monkeypatch.setattr(plan, "slots", lambda *_: 4 * sets)  # four programs fill it, or half of it
        walks = watch_turns(monkeypatch)
        tensors = {name: t.float() for name, t in draw(2, T, H=1, K=18, V=37).items()}
        upstream = upstream_like(tensors["v"], tensors["initial_state"])
        if not carried:
            del tensors["initial_state"]
        options: dict[str, object] = {"qk_activation": qk_activation}
        expected = run_with_gradients(recurrent_gated_delta_rule, tensors, upstream, dtype=torch.float64, **options)
        actual = run_with_gradients(
            gated_delta_rule, tensors, upstream, backend="triton", output_final_state=True, **options
        )
        assert_close(actual, expected, 1e-5)
        assert walks == [(4, sets)]

    def test_triton_a_single_group_takes_one_set_of_scratch_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        walks = watch_turns(monkeypatch)
        self.check(draw(1, 70, H=1))
        assert walks == [(1, 1)]

    @pytest.mark.parametrize(("T", "K", "V", "qk_activation"), [(250, 16, 24, None), (225, 48, 37, "silu")])
    def test_triton_long_rows_in_segments(
        self, T: int, K: int, V: int, qk_activation: str | None, short_segments: None
    ) -> None:
        tensors = draw(2, T, H=1, K=K, V=V, decay=1e-3)  # a state is to outlive a segment
        self.check(tensors, qk_activation=qk_activation)
        self.check_without_gradients(tensors, qk_activation=qk_activation)
        del tensors["initial_state"]
        self.check_without_gradients(tensors, qk_activation=qk_activation)

    def test_triton_segments_do_not_show_in_strong_and_weak_gates(self, short_segments: None) -> None:
        tensors = draw(1, 400, H=1, decay=0.0)
        tensors["beta"].fill_(1e-3)
        tensors["g"][:, 150:160] = -50.0
        self.check(tensors)

    def test_triton_refuses_more_sequences_and_heads_than_a_launch_takes(self) -> None:
        q, v, g = torch.zeros(21846, 1, 3, 4), torch.zeros(21846, 1, 3, 5), torch.zeros(21846, 1, 3)
        with pytest.raises(ValueError, match=r"at most 65,535 .* not 21,846 x 3: split it"):
            gated_delta_rule(q, q, v, g, g, backend="triton")

    def test_triton_few_programs_of_long_rows_are_cut_into_segments(self) -> None:
        from jetlit_kernels.gated_delta_rule.segments import segments

        # 4 blocks of V times 12 heads, and 264 programs at once on an H100's 132 multiprocessors.
        assert segments(48, chunks=512, room=264) == 5
        assert segments(8 * 48, chunks=64, room=264) == 1
        assert segments(48, chunks=64, room=264) == 1
        assert segments(8, chunks=128, room=264) == 4
        assert segments(2 * 48, chunks=256, room=264) == 1

    @pytest.mark.parametrize("qk_activation", [None, "silu"])
    def test_triton_packed_sequences_in_groups_of_chunks(
        self, qk_activation: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from jetlit_kernels.gated_delta_rule import plan

        monkeypatch.setattr(plan, "INTERVAL", 1)
        monkeypatch.setattr(plan, "GROUP_TILES", 2)
        bounds = torch.tensor([0, 0, 1, 33, 97, 97, 140])
        self.check(draw(1, 140, H=1, N=6), cu_seqlens=bounds, qk_activation=qk_activation)

    @pytest.mark.parametrize(("T", "K", "V"), [(1, 16, 24), (70, 18, 37), (40, 160, 72)])
    def test_triton_silu(self, T: int, K: int, V: int) -> None:
        self.check(draw(1, T, K=K, V=V), qk_activation="silu")

    def test_triton_silu_of_large_inputs_without_norm_keeps_q_and_k(self) -> None:
        tensors = draw(1, 40, H=1, K=32, V=16)
        tensors["q"][:, ::3] *= -100.0
        tensors["k"] *= 0.2
        given = {name: t.float() for name, t in tensors.items()}
        self.check(given, qk_activation="silu", use_qk_l2norm=False)
        assert torch.equal(given["q"], tensors["q"].float()) and torch.equal(given["k"], tensors["k"].float())

    @pytest.mark.parametrize(("decay", "beta"), [(0.0, 1.0), (0.1, 0.0), (30.0, 1e-4), (1000.0, 1e-4)])
    def test_triton_extreme_gates(self, decay: float, beta: float) -> None:
        tensors = draw(1, 70, H=1, decay=decay)
        tensors["beta"][:, ::3] = beta
        self.check(tensors)

    def test_triton_weak_decay_after_strong_decay_keeps_its_digits(self) -> None:
        tensors = draw(1, 64, H=1, decay=0.05)
        tensors["g"][:, ::7] = -3000.0
        self.check(tensors)

    def test_triton_equal_keys_do_not_overflow_the_inverse(self) -> None:
        tensors = draw(1, 64, H=1, decay=0.0)
        tensors["k"][:] = tensors["k"][:, :1]
        tensors["beta"].fill_(1.0)
        self.check(tensors)

    def test_triton_without_norm_without_decay(self) -> None:
        tensors = {name: t.float() for name, t in draw(1, 40, H=1, K=32).items() if name != "g"}
        tensors["k"] = torch.nn.functional.normalize(tensors["k"], dim=-1)
        upstream = upstream_like(tensors["v"], tensors["initial_state"])
        options: dict[str, object] = {"g": None, "use_qk_l2norm": False, "scale": 0.4}
        expected = run_with_gradients(recurrent_gated_delta_rule, tensors, upstream, dtype=torch.float64, **options)
        actual = run_with_gradients(
            gated_delta_rule, tensors, upstream, backend="triton", output_final_state=True, **options
        )
        assert_close(actual, expected, 1e-5)

    def test_triton_operator_is_complete(self) -> None:
        """Autograd, fake tensors and AOT tracing of the custom operator agree with its eager form."""
        from jetlit_kernels.gated_delta_rule.autograd import gated_delta_rule_op

        tensors = [t.float().requires_grad_() for t in draw(1, 40, H=1).values()]
        torch.library.opcheck(gated_delta_rule_op, (*tensors, None, 0.25, True, False, True))
        packed = (*tensors[:5], None, torch.tensor([0, 30, 40]), 0.25, True, True, True)
        torch.library.opcheck(gated_delta_rule_op, packed)
