"""transformers' flash-attention implementations, where a package is installed, against scaled_dot_product_attention."""

import pytest
import torch
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from tests.gpu.test_engine import SIZES
from tests.models.small import small_model

INSTALLED = {"flash_attention_2": is_flash_attn_2_available, "flash_attention_3": is_flash_attn_3_available}
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
LENGTH, PADDING = 70, 13


@pytest.fixture(params=INSTALLED)
def implementation(request):
    if not INSTALLED[request.param]():
        pytest.skip(f"the package of {request.param} is not installed")
    return request.param


@torch.no_grad()
@pytest.mark.parametrize("layers", [["attn", "jet"], ["swa", "attn"]], ids="-".join)
def test_logits_are_those_of_sdpa(implementation, layers, device="cuda"):
    model = small_model(layers, **SIZES).to(device, torch.bfloat16)
    ids = torch.randint(3, 61, (3, LENGTH), generator=torch.Generator().manual_seed(1)).to(device)
    padding = torch.ones_like(ids)
    padding[0, :PADDING] = 0
    for mask in (None, padding):
        seen = torch.ones_like(ids) if mask is None else mask
        model.set_attn_implementation("sdpa")
        expected = model(ids, attention_mask=mask).logits[seen == 1].float()
        model.set_attn_implementation(implementation)
        whole = model(ids, attention_mask=mask).logits[seen == 1].float()
        assert (whole - expected).norm() < 0.03 * expected.norm()
        past = model(ids[:, :-1], attention_mask=None if mask is None else mask[:, :-1], use_cache=True)
        last = model(ids[:, -1:], attention_mask=mask, past_key_values=past.past_key_values).logits[:, -1].float()
        expected = model(ids, attention_mask=mask).logits[:, -1].float()
        assert (last - expected).norm() < 0.03 * expected.norm()


def test_it_generates(implementation):
    model = small_model(["attn", "swa", "jet"], **SIZES).to("cuda", torch.bfloat16)
    model.set_attn_implementation(implementation)
    ids = torch.randint(3, 61, (2, LENGTH), device="cuda")
    assert model.generate(ids, max_new_tokens=5, min_new_tokens=5, do_sample=False, pad_token_id=0).shape == (2, 75)
