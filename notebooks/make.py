"""Write each notebook from its `.py` source with small outputs: `make notebooks`.

A notebook runs from top to bottom in a kernel of its own, on one thread. Kept is what a reader on a
code host sees: text, tables and still pictures. Scripts, progress bars, timings and the names of
this machine are not. Equal runs give equal bytes.
"""

from __future__ import annotations

import base64
import io
import os
import re
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).parent
LARGEST = 300_000  # bytes of a notebook with its outputs
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
TAKES = re.compile(r"Takes about (\d+) seconds on one core\.")
# A kernel's process reads these when it starts.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


def sources() -> list[Path]:
    """Return the `.py` file of each notebook, in order."""
    return sorted(FOLDER.glob("[0-9]*.py"))


def run(source: Path) -> tuple[NotebookNode, float]:
    """Return the notebook with all its outputs, and the seconds of processor time that it took.

    Raises:
        CellExecutionError: a cell raises an error.
    """
    book = _node(jupytext.read(source))
    before = _cpu_of_children()
    client = NotebookClient(book, timeout=600, kernel_name=KERNEL["name"], record_timing=False)
    paths = [str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | ONE_THREAD | {"PYTHONPATH": os.pathsep.join(paths)}
    client.execute(cwd=str(FOLDER), env=env)
    return book, _cpu_of_children() - before


def _node(values: Mapping[str, Any]) -> NotebookNode:
    return cast(NotebookNode, nbformat.from_dict(values))  # which is typed for lists too


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tidy(book: NotebookNode) -> NotebookNode:
    """Return the notebook as it is stored: the same for equal sources and equal outputs."""
    cells, number = [], 0
    for index, cell in enumerate(book.cells):
        kept = {
            "cell_type": cell.cell_type,
            "id": f"cell-{index:02d}",
            "metadata": {},
            "source": cell.source,
        }
        if cell.cell_type == "code":
            number += 1
            outputs = list(_tidy_outputs(cell.outputs, number))
            kept |= {"execution_count": number, "outputs": outputs}
        cells.append(kept)
    metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    return _node({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def _tidy_outputs(outputs: Sequence[NotebookNode], number: int) -> Iterator[NotebookNode]:
    """Yield the outputs without what is large or differs between equal runs."""
    still = [o for o in map(_without_progress, _joined(outputs)) if o is not None]
    for output in _joined(still):
        if output.output_type in ("stream", "error"):
            yield output
            continue
        kinds = {kind: value for kind, value in output.data.items() if "widget-view" not in kind}
        if set(kinds) <= {"text/plain"} and len(kinds) < len(output.data):  # a bar
            continue
        output = _node({**output, "data": _tidy_data(kinds), "metadata": {}})
        if "execution_count" in output:
            output.execution_count = number
        yield output


def _joined(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Return the outputs with what was printed in a row as one: a kernel cuts it anywhere."""
    joined: list[NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if output.output_type == "stream" and last is not None and last.get("name") == output.name:
            joined[-1] = _node({**last, "text": last.text + output.text})
        else:
            joined.append(output)
    return joined


def _without_progress(output: NotebookNode) -> NotebookNode | None:
    """Return the output without lines that overwrite themselves; None if nothing is left."""
    if output.output_type != "stream":
        return output
    text = "".join(line for line in re.split(r"(?<=\n)", output.text) if "\r" not in line)
    return _node({**output, "text": text}) if text else None


def _tidy_data(data: dict[str, str]) -> dict[str, str]:
    """Return an output without scripts, beside which a still picture stands, and addresses."""
    if "text/html" in data:  # what it says as plain text is the same again
        return {"text/html": re.sub(r"(?s)<script\b.*?</script>", "", data["text/html"])}
    data = {kind: re.sub(r" at 0x[0-9a-f]+", "", value) for kind, value in data.items()}
    if "image/png" in data:
        data["image/png"] = _of_few_colours(data["image/png"])
    return data


def _of_few_colours(picture: str) -> str:
    """Return a picture with at most 256 colours: a third of the size, and looks the same."""
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    if image.mode == "P":
        return picture
    buffer = io.BytesIO()
    few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def faults(book: NotebookNode) -> list[str]:
    """Return what a stored notebook must not hold, or lacks; empty if it is as it should be."""
    outputs = [o for c in book.cells for o in c.get("outputs", [])]
    text = nbformat.writes(book)
    found = {
        "no kernelspec": book.metadata.get("kernelspec") != KERNEL,
        "no output": not outputs,
        "no picture": not any(_has_picture(o) for o in outputs),
        f"more than {LARGEST} bytes": len(text.encode()) > LARGEST,
        "an error": any(o.output_type == "error" for o in outputs),
        "a warning": any(o.get("name") == "stderr" for o in outputs),
        "a script": any("<script" in o.get("data", {}).get("text/html", "") for o in outputs),
        "a path of this machine": re.search(
            r"(?<![\w.:/])/(home|root|tmp|work|usr|opt|Users|private|var)/", text
        ),
        "no time": TAKES.search(book.cells[0].source) is None,
    }
    return [fault for fault, there in found.items() if there]


def _has_picture(output: NotebookNode) -> bool:
    data = output.get("data", {})
    return bool({"image/png", "image/svg+xml"} & set(data)) or '<img src="data:image/' in data.get(
        "text/html", ""
    )


def restate_time(source: str, seconds: float) -> str:
    """Return the source with the measured time where it says another.

    The number has one digit, or two that end in 0 or 5. It stays where it is right within a third:
    the time of two runs is never the same.
    """
    stated = TAKES.search(source)
    if stated is None or 2 / 3 < seconds / int(stated[1]) < 4 / 3:
        return source
    near = max(1, round(seconds) if seconds < 10 else 5 * round(seconds / 5))
    return TAKES.sub(f"Takes about {near} seconds on one core.", source, count=1)


def main(names: Sequence[str]) -> int:
    """Write the notebooks whose names begin so, or all; return 1 if one is not fit to be stored."""
    wrong = 0
    for source in sources():
        if names and not source.name.startswith(tuple(names)):
            continue
        book, seconds = run(source)
        before = source.read_text(encoding="utf-8")
        after = restate_time(before, seconds)
        if after != before:
            source.write_text(after, encoding="utf-8")
            book.cells[0].source = jupytext.reads(after, fmt="py:percent").cells[0].source
        book = tidy(book)
        found = faults(book)
        wrong += bool(found)
        size = len(nbformat.writes(book).encode())
        print(f"{source.stem}: {seconds:.0f} s, {size} bytes {'; '.join(found)}".rstrip())
        nbformat.write(book, source.with_suffix(".ipynb"))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
