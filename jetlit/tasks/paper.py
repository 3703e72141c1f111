"""Accuracies of the paper (Gu et al., arXiv:2508.15884) in percent, by the harness' names of tasks and suites."""

MODELS = ("Jet-Nemotron-2B", "Jet-Nemotron-4B", "Qwen2.5-1.5B", "Qwen3-1.7B-Base")
TASKS = {
    "mmlu": (60.8, 65.2, 59.5, 60.3),
    "mmlu_pro": (39.0, 44.2, 28.9, 37.8),
    "bbh_cot_zeroshot": (58.3, 65.0, 44.1, 54.2),
    "gsm8k": (76.2, 78.7, 62.4, 62.8),
    "longbench": (41.1, 43.9, 39.1, 42.2),
    "arc_challenge": (48.6, 51.7, 45.4, 44.9),
    "arc_easy": (74.8, 79.2, 71.2, 68.6),
    "piqa": (75.4, 78.1, 75.8, 75.5),
    "winogrande": (65.8, 70.5, 63.8, 63.8),
    "openbookqa": (40.6, 43.6, 40.2, 39.0),
    "boolq": (81.2, 83.0, 72.8, 79.0),
    "truthfulqa_mc2": (47.8, 46.6, 46.6, 48.8),
}
SUITE_MEANS = {"retrieval": (74.2, 76.2, 72.4, 76.1)}  # the paper prints FDA, SWDE and SQuAD as one mean


def paper_accuracy(task: str) -> dict[str, float]:
    """Return the paper's accuracy on a task as a fraction for each model; nothing if it reports none."""
    return {model: round(value / 100, 4) for model, value in zip(MODELS, TASKS.get(task, ()))}


def paper_mean(suite: str) -> dict[str, float]:
    """Return the paper's mean accuracy on a suite as a fraction for each model; nothing if it reports none."""
    return {model: round(value / 100, 4) for model, value in zip(MODELS, SUITE_MEANS.get(suite, ()))}
