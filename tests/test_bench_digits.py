"""The benchmark of the digits: it trains by the chapter's own cells, and stores what was measured."""

import ast
import json

import pytest

from book._tools.sources import ROOT, read, tags
from minidiff.bench import digits, results


@pytest.fixture
def checkout(checkout):
    (checkout / "book" / "start").mkdir()
    return checkout


@pytest.fixture
def stubs(monkeypatch):
    """No model and no training: `quality` returns its arguments."""

    def quality(D, judge, calls=(10,), seeds=(0, 1, 2)):
        return {"floor": judge, "samples": [{"network": D, "calls": n, "seed": k} for n in calls for k in seeds]}

    monkeypatch.setattr(digits.zoo, "load", lambda name: name)
    monkeypatch.setattr(digits.measure, "quality", quality)
    monkeypatch.setattr(digits, "train_live", lambda seed: (f"live {seed}", 60.04))


def test_the_network_comes_from_the_tagged_cells(checkout):
    cells = [
        {"id": "a", "source": ["x = seed\n", "y = 2"], "metadata": {"tags": ["imports", "live"]}},
        {"id": "b", "source": "raise AssertionError('not tagged')", "metadata": {}},
        {"id": "c", "source": "class training: cpu = 1.5\nD = (x, y)", "metadata": {"tags": ["live"]}},
    ]
    (checkout / "book" / digits.CHAPTER).write_text(json.dumps({"cells": cells}))
    assert digits.train_live(7) == ((7, 2), 1.5)


def test_the_chapter_has_what_the_benchmark_runs():
    """Its tagged cells define the network and its timer, and leave the seed to whoever runs them."""
    cells = [cell.source for cell in read(ROOT / "book" / digits.CHAPTER).cells if digits.TAG in tags(cell)]
    names = [node for node in ast.walk(ast.parse("\n".join(cells))) if isinstance(node, ast.Name)]
    stored = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    assert stored >= {"D", "training"}
    assert "seed" not in stored
    assert "seed" in {name.id for name in names}


def test_every_stage_stores_its_result(checkout, stubs):
    digits.main([])
    live = results.load("digits-live")
    assert live["command"] == "python -m minidiff.bench digits live"
    assert live["data"]["floor"] == "digits-classifier"
    assert [run["network"] for run in live["data"]["samples"]] == ["live 0", "live 1", "live 2"]
    assert [(run["calls"], run["seed"]) for run in live["data"]["samples"]] == [(20, 0), (20, 1), (20, 2)]
    assert live["data"]["samples"][0]["training CPU-seconds"] == 60.0
    assert {run["network"] for run in results.load("digits-unet")["data"]["samples"]} == {"digits-unet"}
    assert [run["calls"] for run in results.load("digits-calls")["data"]["samples"]] == [5, 10, 20, 50, 1000]


def test_one_stage(checkout, stubs):
    digits.main(["unet"])
    assert [path.name for path in (checkout / "book" / "results").iterdir()] == ["digits-unet.json"]


def test_unknown_stage():
    with pytest.raises(ValueError, match=r"stages are \['live', 'unet', 'calls'\], got 'dead'"):
        digits.main(["live", "dead"])
