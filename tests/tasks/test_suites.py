"""Suites of lm-evaluation-harness, run by the real harness on local files where it is installed."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from jetlit_data import load_tokenizer
from jetlit_data.encoding import encode_documents, leading_tokens
from transformers import Qwen2Config, Qwen2ForCausalLM

from jetlit.errors import UserError
from jetlit.models import load_model
from jetlit.tasks.paper import paper_accuracy, paper_mean
from jetlit.tasks.questions import read_records
from jetlit.tasks.suites import Suite, SuiteTask, run_suite, task_manager
from tests.data.tokenizers import tokenizer_of
from tests.tasks.models import VOCABULARY, Oracle, random_model

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs" / "eval").glob("*.yaml"))
DATA = Path(__file__).resolve().parents[2] / "jetlit" / "tasks" / "data"
TOKENIZER = load_tokenizer("bytes")
harness = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed (extra eval)")


@pytest.fixture(scope="module")
def qwen():
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    return Qwen2ForCausalLM(config).eval()


@pytest.fixture
def model(qwen):
    from jetlit.tasks.lm_eval import HarnessModel

    def make(**settings):
        return HarnessModel(load_model(qwen), TOKENIZER, **settings)

    return make


def requests(*arguments):
    return [SimpleNamespace(args=each) for each in arguments]


@torch.no_grad()
def reference(qwen, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """Log-probability and greedy match from transformers' own model, one row at a time."""
    tokens = torch.tensor(context + continuation)
    logprobs = qwen(input_ids=tokens[None, :-1]).logits[0, -len(continuation) :].double().log_softmax(-1)
    targets = tokens[-len(continuation) :]
    return float(logprobs.gather(1, targets[:, None]).sum()), bool((logprobs.argmax(-1) == targets).all())


@harness
def test_log_likelihoods_are_those_of_transformers(qwen, model):
    pairs = [("The sky is", " blue"), ("a", "b"), ("", "no context"), ("trailing space ", "here"), ("x" * 50, "y" * 20)]
    found = model(batch_tokens=100).loglikelihood(requests(*pairs))
    for (context, continuation), (logprob, greedy) in zip(pairs, found, strict=True):
        if context:
            spaces = len(context) - len(context.rstrip())
            split = (
                TOKENIZER.encode(context.rstrip()),
                TOKENIZER.encode(context[len(context) - spaces :] + continuation),
            )
        else:
            split = [TOKENIZER.eos_token_id], TOKENIZER.encode(continuation)
        expected = reference(qwen, *split)
        assert logprob == pytest.approx(expected[0], abs=1e-3) and greedy == expected[1]


@harness
@pytest.mark.parametrize("shift", [0, 1])
def test_what_the_model_would_have_said_is_called_greedy(shift):
    from jetlit.tasks.lm_eval import HarnessModel

    pairs = [("The sky is", " blue"), ("", "no context")]
    found = HarnessModel(Oracle(shift=shift), TOKENIZER).loglikelihood(requests(*pairs))
    assert [greedy for _, greedy in found] == [shift == 0] * 2


@harness
def test_long_contexts_lose_their_beginning(qwen, model):
    context, continuation = "0123456789" * 5, "abc"
    ((logprob, _),) = model(max_length=16).loglikelihood(requests((context, continuation)))
    assert logprob == pytest.approx(
        reference(qwen, TOKENIZER.encode(context)[-13:], TOKENIZER.encode(continuation))[0], abs=1e-3
    )


@harness
@pytest.mark.parametrize("max_length", [8, 64])
def test_rolling_log_likelihoods_predict_every_token_once(qwen, model, max_length):
    texts = ["A short one.", "", "Something rather longer than the window of eight tokens."]
    found = model(max_length=max_length).loglikelihood_rolling(requests(*[(text,) for text in texts]))
    window = max_length - 1
    for text, total in zip(texts, found, strict=True):
        ids = [TOKENIZER.eos_token_id, *TOKENIZER.encode(text)]
        expected, start = 0.0, 1
        while start < len(ids):
            stop = min(start + window, len(ids))
            first = 0 if start == 1 else stop - window - 1
            expected += reference(qwen, ids[first:start], ids[start:stop])[0]
            start = stop
        assert total == pytest.approx(expected, abs=1e-2)


