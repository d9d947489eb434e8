import jaxtyping
import pytest
from hypothesis import HealthCheck, settings

# Examples are the same in every run. Identities that say no number of their own are checked on
# 40 examples; `make test-all` asks for the profile "thorough".
settings.register_profile(
    "fast",
    derandomize=True,
    deadline=None,
    max_examples=40,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile("thorough", settings.get_profile("fast"), max_examples=200)
settings.load_profile("fast")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keep tests that share a fixture of a module or session in one process: it is made once."""
    for item in items:
        found = (each for these in item._fixtureinfo.name2fixturedefs.values() for each in these)
        own = {each.scope: each for each in found if each.baseid}  # pytest's and plugins' have none
        if "session" in own:
            item.add_marker(pytest.mark.xdist_group(own["session"].argname))
        elif "module" in own:
            item.add_marker(pytest.mark.xdist_group(own["module"].baseid))


@pytest.fixture
def unchecked():
    """Switch off the annotation checks, to see what a user is told, who runs without them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
