"""What an inspection found, in plain sentences: the summary and the titles of its page."""

from __future__ import annotations

from prefix_interp.inspection.look import Inspection
from prefix_interp.views.page_tables import decimals, percent, power
from prefix_interp.words import counted

_NAMED = 4  # heads in a sentence
_CLEAR = 0.1  # nats: by about a tenth


def head_name(layer: int, head: int) -> str:
    """Return e.g. ``0.3`` for head 3 of layer 0."""
    return f"{layer}.{head}"


def readable(token: str) -> str:
    """Return a token as part of a sentence: without spaces at its ends, line breaks as signs."""
    return token.strip(" ").replace("\n", "⏎").replace("\t", "⇥") or "␣"


def share(x: float) -> str:
    """Return a share in percent, e.g. ``12.3 %``, which no line break divides."""
    return f"{percent(x)}\N{NO-BREAK SPACE}%"


def small(x: float) -> str:
    """Return a number with three significant digits, or as a power of ten if it is tiny."""
    if x != x:
        return "unknown"
    if x == 0 or abs(x) >= 0.001:
        return decimals(max(0, 3 if abs(x) < 10 else 1))(x)
    return power(x)


def summary_sentences(found: Inspection) -> list[str]:
    """Return at most six plain sentences with the main numbers.

    Args:
        found: from `inspect`.
    """
    about = found.about
    sentences = [acts_title(found) + _answers_changed(found) + "."]
    if not found.acts:
        return sentences
    sentences += [gate_title(found) + ".", sink_title(found) + ".", bias_title(found) + "."]
    if about.n_layers > 1 or float(found.measured.moved.max()) > about.rounding:
        sentences.append(moved_title(found) + ".")
    else:
        sentences.append("It moves no attention within the content, as equation 6 says.")
    return [*sentences, elicited_title(found) + "."]


def acts_title(found: Inspection) -> str:
    """Return whether the prefix acts, as a clause."""
    if not found.acts:
        return "The prefix does nothing here: the logits are the same without it"
    changed = share(found.measured.changed)
    return f"The prefix acts: it changes the most likely next token at {changed} of the places"


def _answers_changed(found: Inspection) -> str:
    measured = found.measured
    on, off = (float(x.nanmean()) for x in (measured.log_prob_on, measured.log_prob_off))
    if not found.acts:
        return f" (mean log-probability of the answers {small(on)} nats)"
    return f", and moves the answers' mean log-probability from {small(off)} to {small(on)} nats"


def gate_title(found: Inspection) -> str:
    """Return how much attention the prefix takes, as a clause."""
    mean = found.measured.mean("gate")
    layer, head = divmod(int(mean.argmax()), mean.shape[1])
    text = f"It takes {share(float(mean.mean()))} of all attention"
    if mean.numel() == 1:
        return text
    return f"{text}, most at head {head_name(layer, head)} ({share(float(mean.max()))})"


def sink_title(found: Inspection) -> str:
    """Return what happens to the attention sink, as a clause."""
    off, on = (float(x.mean()) for x in (found.measured.sink_off, found.measured.sink_on))
    return f"Attention to the first content token goes from {share(off)} to {share(on)}"


def bias_title(found: Inspection) -> str:
    """Return how large and of which rank the bias is, as a clause."""
    size = found.measured.mean("bias")
    layer, head = divmod(int(size.argmax()), size.shape[1])
    spaces = [space for own in found.measured.spaces for space in own]
    most, bound = max(space.rank for space in spaces), spaces[0].bound
    slots = counted(found.about.n_slots, "slot")
    allow = "allows" if found.about.n_slots == 1 else "allow"
    text = f"Its bias has at most rank {most} in a head ({slots} {allow} {bound})"
    if size.numel() == 1:
        return f"{text}, with mean size {small(float(size.max()))}"
    return f"{text}, and is largest at head {head_name(layer, head)} ({small(float(size.max()))})"


def moved_title(found: Inspection) -> str:
    """Return how far relative attention moves, as a clause."""
    by_layer = found.measured.moved.mean(dim=1)
    first = float(found.measured.moved[0].max())
    still = first <= found.about.rounding
    start = (
        "Within the content the first layer moves no attention"
        if still
        else f"The first layer moves {share(first)} of its attention within the content"
    )
    if len(by_layer) == 1:
        return start
    layer = int(by_layer[1:].argmax()) + 1
    amount = share(float(by_layer[layer]))
    return f"{start}; deeper ones do, layer {layer} most ({amount} on average)"


def elicited_title(found: Inspection) -> str:
    """Return which heads the prefix elicits, as a clause."""
    rows = sorted(found.leading.rows(), key=lambda row: -abs(float(row["enough"] or 0)))
    heads = [row for row in rows if row["elicited"]]
    patched = counted(len(rows), "head")
    if not heads:
        return f"None of {patched} patched exactly does more than under random prefixes"
    named = ", ".join(
        f"{head_name(int(row['layer'] or 0), int(row['head'] or 0))} "
        f"({signed(float(row['enough'] or 0))} nats)"
        for row in heads[:_NAMED]
    )
    more = f" and {len(heads) - _NAMED} more" if len(heads) > _NAMED else ""
    return f"Of {patched} patched exactly it elicits {len(heads)}: {named}{more}"


def signed(x: float, digits: int = 2) -> str:
    """Return a number with its sign and a few decimals; a small one as a power of ten."""
    if x != x:
        return "unknown"
    if x != 0 and abs(x) < 0.5 * 10**-digits:
        return ("+" if x > 0 else "−") + power(abs(x))
    return ("+" if x > 0 else "") + decimals(digits)(x)


def plain_signed(x: float, digits: int = 2) -> str:
    """Return a number with its sign and a few decimals; one that is rounded to 0 has no sign."""
    text = decimals(digits)(x)
    return f"+{text}" if x > 0 and float(text.replace(",", "")) else text


def circuit_title(found: Inspection) -> str:
    """Return the circuit, as a clause."""
    if found.circuit is None:
        return "The circuit was left out"
    circuit = found.circuit
    kept = share(float(circuit.scores["faithfulness"]))
    names = ", ".join(node.name for node in circuit.nodes[:_NAMED])
    more = f" and {len(circuit.nodes) - _NAMED} more" if len(circuit.nodes) > _NAMED else ""
    n_all = len(circuit.all_nodes)
    return (
        f"{len(circuit.nodes)} of {n_all} heads and MLPs keep {kept} of its effect: {names}{more}"
    )


def answers_title(found: Inspection) -> str:
    """Return how many answers become clearly more or less likely, as a clause."""
    change = found.measured.log_prob_on - found.measured.log_prob_off
    change = change[~change.isnan()]
    up, down = (float((sign * change > _CLEAR).double().mean()) for sign in (1, -1))
    return (
        f"{share(up)} of the answers become clearly more likely, {share(down)} clearly less "
        f"(by more than {_CLEAR} nats)"
    )
