"""One seed: prefixes of models of every depth, how far attention moves in them, and why.

The models differ in their number of layers and in whether there are MLPs between them, in nothing
else. Each is pretrained on the mixture of Table 3; prefixes are tuned for a skill of the mixture,
for two of them in a row, and for a task that was never seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from analyses.scores import score_rows
from analyses.study import Job, Rows, Tables
from analyses.table3.measure import COMBINED, MIXTURE, NEW
from prefix_interp.models.host import Model
from prefix_interp.models.toy import ToyConfig
from prefix_interp.prefixes.baselines import run_pair
from prefix_interp.prefixes.controls import norm_matched
from prefix_interp.prefixes.prefix import Parameterization, Prefix
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks import FOUR_SKILLS, get_task
from prefix_interp.theory.depth import attention_drift
from prefix_interp.theory.expansion import expand_attention_logits
from prefix_interp.tuning.contexts import sweep
from prefix_interp.tuning.train import pretrain

SKILL = "sort_ascending"
TASKS = (SKILL, COMBINED, NEW)
CONTROL = "norm-matched prefix"


@dataclass(frozen=True)
class Protocol:
    """One preset's sizes; all other settings come from the preset itself.

    Attributes:
        n_layers: the depths.
        attn_only: whether there are no MLPs; each value is a series of models.
        d_model: width, with four heads.
        n_slots: of each prefix.
        kinds: parameterizations of the prefixes.
        pretrain_steps: of each model.
        pretrain_lr: of each model.
        steps: of each prefix.
        lrs: learning rates; the one with the lowest training loss counts.
        n_test: test sequences.
        n_drift: sequences on which attention is compared.
    """

    n_layers: tuple[int, ...] = (1, 2, 4, 8)
    attn_only: tuple[bool, ...] = (False, True)
    d_model: int = 128
    n_slots: int = 10
    kinds: tuple[Parameterization, ...] = ("residual", "kv")
    pretrain_steps: int = 6000
    pretrain_lr: float = 1e-3
    steps: int = 2000
    lrs: tuple[float, ...] = (1e-2, 3e-2)
    n_test: int = 3200
    n_drift: int = 64


PROTOCOLS = {
    "fast": Protocol(),
    "paper": Protocol(
        n_layers=(1, 2, 4, 8, 16, 40), d_model=256, kinds=("residual",), pretrain_steps=40_000,
        pretrain_lr=5e-4, steps=100_000, lrs=(5e-5,),
    ),
    "smoke": Protocol(
        n_layers=(1, 2), d_model=16, n_slots=2, kinds=("residual", "kv"), pretrain_steps=3,
        steps=3, lrs=(1e-2,), n_test=40, n_drift=4,
    ),
}  # fmt: skip


def measure(job: Job) -> Tables:
    """Return one seed's tables; every row has ``seed``, ``n_layers`` and ``attn_only``.

    - ``models``: the ``evaluation`` of each pretrained model on the four skills, by ``task``.
    - ``scores``: of each prefix at its best rate on the task that it was tuned for, and of a
      norm-matched random one: ``method``, ``parameterization``, ``task``, ``lr``, ``train_loss``.
    - ``drift``: how far attention within the content moves, by ``layer``: mean ``distance`` (0 to
      1) and ``flips`` (share of rows whose first key changes), for both prefixes.
    - ``terms``: by ``layer`` and ``term``, how much of a row of scores it makes (``rms_in_row``,
      mean over heads), for the tuned prefix.

    Args:
        job: the seed, its protocol, and the place for what is finished.
    """
    tables: dict[str, Rows] = {"models": [], "scores": [], "drift": [], "terms": []}
    for attn_only in job.protocol.attn_only:
        for n_layers in job.protocol.n_layers:
            _Depth(job, n_layers, attn_only, tables).run()
    return tables


@dataclass(frozen=True)
class _Depth:
    """The model of one depth, and its prefixes."""

    job: Job
    n_layers: int
    attn_only: bool
    tables: dict[str, Rows]

    @property
    def name(self) -> str:
        return f"{self.n_layers}{'-attention' if self.attn_only else ''}"

    @property
    def about(self) -> dict[str, Any]:
        return {"seed": self.job.seed, "n_layers": self.n_layers, "attn_only": self.attn_only}

    def run(self) -> None:
        model = self._pretrained()
        self._add(self.name, partial(self._model, model))
        for kind in self.job.protocol.kinds:
            for task in TASKS:
                self._add(f"{self.name}-{kind}-{task}", partial(self._prefix, model, kind, task))

    def _add(self, part: str, make: Any) -> None:
        for name, rows in self.job.tables(part, make).items():
            self.tables[name] += rows

    def _pretrained(self) -> Model:
        size = self.job.protocol
        config = ToyConfig(
            n_layers=self.n_layers, n_heads=4, d_model=size.d_model, n_prefix=size.n_slots,
            attn_only=self.attn_only,
        )  # fmt: skip
        recipe = self.job.recipe("pretrain", lr=size.pretrain_lr, steps=size.pretrain_steps)
        return pretrain(
            config, MIXTURE, recipe=recipe, seed=self.job.seed,
            checkpoint=self.job.checkpoint(f"{self.name}-pretrain"), progress=self.job.progress,
        ).model  # fmt: skip

    def _scores(self, model: Model, tasks: Any, prefix: Prefix | None = None, **more: Any) -> Rows:
        baseline = self.job.recipe("pretrain").baseline
        train_loss = more.pop("train_loss", None)
        return score_rows(
            {**self.about, **more}, model, tasks, prefix, n=self.job.protocol.n_test,
            baseline=baseline, train_loss=train_loss,
        )  # fmt: skip

    def _model(self, model: Model) -> Tables:
        return {"models": self._scores(model, FOUR_SKILLS)}

    def _prefix(self, model: Model, kind: Parameterization, task: str) -> Tables:
        job, size, name = self.job, self.job.protocol, f"{self.name}-{kind}-{task}"
        recipe = job.recipe("prefix", steps=size.steps)
        starts = Prefix.random_starts(model, size.n_slots, 1, job.seed, kind, recipe.init_std)
        fits = sweep(
            model, task, starts, size.lrs, recipe=recipe, seed=job.seed,
            checkpoint=job.checkpoint(name), progress=job.progress,
        )  # fmt: skip
        best = min(fits, key=lambda fit: fit.train_loss)
        control = norm_matched(best.prefix, derive_generator(job.seed, "norm-matched", name))
        scores = self._scores(
            model, (task,), best.prefix, method="prefix", lr=best.recipe.lr,
            train_loss=best.train_loss,
        )  # fmt: skip
        scores += self._scores(model, (task,), control, method=CONTROL, lr=None)
        tokens = get_task(task).sample(size.n_drift, "test", job.seed).tokens
        drift: Rows = []
        terms: Rows = []
        for method, prefix in {"prefix": best.prefix, CONTROL: control}.items():
            pair = run_pair(model, prefix, tokens)
            about = {**self.about, "parameterization": kind, "task": task, "method": method}
            frame = attention_drift(pair).to_dataframe().groupby("layer")[["distance", "flips"]]
            drift += [{**about, **row} for row in frame.mean().reset_index().to_dict("records")]
            for layer in range(1, self.n_layers if method == "prefix" else 0):
                found = expand_attention_logits(pair, layer)
                mean = found.to_dataframe().groupby("term", sort=False)["rms_in_row"].mean()
                terms += [
                    {**about, "layer": layer, "term": term, "rms_in_row": float(value),
                     "error": found.max_error}
                    for term, value in mean.items()
                ]  # fmt: skip
        return {"scores": scores, "drift": drift, "terms": terms}
