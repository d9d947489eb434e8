"""The house's order: arrows, circles, sizes, and what is spelled or imported in one place."""

import re
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.structure import ANALYSES, PACKAGE, files, imports, module_name, strings

# What each folder may import when it is loaded. Inside functions views may be imported from
# anywhere: a result's plot() calls them when it is asked to draw.
BELOW = {
    "models": set(),
    "tasks": set(),
    "prefixes": {"models", "tasks"},
    "tuning": {"models", "tasks", "prefixes"},
    "theory": {"models", "tasks", "prefixes", "tuning"},
    "attribution": {"models", "tasks", "prefixes", "tuning", "theory"},
    "inspection": {"models", "tasks", "prefixes", "tuning", "theory", "attribution"},
    "views": {"models", "tasks", "prefixes", "tuning", "theory", "attribution", "inspection"},
}
LIBRARY = files(PACKAGE)
EVERYTHING = LIBRARY + files(ANALYSES)


def length(file):
    return len(file.read_text(encoding="utf-8").splitlines())


def test_the_folders_are_those_of_the_design():
    assert {file.parent.name for file in PACKAGE.glob("*/__init__.py")} == set(BELOW)


def against_the_arrows(file):
    """The imports of a file of the library that go up the house, or around it."""
    inside = file.relative_to(PACKAGE).parts
    folder = inside[0] if len(inside) > 1 else None
    for found in imports(file):
        top, _, rest = found.module.partition(".")
        target = rest.partition(".")[0]
        if top == "analyses" or (top == "prefix_interp" and not rest):  # names: from where defined
            yield found
        if top != "prefix_interp" or target not in BELOW or target == folder:
            continue
        if found.when_loaded:  # modules beside the folders serve all of these
            allowed = BELOW.get(folder, set())
        else:
            allowed = BELOW[folder] | {"views"} if folder in BELOW else set(BELOW)
        if target not in allowed:
            yield found


def test_arrows_run_one_way():
    on_top = {PACKAGE / name for name in ("__init__.py", "cli.py", "cli_inspect.py")}
    wrong = {
        module_name(file): found
        for file in LIBRARY
        if file not in on_top and (found := list(against_the_arrows(file)))
    }
    assert not wrong


def test_there_is_no_import_circle():
    modules = {module_name(file): file for file in EVERYTHING}
    graph = {}
    for name, file in modules.items():
        targets = {  # those inside functions too
            sub if (sub := f"{found.module}.{found.name}") in modules else found.module
            for found in imports(file)
        }
        graph[name] = (targets & set(modules)) - {name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_file_holds_one_idea():
    assert not {module_name(file): n for file in EVERYTHING if (n := length(file)) > 350}


def test_the_library_stays_small():
    house, trust = 12_500, 1_700  # what it did in 0.2; checks of runs and files
    doors = 400  # commands that resume, and that replace no file of another run
    paper = 1_250  # figures at any size, circuits as svg, pdf and png, tables as LaTeX and CSV
    own = 900  # tasks of one's own, answers at any positions, positions that stay
    text = 500  # texts as tasks, answers among named foils
    page = 3_000  # everything about one prefix on one page, and what it shares with the report
    models = 3_200  # Hugging Face models, adapters of PEFT, whether a context acts, generation
    depth = 1_000  # scores of deeper layers in terms, drift of attention, interaction of inputs
    weights = 950  # LoRA on toys and language models, edits of heads and of the residual stream
    reach = 1_740  # what no prefix of any length can do: bound and its search, construction, floor
    engine = 400  # a forward pass without hooks for training and patches, the precision
    new = doors + paper + own + text + page + models + depth + weights + reach + engine
    assert sum(map(length, LIBRARY)) <= house + trust + new


def test_hook_names_are_spelled_in_sites_alone():
    # A message may speak of a hook; a name stands alone, or is a piece of an f-string.
    name = re.compile(r"[\w.]*\bhook_[a-z_]+|blocks\..*|(.*\.)?(attn|mlp|ln1|ln2)\.hook.*")
    sites = PACKAGE / "models" / "sites.py"
    spelled = {
        module_name(file): found
        for file in EVERYTHING
        if file != sites and (found := list(filter(name.fullmatch, strings(file))))
    }
    assert not spelled
    assert any(map(name.fullmatch, strings(sites))), "the pattern finds no hook name"


def test_the_kind_of_model_is_known_in_models_alone():
    # Everything else says Model, from prefix_interp.models.host.
    inside = {PACKAGE / "models"}
    users = {
        file.parent
        for file in EVERYTHING
        for found in imports(file)
        if found.module.partition(".")[0] == "transformer_lens"
        and found.name in ("HookedTransformer", None)
    }
    assert PACKAGE / "models" in users <= inside


@pytest.fixture(scope="module")
def shared():
    return "made once"


def test_tests_that_share_a_fixture_run_in_one_process(shared, request):
    if request.config.getoption("loadgroup", default=False):
        assert request.node.nodeid.endswith("@tests/test_structure.py")
