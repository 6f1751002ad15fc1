"""The benchmark behind the chapter on the five relatives, at a size that takes seconds."""

import json
import math

import pytest
import torch

from minidiff import data, zoo
from minidiff.bench import pictures, relatives
from minidiff.bench.relatives import energies, generators, trained

SMALL = {
    generators: {"DRAWS": 1, "COMPONENTS": 3},
    energies: {"PROPOSALS": 4, "CONSTANT": 300, "CHAIN": 2, "RUNGS": 2, "BITS_EVERY": 40},
}


@pytest.fixture
def small(monkeypatch, tmp_path):
    (tmp_path / "book" / "results").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    images, labels = data.digits("all")
    parts = {"all": slice(70), "train": slice(1000, 1300), "test": slice(1400, 1480)}
    monkeypatch.setattr(data, "digits", lambda split: (images[parts[split]], labels[parts[split]]))
    for family in trained.STEPS:
        monkeypatch.setitem(trained.STEPS, family, 2)
    for module, settings in SMALL.items():
        for name, value in settings.items():
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(relatives, "SEEDS", (0, 1))
    return tmp_path / "book" / "results"


def test_the_table(small, capsys, monkeypatch):
    relatives.main([])
    found, shown = (
        json.loads((small / f"relatives-{name}.json").read_text())["data"] for name in ("digits", "samples")
    )
    table = {row["family"]: row for row in found["table"]}
    assert list(table) == list(relatives.MAKERS) == list(shown) and len(found["rows"]) == 2 * len(table)
    assert all(pictures.unpacked(text, (-1, 1, 8, 8)).shape[0] == relatives.SHOWN for text in shown.values())
    assert table["training set"]["copy_rate"] == 1
    assert table["training set"]["nearest"] == 0
    assert all(row["copy_rate"] < 0.5 for name, row in table.items() if name not in ("training set", "neighbours"))
    assert all(math.isfinite(row["frechet held-out"]) for row in table.values())
    silent = {name for name, row in table.items() if row["bits"] is None}
    assert silent == {"training set", "neighbours", "GAN", "energy, recovery"}
    assert silent == {name for name, row in table.items() if row["likelihood"] == "none"}
    # Two steps of training: worse than 17 equally likely levels is possible, below 1 bit is not.
    assert all(row["bits"] > 1 for name, row in table.items() if name not in silent)
    assert table["diffusion, zoo"]["bits"] < 4
    calls = [table[name]["calls"] for name in ("GAN", "autoregressive", "energy, NCE", "energy, recovery", "diffusion")]
    assert calls == [1, 64, 4, 5, 10]
    capsys.readouterr()
    relatives.main(["table"])  # nothing is trained a second time
    assert not capsys.readouterr().out


def test_a_row_is_the_same_again(small):
    judge = zoo.load("digits-classifier")
    first, second = (relatives.row("autoregressive", 1, judge) for _ in range(2))
    for key in ("frechet held-out", "bits", "nearest"):
        assert first[key] == second[key]


def test_the_summary():
    rows = [
        {"family": "a", "likelihood": "none", "calls": 1, "parameters": 2, "bits": None}
        | dict.fromkeys(("frechet held-out", "frechet all", "copy_rate", "nearest"), value)
        | {"training seconds": 1.0, "sampling seconds": 2.0}
        for value in (1.0, 2.0, 6.0)
    ]
    found = relatives.summary(rows)
    assert found["nearest"] == 3
    assert found["nearest spread"] == pytest.approx(float(torch.tensor([1.0, 2.0, 6.0]).std()))
    assert found["bits"] is None and found["bits spread"] is None


def test_unknown_stage():
    with pytest.raises(ValueError, match="stages are"):
        relatives.main(["all"])
