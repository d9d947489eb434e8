"""Two tiny studies for tests of the frame: one keeps a toy and contexts, one measures them."""

from dataclasses import dataclass, replace

import prefix_interp as pi
from analyses.kept import Kept
from analyses.report.sections import Section
from analyses.study import Job, Study
from prefix_interp.models.toy import save_toy

CONFIG = pi.ToyConfig(n_layers=1, n_heads=1, d_model=8)
MEASURED = []  # study and seed of every measurement that was really made


@dataclass(frozen=True)
class Part:
    rates: tuple[float, ...] = (0.1, 0.2)


@dataclass(frozen=True)
class Protocol:
    size: int = 3
    scale: float = 2.0
    names: tuple[str, ...] = ("a", "b")
    exact: bool = True
    parts: tuple[Part, ...] = (Part(),)


def make(job: Job):
    """Keep a toy, a prefix and a soft prompt; return a row for each name."""
    MEASURED.append(("source", job.seed))
    toy = pi.build_toy(CONFIG, seed=job.seed)
    if job.keeps is not None:
        save_toy(toy, job.keeps.toy_folder("toy"))
        job.keeps.save_context("best", "prefix", pi.Prefix.random(toy, 2, seed=job.seed))
        job.keeps.save_context("best", "soft", pi.SoftPrompt.random(toy, 2, seed=job.seed))
    rows = [{"seed": job.seed, "name": name, "value": float("nan")} for name in job.protocol.names]
    return {"names": rows, "sizes": [{"seed": job.seed, "size": job.protocol.size}]}


def look(job: Job):
    """Measure what the source kept, and what its next seed kept."""
    MEASURED.append(("user", job.seed))
    kept = job.needs["source"]
    following = job.next_needs.get("source")
    return {"rows": [{"seed": job.seed, "sum": total(kept),
                      "next": None if following is None else total(following)}]}  # fmt: skip


def total(kept: Kept):
    weights = list(kept.toy("toy").parameters())
    weights += [tensor for context in kept.contexts("best").values() for tensor in tensors(context)]
    return sum(float(w.detach().double().sum()) for w in weights)


def tensors(context):
    return list(context.tensors.values())


def section(evidence):
    rows = evidence.tables("source")["sizes"]
    return Section("tiny", "Tiny", "A tiny study", "about", "Words.", numbers={"sizes": rows})


SOURCE = Study(
    name="source",
    claim="Is it small?",
    protocols={"smoke": Protocol(), "fast": Protocol(size=4)},
    measure=make,
    tables=lambda result: {"sizes": result.rows("sizes")},
    section=section,
    exports=lambda kept, zoo: [kept.export_toy("toy", zoo / "toy")],
    seeds=2,
    settings=lambda preset: {"about": preset},
    findings={"tiny": lambda evidence: f"size {evidence.tables('source')['sizes'][0]['size']}"},
)
USER = Study(
    name="user",
    claim="What was kept?",
    protocols={"smoke": Protocol(), "fast": Protocol()},
    measure=look,
    tables=lambda result: {"rows": result.rows()},
    section=lambda evidence: replace(section(evidence), id="user"),
    needs=("source",),
    needs_next=("source",),
    seeds=2,
)
