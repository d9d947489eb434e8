import jaxtyping
import pytest


@pytest.fixture
def unchecked():
    """Switch off the annotation checks, to see what a user is told, who runs without them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
