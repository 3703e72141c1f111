"""The gated delta rule's Triton kernels on a GPU against the recurrence in float64, on fresh random inputs.

Every allocation is filled with NaN first, so that an element that nothing wrote shows.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from jetlit_kernels import gated_delta_rule
from jetlit_kernels.gated_delta_rule.reference import chunk_gated_delta_rule

from jetlit.search.grid import PAPER_GRID
from tests.kernels.recurrence_cases import assert_close, relative_error, run_with_gradients, watch_turns

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("filled_with_nan"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TOLERANCE = {torch.bfloat16: 5e-3, torch.float32: 1e-5}
DTYPES = [torch.bfloat16, torch.float32]
# Table 2's rows, the released 4B's (the 2B's is one of those rows) and widths at and beside the tiles' edges.
WIDTHS = [
    *((row.key_dim, row.value_dim) for row in PAPER_GRID),
    (128, 256),
    (32, 64),
    (96, 144),
    (192, 576),
    (256, 512),
]


def draw(
    B: int,
    T: int,
    H: int,
    K: int,
    V: int,
    dtype: torch.dtype,
    *,
    N: int | None = None,
    decay: float = 0.1,
    size: float = 1,
) -> dict[str, torch.Tensor]:
    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda")

    return {
        "q": (size * normal(B, T, H, K)).to(dtype),
        "k": (size * normal(B, T, H, K)).to(dtype),
        "v": (size * normal(B, T, H, V)).to(dtype),
        "g": -decay * normal(B, T, H).exp(),
        "beta": normal(B, T, H).sigmoid(),
        "initial_state": 0.1 * normal(N or B, H, K, V),
    }


def check(tensors: dict[str, torch.Tensor], tolerance: float, **options: object) -> None:
    """Compare outputs and gradients with the float64 reference, which the CPU tests hold to the recurrence."""
    v, state = tensors["v"], tensors["initial_state"]
    upstream = torch.randn_like(v), 0.1 * torch.randn_like(state)
    expected = run_with_gradients(chunk_gated_delta_rule, tensors, upstream, dtype=torch.float64, **options)
    actual = run_with_gradients(
        gated_delta_rule, tensors, upstream, backend="triton", output_final_state=True, **options
    )
    assert_close(actual, expected, tolerance)


def check_silu(tensors: dict[str, torch.Tensor], tolerance: float, **options: object) -> None:
    """Like `check`, for SiLU on q and k, whose results the products take in the type of the inputs."""
    dtype = tensors["q"].dtype

    def activated(x: torch.Tensor) -> torch.Tensor:
        exact = F.silu(x)
        return exact + (exact.to(dtype) - exact).detach()

    def reference(q: torch.Tensor, k: torch.Tensor, **rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return chunk_gated_delta_rule(activated(q), activated(k), **rest)

    upstream = torch.randn_like(tensors["v"]), 0.1 * torch.randn_like(tensors["initial_state"])
    expected = run_with_gradients(reference, tensors, upstream, dtype=torch.float64, **options)
    actual = run_with_gradients(
        gated_delta_rule, tensors, upstream, backend="triton", output_final_state=True, qk_activation="silu", **options
    )
    assert_close(actual, expected, tolerance)


def sequences(T: int) -> int:
    """How many to draw: the relative error of the few gradients of g of short ones would be chance."""
    return 64 if T == 1 else 1 if T > 1000 else 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", [1, 63, 64, 65, 500, 4096])
def test_lengths(T: int, dtype: torch.dtype) -> None:
    check(draw(sequences(T), T, 4, 96, 256, dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("K", "V"), WIDTHS)
def test_widths(K: int, V: int, dtype: torch.dtype) -> None:
    check(draw(2, 300, 3, K, V, dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_an_initial_state(dtype: torch.dtype) -> None:
    tensors = draw(2, 300, 4, 96, 256, dtype)
    upstream = torch.randn_like(tensors["v"]), 0.1 * torch.randn_like(tensors.pop("initial_state"))
    expected = run_with_gradients(chunk_gated_delta_rule, tensors, upstream, dtype=torch.float64)
    actual = run_with_gradients(gated_delta_rule, tensors, upstream, backend="triton", output_final_state=True)
    assert_close(actual, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decay", [0.0, 30.0])
def test_decays(decay: float, dtype: torch.dtype) -> None:
    tensors = draw(2, 500, 4, 96, 256, dtype, decay=decay)
    if decay == 0.0:
        del tensors["g"]
        upstream = torch.randn_like(tensors["v"]), torch.randn_like(tensors["initial_state"])
        expected = run_with_gradients(chunk_gated_delta_rule, tensors, upstream, dtype=torch.float64, g=None)
        actual = run_with_gradients(
            gated_delta_rule, tensors, upstream, backend="triton", output_final_state=True, g=None
        )
        assert_close(actual, expected, TOLERANCE[dtype])
    else:
        check(tensors, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("beta", [1e-4, 0.9999, 1.0])
def test_strengths(beta: float, dtype: torch.dtype) -> None:
    tensors = draw(2, 300, 4, 96, 128, dtype)
    tensors["beta"].fill_(beta)
    check(tensors, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_sequences(dtype: torch.dtype) -> None:
    lengths = torch.tensor([0, 1, 63, 64, 65, 0, 500, 700], device="cuda")
    tensors = draw(1, int(lengths.sum()), 4, 96, 256, dtype, N=7)
    check(tensors, TOLERANCE[dtype], cu_seqlens=lengths.cumsum(0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("T", "K", "V"), [(1, 96, 256), (65, 100, 72), (500, 96, 256), (300, 128, 256), (300, 256, 512)]
)
def test_silu_of_queries_and_keys(T: int, K: int, V: int, dtype: torch.dtype) -> None:
    check_silu(draw(sequences(T), T, 4, K, V, dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_in_packed_sequences_over_several_groups(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    from jetlit_kernels.gated_delta_rule import plan

    monkeypatch.setattr(plan, "GROUP_TILES", 64)
    lengths = torch.tensor([0, 1, 63, 64, 65, 0, 500, 900, 700], device="cuda")
    tensors = draw(1, int(lengths.sum()), 4, 96, 256, dtype, N=8)
    check_silu(tensors, TOLERANCE[dtype], cu_seqlens=lengths.cumsum(0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("compare", [check, check_silu])
def test_large_inputs_stay_finite(compare: Callable[..., None], dtype: torch.dtype) -> None:
    compare(draw(1, 300, 4, 96, 128, dtype, size=100.0), TOLERANCE[dtype])


def draw_long(dtype: torch.dtype, *, decay: float = 1e-4, beta: float = 0.05) -> dict[str, torch.Tensor]:
    """Return a row of few heads that is cut into segments, with gates whose states outlive a segment."""
    tensors = draw(1, 8192 + 37, 2, 96, 256, dtype, decay=decay)
    tensors["beta"] *= beta
    return tensors


@pytest.fixture
def cut_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the segments, less one, of every call that cuts its rows."""
    from jetlit_kernels.gated_delta_rule import forward as launcher

    counts: list[int] = []
    join = launcher.join

    def counted(maps: torch.Tensor, *rest: object) -> None:
        counts.append(maps.shape[0])
        join(maps, *rest)

    monkeypatch.setattr(launcher, "join", counted)
    return counts


