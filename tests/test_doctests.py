"""The examples in the docstrings print what they say."""

import ast
import doctest
from importlib import import_module

import pytest

import prefix_interp as pi
from prefix_interp.models.pretrained import load_pretrained
from tests.structure import PACKAGE, ROOT, files, module_name, tree
from tests.tiny_language_models import hub_model
from tests.tiny_tokenizers import word_level

DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
EXAMPLES = {
    f"{module_name(file)}:{getattr(node, 'name', '')}:{getattr(node, 'lineno', 1)}": (file, text)
    for file in files(PACKAGE)
    for node in ast.walk(tree(file))
    if isinstance(node, DOCUMENTED) and ">>> " in (text := ast.get_docstring(node) or "")
}


@pytest.fixture
def given():
    """What the examples take as given: a toy, its prefix, the prefix's task, content, a tokenizer,
    and a tiny language model.

    The tokenizer's words are "the a long film is good bad", from token 2 on.
    """
    model = pi.load_toy("four-skills-1l4h")
    prefix = pi.load_prefixes("four-skills-1l4h")["sort_descending"]
    task = pi.get_task("sort_descending")
    tokens = task.sample(4, seed=0).tokens
    toy = {"pi": pi, "model": model, "prefix": prefix, "task": task, "tokens": tokens}
    hub = {"tiny_llama": lambda: hub_model("llama"), "load_pretrained": load_pretrained}
    return {**toy, **hub, "tokenizer": word_level()}


@pytest.mark.parametrize("place", EXAMPLES)
def test_an_example_prints_what_it_says(place, given, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    file, text = EXAMPLES[place]
    path = str(file.relative_to(ROOT))
    own = vars(import_module(module_name(file)))
    test = doctest.DocTestParser().get_doctest(text, own | given, place, path, 0)
    said = []
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    runner = doctest.DocTestRunner(optionflags=options)
    runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
