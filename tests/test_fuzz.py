"""Some hundreds of the inputs of `python -m fuzz.readers`, for every reader."""

import pytest

import prefix_interp as pi
from fuzz.attack import SECONDS, Tally, attack
from fuzz.objects import make_readers
from fuzz.readers import attacks, run

# Without the bombs, which take a second each: tests/test_records.py has those that found something.
N = {"flips": 12, "damage": 8, "places": 100, "records": 20, "unsealed": 8, "chance": 4}


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    return make_readers(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("name", N)
def test_every_reader_refuses_in_one_line_or_reads_what_was_saved(readers, unchecked, name):
    tallies = {}
    for reader in readers.values():
        tally = tallies[reader.name] = Tally()
        for _ in run(reader, name, N[name], 1, tally):
            pass
    assert not {k: tally.findings for k, tally in tallies.items() if tally.bad}
    counts = sum((tally.counts for tally in tallies.values()), start=Tally().counts)
    assert counts.total() > 60 and counts["refused"] > counts["whole"]


def test_the_attacks_are_those_of_the_script():
    assert {*N, "bombs"} == set(attacks())


def test_a_flipped_bit_that_means_nothing_is_let_through(readers):
    """The time in gzip's header is no part of the object."""
    reader = readers["result.json.gz"]
    ((file, data),) = reader.files.items()
    changed = bytes([*data[:4], data[4] ^ 1, *data[5:]])
    assert attack(reader, {file: changed}, damaged=True)[0] == "whole"


def two_lines():
    raise pi.PrefixInterpError("two\nlines")


@pytest.mark.parametrize(
    ("read", "damaged", "outcome"),
    [
        (lambda: 1 / 0, False, "FOREIGN"),
        (two_lines, False, "FOREIGN"),
        (lambda: (), True, "SILENT"),
        (lambda: (), False, "other"),
        (lambda: len(bytearray(1_200_000_000)), False, "MEMORY"),
    ],
)
def test_the_attack_notices(readers, monkeypatch, read, damaged, outcome):
    monkeypatch.setattr(readers["prefix"], "read", read)
    assert attack(readers["prefix"], {}, damaged=damaged)[0] == outcome


def test_the_attack_notices_a_hang(readers, monkeypatch):
    monkeypatch.setattr("fuzz.attack.SECONDS", 0.1)
    assert SECONDS == 5

    def read():
        while True:
            pass

    monkeypatch.setattr(readers["prefix"], "read", read)
    assert attack(readers["prefix"], {}, damaged=False)[0] == "HANG"