@harness
def test_generation_is_that_of_transformers_up_to_the_stop_string(qwen, model):
    prompts = ["The sky", "is blue", "A much longer prompt of other length", ""]
    settings = {"until": [], "max_gen_toks": 12}
    found = model(batch_size=2).generate_until(requests(*[(prompt, settings) for prompt in prompts]))
    for prompt, answer in zip(prompts, found, strict=True):
        ids = torch.tensor([TOKENIZER.encode(prompt) or [TOKENIZER.eos_token_id]])
        expected = qwen.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=258, pad_token_id=256)
        assert answer == TOKENIZER.decode(expected[0, ids.shape[1] :], skip_special_tokens=True)
    stop = found[0][3:5]
    (cut,) = model().generate_until(requests((prompts[0], {"until": [stop], "max_gen_toks": 12})))
    assert cut == found[0].partition(stop)[0]


@harness
def test_the_prompt_keeps_its_place_beside_a_long_answer(model):
    settings = {"until": [], "max_gen_toks": 16}
    with pytest.raises(UserError, match="asks for answers of 16 tokens, and max_length 16 .* raise max_length"):
        model(max_length=16).generate_until(requests(("a prompt", settings)))
    with pytest.raises(UserError, match="asks for answers of 0 tokens"):
        model().generate_until(requests(("a prompt", {**settings, "max_gen_toks": 0})))


@harness
def test_contexts_that_lose_their_beginning_are_counted(model, caplog):
    settings = {"until": [], "max_gen_toks": 4}
    model(max_length=10).generate_until(requests(("a longer prompt", settings), ("short", settings)))
    assert "1 of 2 contexts lose their beginning, since max_length is 10 tokens" in caplog.text
    caplog.clear()
    model(max_length=10).loglikelihood(requests(("a longer prompt", "abc"), ("a", "b"), ("a context", "abc")))
    assert "2 of 3 contexts lose their beginning" in caplog.text


@harness
def test_a_continuation_longer_than_a_row_is_refused(model):
    model(max_length=16).loglikelihood(requests(("a", "b" * 15)))
    with pytest.raises(UserError, match="continuation of 16 tokens .* longer than max_length 16: raise max_length"):
        model(max_length=16).loglikelihood(requests(("a", "b" * 16)))


@harness
@pytest.mark.parametrize("kind", ["byte_level", "unigram", "sentencepiece_bpe", "words"])
def test_texts_that_spell_special_tokens_are_scored_whole(kind):
    from jetlit.tasks.lm_eval import HarnessModel

    tokenizer = tokenizer_of(kind)
    harness_model = HarnessModel(Oracle(), tokenizer)
    for text in ("the </s>", "</s>", "<s> the </s> <filename>"):
        (document,) = encode_documents(tokenizer, [text])
        leading = leading_tokens(tokenizer)
        assert harness_model.tok_encode(text) == leading + document[:-1].tolist()
        assert harness_model.tok_encode(text, add_special_tokens=False) == document[:-1].tolist()
        assert harness_model.prefix_token_id == (leading or [tokenizer.eos_token_id])[0]


@pytest.fixture(scope="module")
def local_tasks(tmp_path_factory):
    """Return a task of the harness that reads one of the package's own files."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "local_knowledge.yaml").write_text(
        f"""
task: local_knowledge
dataset_path: json
dataset_kwargs:
  data_files: {{test: {DATA / "general_knowledge.jsonl"}}}
test_split: test
fewshot_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
    )
    return str(folder)


