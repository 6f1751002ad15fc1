"""The benchmark of training steps: the twins are twins, and the table is printed and stored."""

import json
import sys

import pytest

from minidiff.bench import training


@pytest.fixture
def results(checkout):
    return checkout / "book" / "results"


def test_our_unet_is_the_equal_block_twin_of_diffusers(results, monkeypatch, capsys):
    pytest.importorskip("diffusers")
    monkeypatch.setitem(sys.modules, "smalldiffusion", None)  # as if it were not installed
    training.main(["--rounds", "1", "--steps", "1", "--batch", "2", "--save"])
    libraries = json.loads((results / "training.json").read_text())["data"]["libraries"]
    assert list(libraries) == ["minidiff", "diffusers"]
    ours, theirs = libraries.values()
    assert ours["parameters"] == pytest.approx(theirs["parameters"], rel=0.05)
    assert ours["forward GFLOP"] == pytest.approx(theirs["forward GFLOP"], rel=0.10)
    assert theirs["ours / this"] == pytest.approx(ours["ms"] / theirs["ms"])
    printed = capsys.readouterr().out
    assert "pip install --no-deps smalldiffusion" in printed
    assert "torchvision" not in sys.modules
