import pytest
import torch

import prefix_interp as pi
from analyses.constructions.trace import trace, trace_figure
from prefix_interp.theory import constructions
from prefix_interp.views.display import attention_div


def _made(name):
    if name == "sequence":
        return constructions.any_sequence(5, 4), torch.tensor([3, 1, 4, 1]), ()
    if name == "map":
        return constructions.any_map(4), torch.tensor([2, 0, 3, 3]), (2,)
    if name == "longer":
        return (
            constructions.any_map_to_sequences(3, 2),
            torch.tensor([[0, 1], [2, 2], [1, 0]]),
            (0,),
        )
    return (
        constructions.any_map_of_pairs(3),
        torch.tensor([[0, 1, 2], [2, 0, 0], [1, 1, 0]]),
        (1, 0),
    )


@pytest.mark.parametrize("name", ["sequence", "map", "longer", "pairs"])
def test_every_step_is_that_of_the_construction(name):
    made, behaviour, inputs = _made(name)
    steps = trace(made, behaviour, inputs)
    given = torch.tensor([list(inputs)], dtype=torch.long).reshape(1, len(inputs))
    assert steps.wanted.tolist() == made.run(behaviour[None], given)[0, 0].tolist()
    frame = steps.to_dataframe()
    assert frame["answer"].tolist() == frame["wanted"].tolist() == steps.wanted.tolist()
    # The number that is read is the wanted code's, up to the softmax's leak.
    near = (steps.number * made.n_tokens - steps.wanted).abs()
    assert float(near.max()) < 0.5
    assert torch.allclose(steps.pattern.sum(-1), torch.ones(1, dtype=steps.pattern.dtype))
    assert len(steps.labels) == made.n_slots + len(inputs) + len(steps.wanted) - 1
    figure = trace_figure(made, steps)
    assert len(figure.axes) == len(made.heads) + 3
    assert "pi-attention" in attention_div(steps.view, f"trace-{name}")


def test_an_input_that_does_not_fit_is_refused():
    made, behaviour, _ = _made("map")
    with pytest.raises(pi.PrefixInterpError, match="outside the 4 codes"):
        trace(made, behaviour, [7])
    with pytest.raises(pi.PrefixInterpError, match="inputs have shape"):
        trace(made, behaviour, [1, 2])