@harness
@pytest.mark.slow
def test_the_real_harness_runs_a_suite_from_local_files(qwen, local_tasks, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    suite = Suite("mine", [SuiteTask("local_knowledge")])
    report = run_suite(load_model(qwen), TOKENIZER, suite, local_data=local_tasks)["local_knowledge"]
    right = []
    for record, _ in read_records("general_knowledge", None):
        scores = [
            reference(qwen, TOKENIZER.encode(record["prompt"]), TOKENIZER.encode(" " + choice))[0]
            for choice in record["choices"]
        ]
        right.append(scores.index(max(scores)) == record["answer"])
    assert report["value"] == pytest.approx(sum(right) / len(right))
    assert report["questions"] == len(right) == 36 and 0 < report["stderr"] < 0.1
    limited = run_suite(load_model(qwen), TOKENIZER, suite, limit=5, local_data=local_tasks)["local_knowledge"]
    assert limited["questions"] == 5 and limited["value"] == pytest.approx(sum(right[:5]) / 5)


@harness
@pytest.mark.slow
def test_unknown_tasks_and_metrics_are_refused(local_tasks):
    with pytest.raises(UserError, match='knows no task "no_such_task"'):
        run_suite(random_model(), TOKENIZER, Suite("x", [SuiteTask("no_such_task")]))
    suite = Suite("x", [SuiteTask("local_knowledge", metric="f1,none")])
    with pytest.raises(UserError, match='no metric "f1,none": set metric to one of acc,none; acc_norm,none'):
        run_suite(random_model(), TOKENIZER, suite, limit=2, local_data=local_tasks)


@harness
@pytest.mark.slow
def test_questions_of_groups_within_groups_are_counted(local_tasks, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    task = (Path(local_tasks) / "local_knowledge.yaml").read_text()
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}.yaml").write_text(task.replace("task: local_knowledge", f"task: local_{name}"))
    for group, members in (("local_inner", "local_one, local_two"), ("local_outer", "local_inner, local_three")):
        metrics = "aggregate_metric_list: [{metric: acc, weight_by_size: true}]"
        (tmp_path / f"{group}.yaml").write_text(f"group: {group}\ntask: [{members}]\n{metrics}\n")
    suite = Suite("x", [SuiteTask("local_outer"), SuiteTask("local_three")])
    report = run_suite(random_model(), TOKENIZER, suite, limit=5, local_data=str(tmp_path))
    assert report["local_outer"]["questions"] == 15 and report["local_three"]["questions"] == 5
    assert report["local_outer"]["value"] == pytest.approx(report["local_three"]["value"])


@harness
@pytest.mark.slow
@pytest.mark.parametrize(("task", "package"), [("minerva_math", "antlr4"), ("longbench", "jieba")])
def test_a_package_that_is_missing_shows_before_the_first_task_is_scored(task, package, local_tasks, monkeypatch):
    monkeypatch.delitem(sys.modules, "lm_eval.tasks.minerva_math.utils", raising=False)
    monkeypatch.delitem(sys.modules, "lm_eval.tasks.longbench.metrics", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    model, seen = random_model(), []
    model.get_input_embeddings().register_forward_hook(lambda *_: seen.append(True))
    first = SuiteTask("local_knowledge")
    with pytest.raises(UserError, match=f"{task} cannot be loaded .*{package}.*: install .* pip install 'jetlit"):
        run_suite(model, TOKENIZER, Suite("x", [first, SuiteTask(task)]), limit=1, local_data=local_tasks)
    assert not seen
    run_suite(model, TOKENIZER, Suite("x", [first]), limit=1, local_data=local_tasks)
    assert seen


@harness
@pytest.mark.slow
def test_another_version_of_antlr_is_named(monkeypatch):
    pytest.importorskip("math_verify")
    monkeypatch.delitem(sys.modules, "lm_eval.tasks.minerva_math.utils", raising=False)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "4.9.3")
    with pytest.raises(UserError, match="minerva_math cannot be loaded .*antlr4-python3-runtime==4.11"):
        run_suite(random_model(), TOKENIZER, Suite("x", [SuiteTask("minerva_math")]))


@harness
@pytest.mark.parametrize(
    ("module", "package"), [("minerva_math.utils", "math_verify"), ("longbench.metrics", "fuzzywuzzy")]
)
def test_the_extra_s_packages_are_all_that_mathematics_and_long_contexts_import(module, package):
    pytest.importorskip(package)
    import_module(f"lm_eval.tasks.{module}")


@harness
def test_the_harness_knows_every_task_of_the_shipped_suites():
    known = set(task_manager().all_tasks)
    named = {task.task for path in CONFIGS for task in Suite.load(path).tasks}
    assert named and not named - known


def scored(index, name: str) -> set[str]:
    """Return the "metric,filter" names of a task of the harness, or those that all tasks of a group or a tag share."""
    config = index[name].cfg
    members = index[name].tags if config is None else config["task"] if "group" in config else ()
    if members:
        return set.intersection(*(scored(index, member) for member in members))
    if "class" in config:
        kind = import_module("lm_eval.tasks._yaml_loader").load_yaml(index[name].yaml_path)["class"]
        return {f"{metric},none" for metric in kind.aggregation(kind.__new__(kind))}  # made without its data
    filters = config.get("filter_list") or [{"name": "none"}]
    return {f"{metric['metric']},{each['name']}" for metric in config["metric_list"] for each in filters}


def reported(index, name: str) -> set[str]:
    """Those that the harness reports under that name: a group says which it averages."""
    found, config = scored(index, name), index[name].cfg or {}
    if "group" not in config:
        return found
    averaged = config.get("aggregate_metric_list", [])
    averages = import_module("lm_eval.config.group").GroupConfig(name, aggregate_metric_list=averaged)
    kinds = {key.partition(",")[2] for key in found}
    metrics = averages.aggregate_metric_list
    return found & {f"{each.metric},{kind}" for each in metrics for kind in each.filter_list or kinds}


@harness
def test_the_harness_reports_every_metric_of_the_shipped_suites():
    index = task_manager().task_index
    assert reported(index, "winogrande") == {"acc,none"} and reported(index, "fda") == {"contains,none"}
    assert scored(index, "bbh_cot_zeroshot") > reported(index, "bbh_cot_zeroshot")
    named = {(task.task, task.metric) for path in CONFIGS for task in Suite.load(path).tasks}
    assert {(task, metric) for task, metric in named if metric not in reported(index, task)} == set()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_suites_load_under_their_own_name(path):
    suite = Suite.load(path)
    assert suite.name == path.stem and suite.tasks
    assert Suite.load(path.stem) == suite


def test_the_seed_suite_is_these_eight_tasks():
    (path,) = (path for path in CONFIGS if path.stem == "seed")
    assert sorted(task.task for task in Suite.load(path).tasks) == [
        "arc_challenge",
        "arc_easy",
        "hellaswag",
        "mmlu",
        "openbookqa",
        "piqa",
        "truthfulqa_mc2",
        "winogrande",
    ]


def test_the_paper_s_figures_belong_to_tasks_of_the_shipped_suites():
    named = {task.task for path in CONFIGS for task in Suite.load(path).tasks}
    reported = {task for task in named if paper_accuracy(task)}
    assert len(reported) == 12
    assert paper_accuracy("gsm8k")["Jet-Nemotron-4B"] == 0.787
    assert paper_mean("retrieval")["Qwen3-1.7B-Base"] == 0.761
    assert not paper_accuracy("hellaswag") and not paper_mean("seed")


def test_the_paper_s_shots_are_kept():
    shots = {task.task: task.num_fewshot for path in CONFIGS for task in Suite.load(path).tasks}
    assert {name: count for name, count in shots.items() if count} == {
        "gsm8k": 4,
        "minerva_math": 4,
        "mmlu_pro": 5,
        "gpqa_main_n_shot": 5,
    }


def test_without_the_harness_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match="pip install 'jetlit"):
        run_suite(random_model(), TOKENIZER, Suite("x", [SuiteTask("mmlu")]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\ntasks: []\n", "names no task"),
        ("name: x\ntask: []\n", "is not a suite of tasks"),
        ("name: x\ntasks:\n  - {task: mmlu, shots: 3}\n", "is not a suite of tasks"),
        ("name: [\n", "is not a suite of tasks"),
        ("", "is not a suite of tasks"),
        ("name: x\n", "is not a suite of tasks"),
        ("- piqa\n", "is not a suite of tasks"),
        ("name: x\ntasks: {task: piqa}\n", "tasks is not a list of mappings"),
        ("name: x\ntasks: [piqa]\n", "tasks is not a list of mappings"),
        ("name: x\ntasks: 3\n", "tasks is not a list of mappings"),
        ("name: x\ntasks: [{}]\n", 'Task 1 needs the option "task"'),
        ("name: x\ntasks: [{task: 3}]\n", "Task 1: task takes str, not 3"),
        ("name: [x]\ntasks: [{task: piqa}]\n", "A suite: name takes str"),
        ("name: x\ntasks: [{task: piqa, num_fewshot: -1}]\n", "num_fewshot is -1, but should be greater"),
        ("name: x\ntasks: [{task: piqa, num_fewshot: 1.5}]\n", "num_fewshot takes int, not 1.5"),
        ("name: x\ntasks: [{task: piqa, metric: null}]\n", "metric takes str, not None"),
        ("name: x\ntasks: " + "[" * 300, "is not a suite of tasks"),
        ("name: !!python/object/apply:os.getcwd []\n", "is not a suite of tasks"),
        (b"name: \xe9", "is not a suite of tasks"),
    ],
)
def test_wrong_suites_are_refused(tmp_path, text, message):
    (tmp_path / "suite.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        Suite.load(tmp_path / "suite.yaml")


def test_a_missing_suite_is_named(tmp_path):
    with pytest.raises(UserError, match="There is no suite .*none.yaml: give a YAML file, or one of commonsense, "):
        Suite.load(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        Suite.load(tmp_path)