@pytest.mark.parametrize(("dtype", "decay", "beta"), [(torch.bfloat16, 0.1, 1.0), (torch.float32, 1e-4, 0.05)])
@pytest.mark.parametrize("compare", [check, check_silu])
def test_long_rows_in_segments(
    compare: Callable[..., None], dtype: torch.dtype, decay: float, beta: float, cut_rows: list[int]
) -> None:
    compare(draw_long(dtype, decay=decay, beta=beta), TOLERANCE[dtype])
    assert cut_rows and cut_rows[0] >= 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("carried", [False, True])
@torch.no_grad()
def test_long_rows_in_segments_without_gradients(carried: bool, dtype: torch.dtype, cut_rows: list[int]) -> None:
    tensors = draw_long(dtype)
    if not carried:
        del tensors["initial_state"]
    o, state = gated_delta_rule(**tensors, backend="triton", output_final_state=True)
    expected = chunk_gated_delta_rule(**{name: t.double() for name, t in tensors.items()})
    assert_close(dict(o=o, state=state), dict(zip(("o", "state"), expected)), TOLERANCE[dtype])
    assert cut_rows


def test_segments_do_not_show_in_gradients(monkeypatch: pytest.MonkeyPatch, cut_rows: list[int]) -> None:
    from jetlit_kernels.gated_delta_rule import plan

    tensors = draw_long(torch.bfloat16)
    upstream = torch.randn_like(tensors["v"]), 0.1 * torch.randn_like(tensors["initial_state"])
    in_segments = run_with_gradients(gated_delta_rule, tensors, upstream, backend="triton", output_final_state=True)
    assert cut_rows
    monkeypatch.setattr(plan, "segments", lambda *shape: 1)
    whole = run_with_gradients(gated_delta_rule, tensors, upstream, backend="triton", output_final_state=True)
    assert len(cut_rows) == 1
    assert_close(in_segments, whole, TOLERANCE[torch.bfloat16])


