"""`Inspection`: everything measured about one prefix on some sentences, and its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from prefix_interp.attribution.circuit import Circuit
from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.inspection.leading import FADES, Leading
from prefix_interp.inspection.measure import PARTS, Measured
from prefix_interp.inspection.vocabulary import Said
from prefix_interp.inspection.words import Spoken
from prefix_interp.result_object import drawing
from prefix_interp.results import Result

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class About:
    """What was inspected.

    Attributes:
        model: its name.
        sentences: what was run, in words.
        n_sequences: how many.
        n_answers: places whose answer was measured.
        n_layers: of the model.
        n_heads: of a layer.
        n_slots: of the prefix.
        parameterization: of the prefix.
        eps: machine epsilon of the model's precision.
        seed: chose the inputs and the random prefixes.
        settings: what else tells this inspection from others, as plain values.
    """

    model: str
    sentences: str
    n_sequences: int
    n_answers: int
    n_layers: int
    n_heads: int
    n_slots: int
    parameterization: str
    eps: float
    seed: int
    settings: Mapping[str, Any]

    @property
    def rounding(self) -> float:
        """Return the largest relative difference that could be rounding: 1000 machine epsilons."""
        return 1000 * self.eps


@dataclass(frozen=True, eq=False, repr=False)
class Inspection:
    """What a prefix does inside a model, measured on some sentences.

    A notebook shows the summary and the explorer. `to_dataframe` gives each table.

    Attributes:
        about: what was inspected.
        measured: all heads.
        leading: the leading heads, exactly.
        said: what each head's bias says in the vocabulary; None where that is not defined.
        spoken: the sentences as text.
        circuit: None if it was left out.
        why_no_circuit: the reason, in words.
    """

    about: About
    measured: Measured
    leading: Leading
    said: list[list[Said]] | None
    spoken: tuple[Spoken, ...]
    circuit: Circuit | None = None
    why_no_circuit: str = ""

    @property
    def acts(self) -> bool:
        """Return whether the logits depend on the prefix by more than rounding."""
        return self.measured.logit_change > self.about.rounding

    @property
    def methods_agree(self) -> bool:
        """Return whether both ways to inject the prefix give the same logits up to rounding."""
        return self.measured.methods <= self.about.rounding

    def summary(self) -> list[str]:
        """Return at most six plain sentences with the main numbers."""
        return drawing("inspect_words.summary_sentences")(self)

    def explorer(self) -> Any:
        """Return the figure in which every head can be opened, for a notebook (an `Explorer`)."""
        return drawing("explorer.explorer")(self)

    def __repr__(self) -> str:
        about = self.about
        return f"Inspection({about.model}; {about.sentences}; {self.summary()[0]})"

    def _repr_html_(self) -> str:
        return drawing("explorer.notebook_html")(self)

    @property
    def tables(self) -> dict[str, Rows]:
        """Return all numbers: rows by the name of their table."""
        return {
            "parts": self._parts(), "acts": self._acts(), "heads": self._heads(),
            "layers": self._layers(), "vocabulary": self._vocabulary(),
            "leading": self.leading.rows(), "fades": self._fades(),
            "circuit": self._circuit(), "answers": self._answers(),
        }  # fmt: skip

    def to_dataframe(self, table: str = "heads") -> pd.DataFrame:
        """Return one table, one row per record.

        Args:
            table: ``"parts"`` (layer, head and position), ``"acts"``, ``"heads"``, ``"layers"``,
                ``"vocabulary"``, ``"leading"``, ``"fades"``, ``"circuit"`` or ``"answers"``.

        Raises:
            PrefixInterpError: no such table.
        """
        tables = self.tables
        check_choice("table", table, tables)
        return pd.DataFrame(tables[table])

    def result(self) -> Result:
        """Return all tables with settings and versions, as they are saved."""
        return Result("inspect", "none", [self.about.seed], self.about.settings, self.tables)

    def _parts(self) -> Rows:
        measured = self.measured
        columns = {name: measured.parts[name] for name in PARTS} | {"residual": measured.residual}
        shape = measured.residual.shape
        index = pd.MultiIndex.from_product(
            [range(k) for k in shape], names=["layer", "head", "pos"]
        )
        frame = pd.DataFrame({k: x.flatten().tolist() for k, x in columns.items()}, index=index)
        return frame.reset_index().to_dict("records")  # type: ignore[return-value]

    def _acts(self) -> Rows:
        measured = self.measured
        on, off = measured.log_prob_on, measured.log_prob_off
        return [
            {
                "acts": self.acts, "logit_change": measured.logit_change, "kl": measured.kl,
                "changed": measured.changed, "log_prob_on": float(on.nanmean()),
                "log_prob_off": float(off.nanmean()), "log_prob_plain": measured.plain,
                "methods_agree": self.methods_agree, "methods": measured.methods,
                "eq6": float(measured.eq6.max()), "eq7": measured.eq7,
            }
        ]  # fmt: skip

    def _heads(self) -> Rows:
        measured = self.measured
        mean, size, base = (measured.mean(name) for name in ("gate", "bias", "scaled_base"))
        estimates = {name: x.mean(dim=-1) for name, x in measured.estimates.items()}
        rows = []
        for i in range(self.about.n_layers):
            for j in range(self.about.n_heads):
                space = measured.spaces[i][j]
                rows.append(
                    {
                        "layer": i, "head": j, "gate": float(mean[i, j]),
                        "sink_off": float(measured.sink_off[i, j]),
                        "sink_on": float(measured.sink_on[i, j]),
                        "moved": float(measured.moved[i, j]), "bias": float(size[i, j]),
                        "scaled_base": float(base[i, j]), "rank": space.rank,
                        "effective_rank": space.effective_rank, "bound": space.bound,
                        "estimate_enough": float(estimates["denoise"][i, j]),
                        "estimate_needed": float(estimates["noise"][i, j]),
                    }
                )  # fmt: skip
        return rows

    def _layers(self) -> Rows:
        measured = self.measured
        return [
            {
                "layer": i, "gate": float(measured.mean("gate")[i].mean()),
                "moved": float(measured.moved[i].mean()),
                "moved_most": float(measured.moved[i].max()), "eq6": float(measured.eq6[i]),
                "sink_off": float(measured.sink_off[i].mean()),
                "sink_on": float(measured.sink_on[i].mean()),
            }
            for i in range(self.about.n_layers)
        ]  # fmt: skip

    def _vocabulary(self) -> Rows:
        return [
            {"layer": i, "head": j, "end": end, "token": token, "logit": value}
            for i, layer in enumerate(self.said or [])
            for j, said in enumerate(layer)
            for end in ("raised", "lowered")
            for token, value in getattr(said, end)
        ]

    def _fades(self) -> Rows:
        means = self.leading.fades.mean(dim=-1)
        return [
            {"layer": layer, "head": head, "share": share, "log_prob": float(means[i, k])}
            for i, (layer, head) in enumerate(self.leading.heads)
            for k, share in enumerate(FADES)
        ]

    def _circuit(self) -> Rows:
        if self.circuit is None:
            return []
        pairs = zip(self.circuit.nodes, self.circuit.minimality, strict=True)
        return [{"node": node.name, "minimality": value} for node, value in pairs]

    def _answers(self) -> Rows:
        on, off = self.measured.log_prob_on, self.measured.log_prob_off
        rows = []
        for i, said in enumerate(self.spoken):
            for place, pos, j in zip(said.places, said.positions, said.columns, strict=True):
                a, b = float(off[i, j]), float(on[i, j])
                row = {"sequence": i, "pos": pos, "answer": said.words[place]}
                rows.append(row | {"log_prob_off": a, "log_prob_on": b, "change": b - a})
        return rows


def check_precision(dtype: torch.dtype) -> None:
    """Raise unless ranks and small differences can be measured in `dtype`.

    Raises:
        PrefixInterpError: half precision.
    """
    if dtype not in (torch.float32, torch.float64):
        raise PrefixInterpError(
            f"model is {dtype}, too coarse to inspect; convert it with "
            "to_dtype(model, torch.float32)"
        )
