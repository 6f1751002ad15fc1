"""The benchmark behind the chapter on the covariance of a step, at a size that takes seconds."""

import json

import torch

from minidiff import data
from minidiff.bench import variances


def test_the_benchmark_is_stored_and_resumes(monkeypatch, checkout, capsys):
    images, labels = data.digits("all")
    monkeypatch.setattr(data, "digits", lambda split: (images[:140], labels[:140]))
    for name, value in (("STEPS", (2, 3)), ("WITH_TWEEDIE", (3,)), ("SAMPLED", (2,))):
        monkeypatch.setattr(variances, name, value)
    learn = variances.learned_error
    monkeypatch.setattr(variances, "learned_error", lambda D: learn(D, steps=2))
    monkeypatch.setattr(data, "batches", lambda *_, **__: iter([(images[:8], labels[:8])] * 3))
    variances.main([])
    folder = checkout / "book" / "results"
    table = json.loads((folder / "variances-bound.json").read_text())["data"]["table"]
    bits = {(row["steps"], row["variance"]): row["bits"] for row in table}
    names = {"least", "forward", "optimal", "score", "learned"}
    assert {name for n, name in bits if n == 2} == names
    assert {name for n, name in bits if n == 3} == names | {"tweedie"}
    assert all(bits[n, "optimal"] < bits[n, "forward"] < bits[n, "least"] for n in (2, 3))
    rows = json.loads((folder / "variances-samples.json").read_text())["data"]["table"]
    assert [row["method"] for row in rows] == list(variances.METHODS)
    capsys.readouterr()
    variances.main(["samples"])
    assert capsys.readouterr().out == ""


def test_the_wiener_error_is_that_of_a_gaussian():
    t = torch.tensor([0.2, 1.0], dtype=torch.float64)
    D = variances.network()
    alpha, sigma = D.process.alpha(t), D.process.sigma(t)
    exact = 1 / (1 / 0.25 + (alpha / sigma) ** 2)  # precisions add
    torch.testing.assert_close(variances.wiener_error(D.process, t, 0.5), exact)
