"""One small saved object for every reader of the package, and what two objects' bits are."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

import prefix_interp as pi
from analyses.kept import Kept
from prefix_interp.estimates import Estimate
from prefix_interp.models.toy import Toy, read_toy, save_toy
from prefix_interp.prefixes.soft_prompt import SoftPrompt
from prefix_interp.results import Result, package_versions
from prefix_interp.tasks import DigitTask
from prefix_interp.tuning import loop
from prefix_interp.tuning.loop import Run, optimise
from prefix_interp.tuning.recipes import Recipe
from tests.helpers import randomise
from tests.made_up_results import made_up_results

STEPS, STOP_AT = 10, 5
TASK = DigitTask("small", ("add_one",), length=4, n_digits=4)


class Stop(Exception):
    """Cuts a training off."""


@dataclass
class Reader:
    """A way into the package.

    Attributes:
        name: of the class or function that reads.
        folder: everything that it reads lies in here.
        read: reads it.
        files: all files, with their content.
        whole: bits of the object that was saved.
    """

    name: str
    folder: Path
    read: Callable[[], Any]
    files: dict[Path, bytes] = field(default_factory=dict)
    whole: Any = None

    def __post_init__(self) -> None:
        found = sorted(file for file in self.folder.rglob("*") if file.is_file())
        self.files = {file: file.read_bytes() for file in found}
        self.whole = bits(self.read())
        self.restore()

    def restore(self) -> None:
        """Put every file back as it was saved."""
        for file, data in self.files.items():
            file.write_bytes(data)


def bits(x: Any) -> Any:
    """Return a value that is equal for two objects only if they agree in every bit."""
    if isinstance(x, Tensor):
        plain = x.detach().cpu().contiguous().flatten()
        return "tensor", str(x.dtype), tuple(x.shape), plain.view(torch.uint8).numpy().tobytes()
    if isinstance(x, Toy):
        return "toy", bits(x.toy_config), bits(dict(x.named_parameters())), x.training
    if isinstance(x, pd.DataFrame):
        columns = [(bits(c), str(x.iloc[:, i].dtype)) for i, c in enumerate(x.columns)]
        return "table", columns, [bits(x.iloc[:, i].tolist()) for i in range(x.shape[1])]
    if isinstance(x, Estimate):
        return "estimate", *(struct.pack("d", y) for y in (x.value, x.low, x.high))
    if isinstance(x, float):
        return "float", struct.pack("d", x)
    if is_dataclass(x):
        return type(x).__name__, [(f.name, bits(getattr(x, f.name))) for f in fields(x)]
    if isinstance(x, Mapping):
        return "dict", [(bits(k), bits(v)) for k, v in x.items()]
    if isinstance(x, (list, tuple)):
        return type(x).__name__, [bits(y) for y in x]
    return type(x).__name__, repr(x)


def make_readers(folder: Path) -> dict[str, Reader]:
    """Return all readers by name, each with a small object that was saved below `folder`."""
    loop.package_versions = cache(package_versions)  # slow, and the same at each training
    torch.manual_seed(0)
    cfg = pi.ToyConfig(n_heads=2, d_model=4, d_mlp=4, n_content=3, d_vocab=5)
    toy = randomise(pi.build_toy(cfg))
    about = {"task": "add_one", "seed": 3, "accuracy": [0.5, None, 1.0]}
    save_toy(toy, folder / "toy", about)
    readers = [Reader("toy", folder / "toy", partial(read_toy, folder / "toy"))]
    contexts = {
        "prefix": pi.Prefix.random(toy, 2, seed=1),
        "prefix-kv": pi.Prefix.random(toy, 1, parameterization="kv"),
        "soft-prompt": SoftPrompt.random(toy, 2, position=3),
        "soft-prompt-all": SoftPrompt.random(toy, 1, layers="all"),
    }
    for name, context in contexts.items():
        object.__setattr__(context, "metadata", about)
        context.save(folder / name)
        readers.append(Reader(name, folder / name, partial(type(context).load, folder / name)))
    rows = [{"seed": i, "loss": 0.5 + i / 3, "ends": {"low": 0.1, "high": i}} for i in range(3)]
    result = Result("demo", "fast", [0, 1], {"steps": 3}, {"rows": rows, "more": []})
    for name in ("result.json", "result.json.gz"):
        file = result.save(folder / name / name)
        readers.append(Reader(name, folder / name, partial(Result.load, file)))
    for name, x in made_up_results().items():
        path = x.save(folder / name / "circuit.json" if name == "Circuit" else folder / name)
        readers.append(Reader(name, folder / name, partial(type(x).load, path)))
    checkpoint = folder / "checkpoint" / "c.safetensors"
    try:
        train(checkpoint, stop=True)
    except Stop:
        readers.append(Reader("checkpoint", folder / "checkpoint", partial(train, checkpoint)))
    kept = Kept(folder / "kept")
    part = {"x": torch.arange(6.0).reshape(2, 3), "n": torch.tensor([1, 2])}
    kept.tensors("part", lambda: part)
    readers.append(Reader("kept", folder / "kept", partial(kept.tensors, "part", lambda: part)))
    return {reader.name: reader for reader in readers}


def train(checkpoint: Path, stop: bool = False) -> tuple[pd.DataFrame, Tensor]:
    """Return history and outcome of a short training, resumed where its checkpoint is.

    Args:
        checkpoint: its file.
        stop: cut it off half-way.
    """
    run = Run("lr=0.05", {"x": torch.full((3,), 2.0).requires_grad_()}, 0.05, frozenset({"x"}))

    def loss(batch: Any, step: int) -> Tensor:
        if stop and step == STOP_AT:
            raise Stop
        return ((run.parameters["x"] - batch.tokens.float().mean()) ** 2).sum()[None]

    recipe = Recipe(STEPS, 0.05, batch_size=4)
    history = optimise(
        [run], loss, TASK, recipe, seed=1, identity={}, progress=False, checkpoint=checkpoint
    )
    return history, run.parameters["x"].detach()
