"""Sentiment of movie reviews by prefixes, by LoRA of the same size, and by words alone."""

from __future__ import annotations

from functools import partial

from tqdm.auto import tqdm

from analyses.sentiment.data import INSTRUCTION, sentiment_tasks, shown, to_tune_on
from analyses.sentiment.methods import STARTS, Config, Work, configs, tuned, with_tensors
from analyses.study import Job, Rows, Tables
from prefix_interp.attribution.patching import patch_heads
from prefix_interp.prefixes.controls import norm_matched
from prefix_interp.prefixes.examples import prefix_from_text
from prefix_interp.seeds import derive_generator
from prefix_interp.tuning.evaluate import evaluate

Best = tuple[float, Config, float]  # its loss on the validation sentences, and its rate
_PASS = 32  # sequences per pass of an evaluation


def measure(job: Job) -> Tables:
    """Return how well prefixes and LoRA tell positive from negative sentences.

    Every training is kept on its own as soon as it is done, and every evaluation of it, so an
    interruption loses one run at most. Seeds may run in commands of their own (``--seed 1 --seeds
    1``), side by side, with the same ``--work``.

    - ``fits``: one row per training: ``lr``, ``train_loss``, ``seconds``, and the ``evaluation`` on
      the validation sentences; ``untuned``: that of each start.
    - ``scores``: one row per method at the rate with the lowest loss on the validation sentences:
      the ``evaluation`` on test sentences, and that of what nothing was tuned for.
    - ``longer``: the ``evaluation`` on more test sentences of no tuning, of the prefix with the
      lowest loss on the validation sentences and of the LoRA of its size, both trained longer.
    - ``heads``: the effect of patching every head of a prefix, and of its norm-matched controls,
      on the logit difference.

    Args:
        job: one seed of the study, with the language model.
    """
    assert job.model is not None
    size = job.protocol
    task, validation, held = sentiment_tasks(job.model, size.sentences)
    work = Work(
        job, job.model, to_tune_on(task), validation.sample(size.sentences.n_validation, "test"),
        task.sample(size.n_test, "test"), task.sample(size.n_longer, "test"),
    )  # fmt: skip
    fits: Rows = []
    scores: Rows = []
    examples = shown(held, size.n_shots, size.sentences.answers)
    job.part("bare", scores, partial(_bare, work, examples, scores))
    best: dict[str, Best] = {}
    untuned: Rows = []
    for config in tqdm([*configs(work)], desc="sentiment", disable=not job.progress):
        own: Rows = []
        if config.about["method"] == "prefix":  # LoRA starts as the bare model
            job.part(f"{config.name}-untuned", untuned, partial(_untuned, work, config, untuned))
        for lr in config.lrs:
            job.part(f"{config.name}-{lr}", own, partial(_fit, work, config, lr, own))
        fits += own
        chosen = min(own, key=lambda row: row["evaluation"]["loss"]["value"])
        best[config.name] = (chosen["evaluation"]["loss"]["value"], config, chosen["lr"])
        job.part(f"{config.name}-test", scores, partial(_test, work, config, chosen["lr"], scores))
    longer: Rows = []
    for name, leader in _leaders(list(best.values())).items():
        job.part(f"longer-{name}", longer, partial(_longer, work, name, leader, longer))
    wanted = [best[f"kv-{size.patched}-{start}"] for start in STARTS]
    _, config, lr = min(wanted, key=lambda each: each[0])
    heads: Rows = []
    for i in range(size.n_controls + 1):
        job.part(f"heads-{i}", heads, partial(_heads, work, config, lr, i, heads))
    return {"fits": fits, "untuned": untuned, "scores": scores, "longer": longer, "heads": heads}


def _fit(work: Work, config: Config, lr: float, rows: Rows) -> None:
    found = tuned(work, config, lr)
    start = config.start()
    rows.append({
        "seed": work.job.seed, **config.about, "lr": lr,
        "train_loss": float(found["train_loss"]), "seconds": float(found["seconds"]),
        "evaluation": config.score(start, found, work.validation).to_dict(),
    })  # fmt: skip


def _untuned(work: Work, config: Config, rows: Rows) -> None:
    score = config.score(config.start(), {}, work.validation)
    rows.append({"seed": work.job.seed, **config.about, "evaluation": score.to_dict()})


def _test(work: Work, config: Config, lr: float, rows: Rows) -> None:
    score = config.score(config.start(), tuned(work, config, lr), work.test)
    rows.append({"seed": work.job.seed, **config.about, "lr": lr, "evaluation": score.to_dict()})


def _leaders(best: list[Best]) -> dict[str, Best | None]:
    """Return the best prefix, the LoRA nearest to its size, and what stands for no tuning."""
    kinds = {m: [each for each in best if each[1].about["method"] == m] for m in ("prefix", "lora")}
    prefix = min(kinds["prefix"], key=lambda each: each[0])
    n = prefix[1].about["n_parameters"]
    lora = min(kinds["lora"], key=lambda each: abs(each[1].about["n_parameters"] - n))
    return {"zero-shot": None, "prefix": prefix, "lora": lora}


def _longer(work: Work, name: str, best: Best | None, rows: Rows) -> None:
    """Add the score of what is trained longer, or of no tuning, on more test sentences."""
    about = {"seed": work.job.seed, "method": name, "n_parameters": 0}
    if best is None:
        score = evaluate(work.model, work.longer_test, batch_size=_PASS)
        rows.append({**about, "evaluation": score.to_dict()})
        return
    _, config, lr = best
    found = tuned(work, config, lr, longer=True)
    score = config.score(config.start(), found, work.longer_test)
    rows.append({
        **about, **config.about, "lr": lr, "train_loss": float(found["train_loss"]),
        "seconds": float(found["seconds"]), "evaluation": score.to_dict(),
    })  # fmt: skip


def _bare(work: Work, examples: str, rows: Rows) -> None:
    """Add the scores of what nothing is tuned for: the prompt alone, examples, an instruction."""
    texts = {"zero-shot": None, "few-shot": examples, "instruction": f"{INSTRUCTION}\n"}
    for method, text in texts.items():
        prefix = None if text is None else prefix_from_text(work.model, text)
        rows.append({
            "seed": work.job.seed, "method": method, "n_parameters": 0,
            "n_slots": None if prefix is None else prefix.n_slots,
            "evaluation": evaluate(work.model, work.test, prefix, batch_size=_PASS).to_dict(),
        })  # fmt: skip


def _heads(work: Work, config: Config, lr: float, control: int, rows: Rows) -> None:
    """Add the mean effect of patching each head of the tuned prefix, or of a control."""
    prefix = with_tensors(config.start(), tuned(work, config, lr))
    if control:
        rng = derive_generator(work.job.seed, "norm-matched", control)
        prefix = norm_matched(prefix, rng)
    batch = work.validation.part(slice(work.job.protocol.n_heads))
    grid = patch_heads(
        work.model, prefix, batch, metrics=("logit_difference",), progress=work.job.progress
    )
    effect = grid.effect().double()
    whole = (grid.on["logit_difference"] - grid.off["logit_difference"]).double().mean()
    rows += [
        {
            "seed": work.job.seed, "prefix": config.name, "control": control, "layer": layer,
            "head": head, "effect": float(effect[layer, head].mean()), "whole": float(whole),
        }
        for layer in range(effect.shape[0])
        for head in range(effect.shape[1])
    ]  # fmt: skip
