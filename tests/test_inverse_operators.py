"""Linear operators: adjoint, pseudo-inverse and functions of A Aᵀ against dense matrices, and the refusals."""

import pytest
import torch

from minidiff.inverse import AveragePool, Blur, LinearOperator, Mask, Matrix, check_linear
from minidiff.inverse.operators import require_linear

F64 = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=gen(seed), dtype=F64)


OPERATORS = {
    "mask": Mask(torch.rand(2, 4, 6, generator=gen()) > 0.6),
    "pool": AveragePool((2, 4, 6), 2),
    "blur": Blur(rand(3, 2, seed=1), (2, 4, 6)),
    "box": Blur(torch.ones(3, 3) / 9, (1, 6, 6)),  # k̂ = 0 at a third of the frequencies
    "wide": Matrix(rand(3, 8, seed=2), (2, 4)),
    "tall": Matrix(rand(7, 4, seed=3)),
    "rank 1": Matrix(torch.outer(rand(3, seed=4), rand(5, seed=5))),
    "nothing": Matrix(torch.zeros(2, 3)),
}


@pytest.mark.parametrize("A", OPERATORS.values(), ids=OPERATORS)
def test_everything_is_that_of_the_dense_matrix(A):
    dense = A.matrix()
    x, y = rand(3, *A.shape, seed=6), rand(3, *A.measured, seed=7)
    torch.testing.assert_close(A(x).flatten(1), x.flatten(1) @ dense.mT)
    torch.testing.assert_close(A.adjoint(y).flatten(1), y.flatten(1) @ dense)
    pinv = torch.linalg.pinv(dense, rtol=1e-8)
    torch.testing.assert_close(A.pseudo_inverse(y).flatten(1), y.flatten(1) @ pinv.mT, rtol=1e-7, atol=1e-9)
    gram = 0.7 * dense @ dense.mT + 0.3 * torch.eye(len(dense), dtype=F64)
    solved = A.of_gram(y, lambda e: 1 / (0.7 * e + 0.3))
    torch.testing.assert_close(solved.flatten(1), torch.linalg.solve(gram, y.flatten(1).mT).mT)


@pytest.mark.parametrize("A", OPERATORS.values(), ids=OPERATORS)
def test_a_function_for_each_row(A):
    y, scale = rand(3, *A.measured), torch.tensor([0.1, 1.0, 3.0], dtype=F64)
    every = A.of_gram(y, lambda e: 1 / (scale.reshape(-1, *[1] * e.ndim) * e + 1))
    for i in range(3):
        torch.testing.assert_close(every[i : i + 1], A.of_gram(y[i : i + 1], lambda e, c=scale[i]: 1 / (c * e + 1)))


@pytest.mark.parametrize("A", OPERATORS.values(), ids=OPERATORS)
def test_float32_and_linearity(A):
    check_linear(A, A.shape)
    x = rand(2, *A.shape).float()
    y = A(x)
    assert y.dtype == A.adjoint(y).dtype == A.pseudo_inverse(y).dtype == torch.float32
    torch.testing.assert_close(A(A.pseudo_inverse(y)), y, rtol=1e-4, atol=1e-4)  # A A⁺ A = A


def test_mask_and_pool_and_blur_by_hand():
    A = Mask(torch.tensor([[True, False], [False, True]]))
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert A(x).tolist() == [[1.0, 4.0]]
    assert A.put(x, torch.tensor([[7.0, 8.0]])).tolist() == [[[7.0, 2.0], [3.0, 8.0]]]
    assert x[0, 0, 0] == 1
    assert AveragePool((1, 2, 2), 2)(x[None]).tolist() == [[[[2.5]]]]
    kernel = torch.zeros(3, 3)
    kernel[1, 2] = 1.0  # one right of the centre: moves the image to the right
    torch.testing.assert_close(Blur(kernel, (1, 4, 4))(rand(1, 1, 4, 4)), rand(1, 1, 4, 4).roll(1, -1))


