from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

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
    """Keep tests that share a fixture in one process, where it is made once.

    Tests that ask for a session's fixture of a conftest.py are one group, wherever they stand; the
    other tests of a file are one if they share a fixture of that file.
    """
    for item in items:
        found = (each for these in item._fixtureinfo.name2fixturedefs.values() for each in these)
        # Those of pytest and of plugins have no place.
        shared = [each for each in found if each.baseid and each.scope in ("module", "session")]
        wide = sorted(each.argname for each in shared if not each.baseid.endswith(".py"))
        if shared:
            group = wide[0] if wide else item.nodeid.partition("::")[0]
            item.add_marker(pytest.mark.xdist_group(group))


def pytest_terminal_summary(terminalreporter):
    """Say in one line which tests were left out for want of the real language model."""
    skipped = terminalreporter.stats.get("skipped", [])
    n = sum("make test-lm" in str(report.longrepr) for report in skipped)
    if n:
        terminalreporter.write_line(f"{n} skipped without the real language model: make test-lm")


@pytest.fixture
def unchecked():
    """Switch off the annotation checks, to see what a user is told, who runs without them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@dataclass
class WholeReport:
    """The report with what was asked while it was made."""

    folder: Path
    sections: dict[str, list] = field(default_factory=dict)  # by study
    summaries: Counter = field(default_factory=Counter)  # made, by study and preset

    def watch(self, study):
        """Return a study that notes what the report asks of it."""

        def tables(result):
            self.summaries[study.name, result.preset] += 1
            return study.tables(result)

        def section(evidence):
            found = study.section(evidence)
            self.sections[study.name] = list(found) if isinstance(found, (list, tuple)) else [found]
            return found

        return replace(study, tables=tables, section=section)


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """The whole report, made once."""
    from analyses import registry
    from analyses.report.page import write_report

    whole = WholeReport(tmp_path_factory.mktemp("report"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "STUDIES", tuple(map(whole.watch, registry.STUDIES)))
        assert write_report(whole.folder, progress=False) == whole.folder / "report.html"
    return whole
