"""Pictures packed into text come back to within half a level."""

import base64

import pytest
import torch

from minidiff.bench.pictures import packed, unpacked

HALF_A_LEVEL = 1 / 255


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pictures_come_back_to_within_half_a_level(dtype):
    x = torch.rand(5, 1, 7, 9, generator=torch.Generator().manual_seed(0), dtype=dtype) * 2 - 1
    back = unpacked(packed(x), x.shape)
    assert back.dtype == torch.float32
    torch.testing.assert_close(back.to(dtype), x, rtol=0, atol=HALF_A_LEVEL + 1e-6)


def test_the_levels_are_evenly_spaced_from_minus_one_to_one():
    every = torch.linspace(-1, 1, 256, dtype=torch.float64)
    assert base64.b64decode(packed(every)) == bytes(range(256))
    torch.testing.assert_close(unpacked(packed(every), (256,)).double(), every, rtol=0, atol=1e-6)


def test_what_comes_back_is_packed_into_the_same_text():
    text = packed(torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1)))
    assert packed(unpacked(text, (3, 8, 8))) == text


def test_pixels_beyond_the_range_are_clamped():
    back = unpacked(packed(torch.tensor([-1e30, -1.01, 1.01, 7.0])), (4,))
    assert back.tolist() == [-1, -1, 1, 1]


def test_pixels_keep_their_order_and_one_length_may_be_left_open():
    x = torch.linspace(-1, 1, 24).reshape(2, 3, 4)
    text = packed(x.mT)  # not contiguous
    torch.testing.assert_close(unpacked(text, (-1, 4, 3)), x.mT, rtol=0, atol=HALF_A_LEVEL + 1e-6)


def test_pictures_of_a_network_are_packed_as_they_are():
    x = torch.tensor([0.5, -0.5], requires_grad=True)
    assert packed(x) == packed(x.detach())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: packed(torch.zeros(2, dtype=torch.int64)), TypeError, "floating-point tensor, got torch.int64"),
        (lambda: packed(torch.tensor([0.0, float("nan")])), ValueError, "finite"),
        (lambda: unpacked([1, 2], (2,)), TypeError, "string of `packed`, got list"),
        (lambda: unpacked("80ff", (2, 2)), ValueError, "3 pixels of text"),
        (lambda: unpacked(packed(torch.zeros(65)), (1, 8, 8)), ValueError, r"65 pixels of text, got \(1, 8, 8\)"),
        (lambda: unpacked(packed(torch.zeros(65)), (-1, 8, 8)), ValueError, "65 pixels"),
        (lambda: unpacked("αβγ", (3,)), ValueError, "must be base64"),
        (lambda: unpacked("AAA", (2,)), ValueError, "must be base64"),
        (lambda: unpacked("AAAA!", (3,)), ValueError, "must be base64"),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
