"""FullTraining with a teacher: its objective against plain float64 PyTorch, what learns by it, and what it refuses."""

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from jetlit.errors import UserError
from jetlit.recipes import FullTraining
from tests.models.small import prompts, small_model

HYBRID = ["gated_delta_net", "attn", "swa"]


@pytest.fixture
def models(tmp_path):
    """Folders of a teacher and of a hybrid student, which share no weight."""
    folders = {"teacher": tmp_path / "teacher", "student": tmp_path / "student"}
    small_model(["attn"] * 3, seed=5).save_pretrained(folders["teacher"])
    small_model(HYBRID, seed=6).save_pretrained(folders["student"])
    return {name: str(folder) for name, folder in folders.items()}


def recipe(models, **options):
    """Return a recipe whose model is built; logits are held for fewer tokens at a time than there are."""
    built = FullTraining(**models, chunk=13, **options)
    built.configure_model()
    return built


def log_probabilities(model, ids):
    return model.double()(ids).logits.log_softmax(-1)


@pytest.mark.parametrize("kl_weight", [0.3, 1.0, 2.5])
def test_the_objective_is_next_token_loss_and_weighted_kl(models, kl_weight):
    ids, taught = prompts(batch=3, length=19), recipe(models, kl_weight=kl_weight)
    losses = taught.losses(ids)
    losses["objective"].backward()
    gradients = {name: parameter.grad.double() for name, parameter in taught.model.named_parameters()}
    taught.zero_grad()

    student, teacher = log_probabilities(taught.model, ids), log_probabilities(taught.teacher.model, ids)
    loss = cross_entropy(student[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    kl = kl_div(student, teacher, log_target=True, reduction="none").sum(-1).mean()
    expected = {"objective": loss + kl_weight * kl, "loss": loss, "kl": kl}
    assert losses.keys() == expected.keys() and kl > 0.1
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-5)
    expected["objective"].backward()
    reference = {name: parameter.grad for name, parameter in taught.model.named_parameters()}
    torch.testing.assert_close(gradients, reference, rtol=1e-3, atol=1e-5)


def test_every_weight_of_the_student_learns_and_none_of_the_teacher(models):
    taught = recipe(models)
    taught.losses(prompts())["objective"].backward()
    assert all(parameter.dtype == torch.float32 for parameter in taught.parameters())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in taught.parameters())
    student = {f"model.{name}" for name, _ in small_model(HYBRID).named_parameters()}
    assert {name for name, _ in taught.named_parameters()} == student
    assert not any(parameter.requires_grad for parameter in taught.teacher.model.parameters())
    assert all(parameter.grad is None for parameter in taught.teacher.model.parameters())
    assert all(name.startswith("model.") for name in taught.state_dict())


def test_held_out_it_is_the_losses_without_weights_and_the_features(models):
    ids = prompts(batch=3, length=19)
    losses, held_out = recipe(models, kl_weight=0.3).losses(ids), recipe(models, kl_weight=7.0).held_out_losses(ids, 0)
    assert held_out.keys() == {"loss", "kl", "feature"} and held_out["feature"] > 0
    assert all(torch.equal(held_out[name], losses[name]) for name in ("loss", "kl"))


@pytest.mark.parametrize("kl_weight", [0.0, -1.0])
def test_without_a_weight_the_teacher_is_refused(models, kl_weight):
    with pytest.raises(UserError, match="kl_weight (must be above zero: FullTraining|is -1.0)"):
        FullTraining(**models, kl_weight=kl_weight)
