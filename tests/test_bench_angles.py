"""The benchmark of angles, at a size that takes seconds."""

import json
import math

import pytest
import torch

from minidiff import zoo
from minidiff.bench import angles, reference
from minidiff.denoiser import Angle
from minidiff.metrics import path_error
from minidiff.samplers import calibrated_angle, sample

SMALL = {"paths": 4, "scales": (1.0, 2.0), "middles": (1.0, 2.0)}


def test_the_table_is_stored_and_resumes(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(angles, "CALLS", (4, 6))
    monkeypatch.setattr(angles, "FINE", 40)
    monkeypatch.setattr(angles, "POWERS", (0.8,))
    monkeypatch.setitem(angles.TABLES, "digits", angles.TABLES["digits"] | SMALL)
    saved = {}
    monkeypatch.setattr(angles.results, "save", lambda name, data, command: saved.update({name: (data, command)}))
    angles.main(["digits"])
    stored, command = saved["angles-digits"]
    assert command.endswith("python -m minidiff.bench angles digits")
    rows = stored["rows"]
    assert [r["scale"] for r in rows] == pytest.approx([1.0, 2.0, 2.0])
    assert [r["middle"] for r in rows] == pytest.approx([1.0, 1.0, 2.0])

    # The best row is the angle that the calibration finds on the same paths.
    D = zoo.load("digits-unet").given(torch.arange(4) % 10)
    x = D.process.prior((4, 1, 8, 8), torch.Generator().manual_seed(angles.SEED))
    end = reference.solution(D, x / float(D.process.sigma(torch.ones(()))), "one", 40)
    table = angles.candidates(D.sigma_data, SMALL["scales"], SMALL["middles"])
    best = min(range(3), key=lambda i: math.prod(rows[i]["rms"]))
    assert calibrated_angle(D, x, end, table, (4, 6)) == table[best]
    # Each figure, from samples made here.
    for r, angle in zip(rows, table, strict=True):
        errors = [path_error(sample(D, x, calls, angle), end, D.sigma_data) for calls in (4, 6)]
        assert r["rms"] == pytest.approx([float(e.square().mean().sqrt()) for e in errors], rel=1e-4)
        assert r["median"] == pytest.approx([float(e.median()) for e in errors], rel=1e-4)

    kept = tmp_path / "build/angles/digits.json"
    kept.write_text(json.dumps(rows[:2]))
    capsys.readouterr()
    angles.main(["digits"])
    assert capsys.readouterr().out.count("'scale'") == 1
    assert saved["angles-digits"][0] == stored


def test_a_middle_is_never_beyond_the_scale():
    assert angles.candidates(0.5, (1.0,), (0.5, 1.0, 2.0))[:2] == [Angle(0.5, 0.5, 0.25), Angle(0.5, 0.5, 0.5)]
    assert len(angles.candidates(0.5, (1.0,), (0.5, 1.0, 2.0))) == 2 * len(angles.POWERS)