def test_one_row_of_the_2b_model(cut_rows: list[int]) -> None:
    check(draw(1, 32768, 12, 96, 256, torch.bfloat16), TOLERANCE[torch.bfloat16])
    assert cut_rows


@pytest.mark.parametrize("T", [700, 8192 + 37])
def test_equal_inputs_give_equal_results(T: int) -> None:
    tensors = draw(2, T, 4, 96, 256, torch.bfloat16, decay=1e-3)
    upstream = torch.randn_like(tensors["v"]), torch.randn_like(tensors["initial_state"])
    once, again = (
        run_with_gradients(gated_delta_rule, tensors, upstream, backend="triton", output_final_state=True)
        for _ in range(2)
    )
    assert all(torch.equal(once[name], again[name]) for name in once)


# Rows, tokens, heads and GROUP_TILES: cut short and in many small groups, and a long row in groups as ever.
WALKS = [(2, 4133, 4, 64), (1, 32768, 12, None)]


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    return watch_turns(monkeypatch)


def in_plain_order(monkeypatch: pytest.MonkeyPatch) -> None:
    from jetlit_kernels.gated_delta_rule import plan

    monkeypatch.setattr(plan, "SETS", 1)


@pytest.mark.parametrize("qk_activation", [None, "silu"])
@pytest.mark.parametrize(("B", "T", "H", "tiles"), WALKS)
def test_the_second_stream_does_not_show_in_gradients(
    B: int,
    T: int,
    H: int,
    tiles: int | None,
    qk_activation: str | None,
    walks: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from jetlit_kernels.gated_delta_rule import plan

    if tiles is not None:
        monkeypatch.setattr(plan, "GROUP_TILES", tiles)
    tensors = draw(B, T, H, 96, 256, torch.bfloat16)
    upstream = torch.randn_like(tensors["v"]), torch.randn_like(tensors["initial_state"])

    def run() -> dict[str, torch.Tensor]:
        options = {"backend": "triton", "output_final_state": True, "qk_activation": qk_activation}
        return run_with_gradients(gated_delta_rule, tensors, upstream, **options)

    beside = [run() for _ in range(4)]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        beside += [run() for _ in range(4)]
    torch.cuda.synchronize()
    in_plain_order(monkeypatch)
    expected = run()
    groups = walks[0][0]
    assert groups >= 3 and walks == [(groups, 2)] * 8 + [(groups, 1)]
    for actual in beside:
        different = [name for name in expected if not torch.equal(actual[name], expected[name])]
        assert not different


@pytest.mark.parametrize("slow", ["scans", "chunk_gradients"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_slow_stream_is_waited_for(
    slow: str, packed: bool, walks: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from jetlit_kernels.gated_delta_rule import backward as launcher
    from jetlit_kernels.gated_delta_rule import plan

    monkeypatch.setattr(plan, "GROUP_TILES", 64)
    lengths = torch.tensor([700, 1, 0, 63, 1300, 65], device="cuda")
    T = int(lengths.sum())
    tensors = draw(1, T, 4, 100, 72, torch.bfloat16, N=6) if packed else draw(2, T, 4, 100, 72, torch.bfloat16)
    upstream = torch.randn_like(tensors["v"]), torch.randn_like(tensors["initial_state"])
    options = {"qk_activation": "silu", "cu_seqlens": F.pad(lengths.cumsum(0), (1, 0)) if packed else None}

    def run() -> dict[str, torch.Tensor]:
        return run_with_gradients(
            gated_delta_rule, tensors, upstream, backend="triton", output_final_state=True, **options
        )

    run()  # compiled here, so that the launches below come without a pause
    launch = getattr(launcher._Pass, slow)

    def after_a_pause(self: object, turn: int) -> None:
        torch.cuda._sleep(1_000_000)  # half a millisecond, longer than the rest of a turn
        launch(self, turn)

    with monkeypatch.context() as paused:
        paused.setattr(launcher._Pass, slow, after_a_pause)
        actual = run()
    in_plain_order(monkeypatch)
    expected = run()
    assert walks[0][0] >= 3 and [sets for _, sets in walks] == [2, 2, 1]
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize("T", [130, 2085])
def test_forward_and_backward_in_a_cuda_graph(
    T: int, walks: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from jetlit_kernels.gated_delta_rule import plan

    monkeypatch.setattr(plan, "GROUP_TILES", 64)
    tensors = {name: t.requires_grad_() for name, t in draw(2, T, 4, 96, 256, torch.bfloat16).items()}
    upstream = torch.randn_like(tensors["v"]), torch.randn_like(tensors["initial_state"])

    def run() -> list[torch.Tensor]:
        o, state = gated_delta_rule(**tensors, backend="triton", output_final_state=True, qk_activation="silu")
        return [o, state, *torch.autograd.grad((o, state), tuple(tensors.values()), upstream)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for _ in range(3):
        with torch.no_grad():
            for t in (tensors["q"], tensors["v"], *upstream):
                t.mul_(0.75)
            for t in captured:
                t.fill_(float("nan"))
        graph.replay()
        assert all(map(torch.equal, captured, run()))
    groups = walks[0][0]
    assert (groups >= 3) == (T > 2000) and walks == [(groups, min(groups, 2))] * 5


def test_compiled_without_graph_breaks() -> None:
    tensors = draw(2, 130, 2, 64, 64, torch.bfloat16)
    upstream = torch.randn_like(tensors["v"]), torch.randn_like(tensors["initial_state"])
    compiled = torch.compile(gated_delta_rule, fullgraph=True)
    expected = run_with_gradients(gated_delta_rule, tensors, upstream, output_final_state=True)
    actual = run_with_gradients(compiled, tensors, upstream, output_final_state=True)
    assert_close(actual, expected, 1e-3)


def test_float16_is_computed_in_float32() -> None:
    tensors = {n: t.half() if n in "qkv" else t for n, t in draw(1, 100, 2, 64, 64, torch.float32).items()}
    o, _ = gated_delta_rule(**tensors, backend="triton")
    expected, _ = chunk_gated_delta_rule(**{n: t.double() for n, t in tensors.items()})
    assert o.dtype == torch.float16 and relative_error(o, expected) < 1e-3
