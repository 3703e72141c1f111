"""`jetlit fit --help` as text: importing Lightning takes longer than anyone waits for help."""

_PURPOSES = {
    "fit": "Train a recipe on token data. The fit writes RUN_DIR/STAGE: checkpoints, curves, model and result.json.",
    "validate": "Print the held-out losses of a fit's checkpoint, by default its newest.",
    "test": "Print the held-out losses of a fit's checkpoint, through the test loop.",
}
_PAGE = """\
usage: jetlit {subcommand} [--config FILE ...] [--GROUP.ARGUMENT VALUE ...]

{purpose}
Options come from YAML files (later ones win) and from the command line, which wins over both.
`${{key}}` in a value refers to any other key, e.g. ${{run_dir}}/teacher/model.

Examples:
  jetlit fit --config configs/quickstart/common.yaml --config configs/quickstart/teacher.yaml
  jetlit fit --config common.yaml --config stage1.yaml --trainer.max_steps 200 --model.optimizer.lr 3e-4

Groups:
  --run_dir              folder of the whole run (runs/quickstart)
  --stage                folder of this fit inside run_dir (fit)
  --ckpt_path            a checkpoint to resume from or to evaluate; "last"; "none" to start over
  --seed_everything      seed of all that is drawn (0)
  --model                the recipe, by class name, and its arguments: --model Distillation --model.teacher
                         FOLDER
  --data                 the data module, by class name, and its arguments (TokenDataModule: corpora,
                         block_size, batch_size, num_workers=0, seed=0, val_batches=8, vocab_size=None)
  --trainer              Lightning's Trainer: max_steps, devices, precision, strategy, logger, callbacks, ...
  --nan_guard            what happens to a loss that is not a number (NanGuard: folder, action='stop',
                         spike_factor=None, max_skips=10)
  --tasks                tasks that the model is scored on at every validation (TaskScores: specs=None,
                         tokenizer=None)
  --throughput           what is measured of speed (Throughput: warmup_steps=3, batch=None, context=512,
                         cache=None, kept_steps=512)
  --checkpoint           when checkpoints are written (StageCheckpoint: dirpath, every_n_train_steps=100,
                         save_top_k=1)
  --export               where the trained model is written (ExportModel: folder)
  --manifest             where result.json is written (RunManifest: folder, stage, hash=None)

Recipes (--model NAME):
  Distillation           Training of a hybrid's token mixers toward a frozen teacher (paper, section 2: stage
                         1).
  FullTraining           Next-token training of all weights of a model that stage 1 has made (paper, section
                         2: stage 2).
  Pretraining            Next-token training of a full-attention decoder from random weights.
  SuperNetworkTraining   Training of one random path a step through the layers' alternatives (paper, section
                         2: step 1).

More:
  jetlit fit --model.help Distillation   the arguments of one recipe; so with every class
  jetlit fit --config FILE --print_config   all values as YAML
  jetlit fit --help_all                  every option of every group (takes as long as importing Lightning)"""


def page(subcommand: str) -> str:
    """Return the help of `fit`, `validate` or `test`."""
    return _PAGE.format(subcommand=subcommand, purpose=_PURPOSES[subcommand])
