"""Random bytes and random JSON."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fuzz.damage import Change, Input
from fuzz.forgeries import Forge, old
from fuzz.objects import Reader

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["tensor", "float", "tuple", "dict", "table", "object", "estimate"]),
        inner, min_size=1, max_size=1,
    ),
    max_leaves=20,
)  # fmt: skip


def chance(reader: Reader, rng: random.Random, n: int) -> Iterator[Input]:
    """Yield files of random bytes, and records in which some fields hold random JSON."""
    forge, drawn = Forge(reader, rng), []

    @seed(rng.randrange(2**32))
    @settings(max_examples=n, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck), derandomize=False)  # fmt: skip
    @given(st.data())
    def draw(data: Any) -> None:
        drawn.append(_one(forge, data.draw))

    draw()
    yield from drawn[:n]


def _one(forge: Forge, draw: Callable[[Any], Any]) -> Input:
    files = list(forge.reader.files)
    forge.rng = random.Random(draw(st.integers(0, 2**32)))
    how = draw(st.sampled_from(["bytes", "json", "fields", "fields", "fields", "fields"]))
    if how == "bytes":
        file = draw(st.sampled_from(files))
        return f"random bytes as {file.name}", {file: draw(st.binary(max_size=200))}
    stem, record, header, numbers = forge.parts()
    sealed = draw(st.booleans())
    if not sealed:
        record = old(record, forge.rng)
    if how == "json":
        record = draw(JSON)
    else:
        holder = record
        for key in ("fields", "provenance", "tables", "config"):
            if isinstance(record.get(key), dict) and record[key] and draw(st.booleans()):
                holder = record[key]
        for name in draw(st.lists(st.sampled_from(sorted(holder)), max_size=3)):
            holder[name] = draw(JSON)
    change: Change = forge.together(stem, record, header, numbers, sealed)
    return f"random {how} of {stem.name}, sealed={sealed}: {str(record)[:300]}", change