def test_a_matrix_of_a_function():
    weight = rand(2, 6)
    A = Matrix.of(lambda x: x.flatten(1) @ weight.mT, (2, 3))
    torch.testing.assert_close(A.dense, weight)


@pytest.mark.parametrize(
    "function",
    [lambda x: x + 1, lambda x: x**2, lambda x: x.clamp(-1, 1), torch.relu, lambda x: 1e-8 + x, lambda x: x.abs()],
)
def test_what_is_not_linear_is_found_out(function):
    with pytest.raises(ValueError, match="the operator is not linear"):
        Matrix.of(function, (3,))


def test_an_operator_that_mixes_rows_is_found_out():
    with pytest.raises(ValueError, match="act on each row by itself"):
        Matrix.of(lambda x: x - x.mean(0), (3,))


@pytest.mark.parametrize("A", OPERATORS.values(), ids=OPERATORS)
def test_measurements_of_another_shape_are_refused(A):
    """Also of a shape that would broadcast, and by every way from measurements to samples."""
    for y in (torch.zeros(2, 1), torch.zeros(2, *A.measured, 1), torch.zeros(())):
        for back in (A.adjoint, A.pseudo_inverse):
            with pytest.raises(ValueError, match=r"y must have shape \(B, "):
                back(y)
    mask, x = OPERATORS["mask"], torch.zeros(2, *OPERATORS["mask"].shape)
    with pytest.raises(ValueError, match=r"y must have shape \(B, "):
        mask.put(x, torch.zeros(2, 1))
    with pytest.raises(ValueError, match="one measurement a sample"):
        mask.put(x, torch.zeros(1, *mask.measured))


def test_refusals():
    with pytest.raises(TypeError, match="DDNM assumes a linear operator and needs a LinearOperator, got function"):
        require_linear(lambda x: x, "DDNM")
    for call, error, message in (
        (lambda: Mask(torch.ones(2)), TypeError, "mask must be a boolean tensor"),
        (lambda: Mask([True]), TypeError, "mask must be a boolean tensor"),
        (lambda: Mask(torch.zeros(2, dtype=torch.bool)), ValueError, "must be True somewhere"),
        (lambda: OPERATORS["mask"](torch.zeros(1, 2, 4, 5)), ValueError, r"x must have shape \(B, 2, 4, 6\)"),
        (lambda: OPERATORS["mask"](torch.zeros(1, 2, 4, 6).long()), TypeError, "floating"),
        (lambda: AveragePool((1, 5, 4), 2), ValueError, "factor must divide"),
        (lambda: AveragePool((5, 4), 2), ValueError, r"shape must be \(C, H, W\)"),
        (lambda: Blur(torch.ones(9, 2), (1, 4, 4)), ValueError, "kernel must be a matrix"),
        (lambda: Blur(torch.zeros(2, 2), (1, 4, 4)), ValueError, "not zero"),
        (lambda: Blur(torch.ones(2, 2), (1, 4, 4), cutoff=1.0), ValueError, "cutoff must be"),
        (lambda: Matrix(torch.ones(3, 2), (3,)), ValueError, "matrix must be"),
        (lambda: Matrix(torch.full((2, 2), torch.nan)), ValueError, "matrix must be finite"),
    ):
        with pytest.raises(error, match=message):
            call()
    A, x = OPERATORS["pool"], torch.zeros(2, 2, 4, 6)
    with pytest.raises(ValueError, match=r"y must have shape \(B, 2, 2, 3\)"):
        A.check_measurement(torch.zeros(2, 2, 3, 2), x)
    with pytest.raises(ValueError, match="one measurement a sample, got 3"):
        A.check_measurement(torch.zeros(3, 2, 2, 3), x)


def test_a_new_operator_says_what_it_lacks():
    bare = LinearOperator()
    for call in (lambda: bare.forward(None), lambda: bare.adjoint(None), lambda: bare.of_gram(None, None)):
        with pytest.raises(NotImplementedError, match="LinearOperator must define"):
            call()
