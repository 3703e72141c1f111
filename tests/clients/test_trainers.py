"""transformers' Trainer, trl and lm-evaluation-harness on a hybrid, most of them by its path."""

import json
import os
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("trl", reason="make test-clients installs it")
from datasets import Dataset
from jetlit_data import load_tokenizer
from transformers import Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from jetlit.models import JetNemotronForCausalLM, load_model
from jetlit.models.export import export
from tests.models.small import prompts, small_model

LAYERS = ["jet", "attn", "swa", "gla"]
QUIET = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "logging_steps": 1, "seed": 3}
CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def byte_model():
    sizes = {"vocab_size": 259, "pad_token_id": 256, "bos_token_id": 257, "eos_token_id": 258}
    return small_model(LAYERS, **sizes, max_position_embeddings=512)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Save a hybrid with its tokenizer, and return the folder."""
    tokenizer = load_tokenizer("bytes")
    tokenizer.chat_template = CHAT
    return str(export(byte_model(), tokenizer, tmp_path_factory.mktemp("hybrid") / "model"))


def rows(count=16):
    """Rows with targets of different numbers, which a mean of means would weight wrongly."""
    data = []
    for index in range(count):
        ids = prompts(1, 12, index)[0]
        labels = ids.clone()
        labels[: index % 7] = -100
        data.append({"input_ids": ids.tolist(), "labels": labels.tolist()})
    return Dataset.from_list(data)


def train(out, model=None, resume=None, **changes):
    settings = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "save_strategy": "no"}
    arguments = TrainingArguments(output_dir=str(out), **(QUIET | settings | changes))
    trainer = Trainer(model or small_model(LAYERS), arguments, train_dataset=rows())
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_accumulated_batches_train_as_one_large_batch_does(tmp_path):
    whole = train(tmp_path / "whole", per_device_train_batch_size=8)
    parts = train(tmp_path / "parts", per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert losses(parts) == pytest.approx(losses(whole), abs=2e-3)
    for a, b in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-4)


def test_label_smoothing_smooths_the_next_token(tmp_path):
    trainer = train(tmp_path, max_steps=1, label_smoothing_factor=0.2)
    model = small_model(LAYERS)
    batch = {name: torch.tensor(values) for name, values in rows()[:4].items()}
    with torch.no_grad():
        logits = model(batch["input_ids"]).logits[:, :-1].flatten(0, 1)
    expected = F.cross_entropy(logits, batch["labels"][:, 1:].flatten(), label_smoothing=0.2)
    trainer.model.load_state_dict(model.state_dict())
    torch.testing.assert_close(trainer.compute_loss(trainer.model, dict(batch)), expected)


def test_a_resumed_training_ends_with_the_weights_of_an_undisturbed_one(tmp_path):
    whole = train(tmp_path / "whole")
    train(tmp_path / "parts", save_strategy="steps", save_steps=2)
    checkpoint = str(tmp_path / "parts" / "checkpoint-2")
    resumed = train(tmp_path / "parts", resume=checkpoint)
    for (name, a), b in zip(resumed.model.named_parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert type(load_model(checkpoint)) is JetNemotronForCausalLM


TEXTS = ["The first text is long.", "A second.", "The third text is somewhat longer than it.", "Four!"]


def test_supervised_fine_tuning_packs_documents_apart(folder, tmp_path):
    arguments = SFTConfig(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=1,
        packing=True,
        padding_free=True,
        max_length=128,
        learning_rate=1e-3,
        model_init_kwargs={"dtype": "float32"},
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        **QUIET,
    )
    trainer = SFTTrainer(folder, arguments, train_dataset=Dataset.from_dict({"text": TEXTS}))
    assert type(trainer.model) is JetNemotronForCausalLM
    batch = next(iter(trainer.get_train_dataloader()))
    reference = load_model(folder).eval()
    positions = batch["position_ids"][0]
    starts = [*torch.nonzero(positions == 0).flatten().tolist(), len(positions)]
    assert len(starts) > 3, "nothing is packed"
    with torch.no_grad():
        packed = trainer.model.eval()(**{key: value for key, value in batch.items() if key != "labels"}).logits[0]
        for start, end in pairwise(starts):
            alone = reference(batch["input_ids"][:, start:end]).logits[0]
            torch.testing.assert_close(packed[start:end], alone, rtol=1e-4, atol=1e-4)
    trainer.model.train()
    trainer.train()
    assert all(0 < loss < 20 for loss in losses(trainer))


def test_preference_optimization_starts_at_the_logarithm_of_two_and_learns(folder, tmp_path):
    arguments = DPOConfig(
        output_dir=str(tmp_path),
        max_steps=6,
        per_device_train_batch_size=2,
        learning_rate=3e-3,
        model_init_kwargs={"dtype": "float32"},
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        **QUIET,
    )
    data = {"prompt": ["Say yes: ", "Again: "] * 2, "chosen": ["yes"] * 4, "rejected": ["no"] * 4}
    trainer = DPOTrainer(folder, args=arguments, train_dataset=Dataset.from_dict(data))
    trainer.train()
    assert losses(trainer)[0] == pytest.approx(0.6931, abs=1e-3)
    assert losses(trainer)[-1] < 0.5


def environment():
    """Return the environment of a program that does not import jetlit, but finds it installed."""
    return os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def test_programs_that_do_not_import_jetlit_load_it_with_trust_remote_code(folder):
    code = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "assert 'jetlit' not in sys.modules\n"
        f"tokenizer = AutoTokenizer.from_pretrained({folder!r}, trust_remote_code=True)\n"
        f"model = AutoModelForCausalLM.from_pretrained({folder!r}, trust_remote_code=True)\n"
        "print(model.generate(**tokenizer('ab', return_tensors='pt'), max_new_tokens=5, do_sample=False)[0].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr[-2000:]
    expected = load_model(folder).eval().generate(torch.tensor([[97, 98]]), max_new_tokens=5, do_sample=False)
    assert json.loads(done.stdout.splitlines()[-1]) == expected[0].tolist()


def test_without_jetlit_it_is_said_how_to_get_it(folder):
    code = (
        "import sys; sys.modules['jetlit'] = None\n"
        "from transformers import AutoModelForCausalLM\n"
        f"AutoModelForCausalLM.from_pretrained({folder!r}, trust_remote_code=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.stderr.splitlines()[-1].endswith("pip install jetlit.")


def test_lm_eval_s_command_line_scores_it(folder, tmp_path):
    (tmp_path / "task.yaml").write_text(
        "task: tiny\ndataset_path: json\ndataset_kwargs: {data_files: {test: %s}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: ['yes', 'no']\ndoc_to_target: 0\n"
        "metric_list: [{metric: acc}]\n" % (tmp_path / "rows.jsonl")
    )
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"q": f"Is {n} odd? "}) + "\n" for n in range(4)))
    command = ["-m", "lm_eval", "--model", "hf", "--tasks", "tiny", "--include_path", str(tmp_path), "--device", "cpu"]
    command += ["--model_args", f"pretrained={folder},trust_remote_code=True", "--output_path", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(next((tmp_path / "out").rglob("results*.json")).read_text())
    assert 0 <= report["results"]["tiny"]["acc,none"] <= 1
