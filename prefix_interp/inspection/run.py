"""`inspect`: one prefix, some sentences, one page."""

from __future__ import annotations

from pathlib import Path

import torch

from prefix_interp.attribution.circuit import Circuit
from prefix_interp.attribution.circuit_search import find_circuit
from prefix_interp.errors import PrefixInterpError
from prefix_interp.files import check_target, write_together
from prefix_interp.inspection.chunks import Effort, chunk_size
from prefix_interp.inspection.leading import leading_heads, patch_leading
from prefix_interp.inspection.look import About, Inspection, check_precision
from prefix_interp.inspection.measure import measure, quiet_about_positions
from prefix_interp.inspection.sentences import Given, Sentences, as_sentences, check_room
from prefix_interp.inspection.vocabulary import bias_logits, bias_words
from prefix_interp.inspection.words import spoken
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import model_id
from prefix_interp.prefixes.given import ContextLike, as_prefix
from prefix_interp.prefixes.guard import check_bare, check_free
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.result_object import drawing

MAX_NODES = 24  # heads and MLPs among which a circuit is searched
_CIRCUIT_SEQUENCES, _CIRCUIT_RANDOM = 16, 5


def inspect(
    model: Model,
    prefix: ContextLike,
    batch_or_texts: Given,
    out: str | Path | None = "report.html",
    *,
    n: int = 64,
    seed: int = 0,
    name: str = "",
    progress: bool = True,
) -> Inspection:
    """Return what a prefix does inside a model, and write it as one page.

    The page needs no network: a summary, whether the prefix acts, its gate, what it does to the
    attention sink, its bias and what that says, how far relative attention moves, which heads it
    elicits, the circuit, its effect on each token, and an explorer of all heads. Its numbers are
    written beside it as JSON. Memory does not grow with the number of sentences.

    Where the answers are not given (texts, tokens), they are the next token at every position.

    Args:
        model: a supported model, float32 or float64.
        prefix: a prefix that fits it, a fit of one, or the folder it was saved to.
        batch_or_texts: a list of texts, a `Batch`, a task or its name, or a tensor of tokens
            (batch pos).
        out: the page, a name that ends in ``.html``; None to write nothing.
        n: number of sequences of a task; everything else is used whole.
        seed: chooses the sequences of a task, and the random prefixes of the controls.
        name: what the page calls the model; by default its size.
        progress: show bars.

    Raises:
        PrefixInterpError: as in `contrast`; texts without a tokenizer, an empty text, text beyond
            the context; another ending; or the page cannot be written.

    Example:
        >>> from prefix_interp.inspection.run import inspect
        >>> found = inspect(model, prefix, task, out=None, n=8, progress=False)
        >>> found.acts, len(found.to_dataframe("heads"))
        (True, 4)
    """
    page = None if out is None else check_page(out)
    prefix = as_prefix(prefix)
    prefix.check_fits(model)
    check_free(model)
    check_bare(model)
    host = host_of(model)
    check_precision(host.dtype)
    sentences = as_sentences(model, batch_or_texts, n=n, seed=seed)
    check_room(model, sentences, prefix.n_slots, keep=prefix.keeps_positions)
    sentences = Sentences(
        sentences.name, sentences.batch.to(host.device), sentences.lengths.to(host.device)
    )
    size = f"{host.n_layers} layers x {host.n_heads} heads"
    about = About(
        model=name or size, sentences=sentences.name, n_sequences=len(sentences),
        n_answers=int(sentences.batch.given.sum()), n_layers=host.n_layers, n_heads=host.n_heads,
        n_slots=prefix.n_slots, parameterization=prefix.parameterization,
        eps=torch.finfo(host.dtype).eps, seed=seed,
        settings={
            "model_id": model_id(model), "sentences": sentences.name,
            "tuned": {**prefix.settings, "n_slots": prefix.n_slots, **prefix.metadata},
            "baseline": "masked",
        },
    )  # fmt: skip
    found = _look(model, prefix, sentences, about, progress)
    if page is not None:
        save_page(found, page)
    return found


def check_page(out: str | Path) -> Path:
    """Return where the page is to be written.

    Raises:
        PrefixInterpError: another ending than ``.html``, or the file cannot be written.
    """
    page = Path(out)
    if page.suffix.lower() != ".html":
        raise PrefixInterpError(f"out={str(out)!r} must end in .html; name a page or give None")
    check_target(page)
    return page


def save_page(found: Inspection, page: Path, numbers: Path | None = None) -> Path:
    """Write the page and its numbers together; return the path of the page.

    Args:
        found: from `inspect`.
        page: the HTML file.
        numbers: the JSON file; by default beside the page, with its name.

    Raises:
        PrefixInterpError: they cannot be written.
    """
    numbers = page.with_suffix(".json") if numbers is None else numbers
    html = drawing("inspect_page.render_inspection")(found, numbers.name)
    # The numbers say whose run it is, so they are the file that is never missing.
    return write_together({numbers: found.result().to_bytes(), page: html})[1]


def _look(
    model: Model, prefix: Prefix, sentences: Sentences, about: About, progress: bool
) -> Inspection:
    measured = measure(model, prefix, sentences, progress=progress)
    effort = Effort.for_model(model)
    leading = patch_leading(
        model, prefix, sentences, leading_heads(measured, effort.n_leading), effort,
        seed=about.seed, progress=progress,
    )  # fmt: skip
    logits = bias_logits(model, measured.mean_bias, measured.final)
    circuit, why = _circuit(model, prefix, sentences, about, progress)
    return Inspection(
        about=about,
        measured=measured,
        leading=leading,
        said=None if logits is None else bias_words(model, logits),
        spoken=spoken(model, sentences),
        circuit=circuit,
        why_no_circuit=why,
    )


def _circuit(
    model: Model, prefix: Prefix, sentences: Sentences, about: About, progress: bool
) -> tuple[Circuit | None, str]:
    """Return the circuit of heads and MLPs, or the reason why it was left out."""
    host = host_of(model)
    n_nodes = host.n_layers * (host.n_heads + (host.d_mlp > 0))
    few = sentences.first(_CIRCUIT_SEQUENCES)
    size = chunk_size(model, int(few.lengths.max()), prefix.n_slots)
    if n_nodes > MAX_NODES or len(few) > size:
        return None, (
            f"The model has {n_nodes} heads and MLPs, and the search would leave them out one by "
            f"one, some {n_nodes * (n_nodes + 1) // 2:,} runs. That is made for up to {MAX_NODES}; "
            "find_circuit runs it where time allows."
        )
    try:
        with quiet_about_positions():
            circuit = find_circuit(
                model, prefix, few.batch, kinds=("head", "mlp"), n_random=_CIRCUIT_RANDOM,
                seed=about.seed, progress=progress,
            )  # fmt: skip
    except PrefixInterpError as error:
        return None, f"The search found nothing to explain: {error}."
    return circuit, ""
