"""Exercise checks: right answers pass, planted wrong ones fail and are told which property is missing."""

import importlib
import time
from pathlib import Path

import pytest

from minidiff import checks
from minidiff.checks import CheckFailed, check

# One module of answers for each chapter. Each wrong answer stands with a piece of the message that it gets.
CHAPTERS = [importlib.import_module(file.stem) for file in sorted(Path(__file__).parent.glob("answers_*.py"))]
RIGHT = {identifier: answer for chapter in CHAPTERS for identifier, answer in chapter.RIGHT.items()}
ALSO_RIGHT = [
    (identifier, answer)
    for chapter in CHAPTERS
    for identifier, answers in getattr(chapter, "ALSO_RIGHT", {}).items()
    for answer in answers
]
WRONG = {identifier: answers for chapter in CHAPTERS for identifier, answers in chapter.WRONG.items()}


@pytest.mark.parametrize("identifier", RIGHT)
def test_right_answers_pass_in_time(identifier, capsys):
    start = time.process_time()
    check(identifier, RIGHT[identifier])
    assert time.process_time() - start < 2
    assert capsys.readouterr().out == f"{identifier}: all properties hold\n"


@pytest.mark.parametrize(("identifier", "answer"), ALSO_RIGHT)
def test_right_answers_in_another_form_pass(identifier, answer):
    check(identifier, answer)


@pytest.mark.parametrize(
    ("identifier", "answer", "message"),
    [(identifier, answer, message) for identifier, answers in WRONG.items() for answer, message in answers],
)
def test_wrong_answers_fail(identifier, answer, message):
    with pytest.raises(CheckFailed, match=f"^{identifier}: .*{message}"):
        check(identifier, answer)


def test_every_exercise_has_wrong_answers():
    assert all(len(WRONG.get(identifier, ())) >= 2 for identifier in checks.known())


def test_unknown_exercise_lists_the_known():
    with pytest.raises(ValueError, match=r"no exercise is called 'ddpm-99'; there are: .*ddpm-01, ddpm-02"):
        check("ddpm-99", None)


def test_answer_that_is_no_function():
    with pytest.raises(CheckFailed, match="ddpm-01: the answer must be a function, got float"):
        check("ddpm-01", 1.0)


def test_answer_that_raises_is_reported_with_its_cause():
    with pytest.raises(CheckFailed, match="ddpm-01: the answer raised KeyError: 'snr'") as failure:
        check("ddpm-01", lambda a, snr_n: {}["snr"])
    assert isinstance(failure.value.__cause__, KeyError)


@pytest.mark.parametrize("value", [None, "three", [1.0, "x"], object()])
def test_answer_that_returns_no_number(value):
    with pytest.raises(CheckFailed, match="the limit must be a number or a tensor, got"):
        check("ddpm-01", lambda a, snr_n: value)


def test_answer_of_the_wrong_shape():
    with pytest.raises(CheckFailed, match=r"the shape must be \(12,\), got \(11,\)"):
        check("ddpm-04", lambda betas, kept: betas[1:])


def test_an_exercise_is_registered_once():
    checks.known()
    with pytest.raises(ValueError, match="there is a checker for 'ddpm-01' already"):
        checks.checker("ddpm-01")(lambda answer: None)


def test_increasing_is_strict():
    checks.increasing([1.0, 2.0], "it rises")
    with pytest.raises(CheckFailed, match="it rises"):
        checks.increasing([1.0, 1.0], "it rises")
