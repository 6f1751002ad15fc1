"""The benchmark command, and stored results with what made them."""

import json
import subprocess
import sys

import pytest

from minidiff import bench
from minidiff.bench import __main__ as command
from minidiff.bench import results


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with book/results; the current directory is a chapter's folder in it."""
    (tmp_path / "book" / "results").mkdir(parents=True)
    (tmp_path / "book" / "foundations").mkdir()
    monkeypatch.chdir(tmp_path / "book" / "foundations")
    return tmp_path


def test_what_is_saved_is_loaded_with_what_made_it(checkout):
    path = results.save("ddpm-bound", {"bits": [1.5, 2.0]}, "python -m minidiff.bench ddpm")
    assert path == checkout / "book" / "results" / "ddpm-bound.json"
    stored = results.load("ddpm-bound")
    assert set(stored) == {"data", "device", "command", "commit", "versions", "date"}
    assert stored["data"] == {"bits": [1.5, 2.0]}
    assert stored["command"] == "python -m minidiff.bench ddpm"
    assert stored["versions"]["torch"] == results.torch.__version__
    assert stored["device"] == results.device_name()
    assert stored["commit"] is None  # this folder is no git repository


def test_the_commit_is_that_of_the_checkout(checkout):
    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=checkout, check=True)

    (checkout / "file").write_text("1")
    (checkout / "book" / "results" / "a.json").write_text("{}")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    commit = results.commit(checkout)
    assert len(commit) == 12
    (checkout / "book" / "results" / "a.json").write_text("[]")
    assert results.commit(checkout / "book" / "results") == commit  # a stored result makes no other result
    (checkout / "file").write_text("2")
    assert results.commit(checkout) == f"{commit}+changes"


@pytest.mark.parametrize("name", ["", "A", "a b", "../a", "a-", "a.json"])
def test_a_bad_name_is_refused(checkout, name):
    with pytest.raises(ValueError, match="lower-case words joined by dashes"):
        results.save(name, 1, "command")
    with pytest.raises(ValueError, match="lower-case words joined by dashes"):
        results.load(name)


@pytest.mark.parametrize("data", [float("nan"), [float("inf")]])
def test_numbers_must_be_finite(checkout, data):
    with pytest.raises(ValueError, match="not JSON compliant"):
        results.save("a", data, "command")
    assert not (checkout / "book" / "results" / "a.json").exists()


def test_a_tensor_is_refused(checkout):
    with pytest.raises(TypeError, match="Tensor"):
        results.save("a", results.torch.zeros(2), "command")


def test_a_result_needs_its_command(checkout):
    with pytest.raises(ValueError, match="command must be the shell command"):
        results.save("a", 1, " ")


def test_an_unknown_result_is_named_with_the_known_ones(checkout):
    results.save("b", 1, "command")
    with pytest.raises(FileNotFoundError, match=r"no stored result 'a' in .*; there are: b"):
        results.load("a")


def test_outside_a_checkout_there_are_no_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no book/results at or above"):
        results.load("a")


def test_the_device_is_named():
    assert results.device_name()


@pytest.fixture
def benchmark(tmp_path, monkeypatch):
    """A benchmark called `toy` beside the real ones."""
    (tmp_path / "toy.py").write_text(
        '"""Counts its arguments.\n\nMore."""\n\ndef main(argv):\n    print(len(argv), *argv)\n'
    )
    monkeypatch.setattr(bench, "__path__", [*bench.__path__, str(tmp_path)])
    yield
    sys.modules.pop("minidiff.bench.toy", None)


def test_a_benchmark_gets_its_arguments(benchmark, capsys):
    assert command.main(["toy", "--steps", "3"]) == 0
    assert capsys.readouterr().out == "2 --steps 3\n"


@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_without_a_name_the_benchmarks_are_listed(benchmark, capsys, argv):
    assert command.main(argv) == 0
    told = capsys.readouterr().out
    assert "toy          Counts its arguments." in told
    assert "--no-deps smalldiffusion" in told
    assert not any(line.split()[:1] == ["results"] for line in told.split("\n"))


def test_an_unknown_benchmark_is_refused(benchmark, capsys):
    assert command.main(["tyo"]) == 2
    assert "no benchmark called 'tyo'; there are:" in capsys.readouterr().err


def test_the_command_runs():
    done = subprocess.run([sys.executable, "-m", "minidiff.bench"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: python -m minidiff.bench NAME")


def test_every_benchmark_says_what_it_measures():
    assert all(command.purpose(name) for name in bench.names())


def test_stored_results_are_whole():
    folder = results.Path(__file__).parents[1] / "book" / "results"
    for path in folder.glob("*.json"):
        stored = json.loads(path.read_text())
        assert {"data", "device", "command", "commit", "versions", "date"} == set(stored), path.name
        assert stored["command"].strip() and stored["device"].strip(), path.name
