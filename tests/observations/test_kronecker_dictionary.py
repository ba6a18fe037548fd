"""Kronecker dictionaries: against the dense matrix, adjoint, axes of the channel, dtypes, devices' manners and bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, UnknownNameError
from wichan.linalg import kron
from wichan.observations import KroneckerDictionary
from wichan.observations.dictionary import mode_products
from wichan.random import complex_normal

SIZES = {1: ((4, 7),), 2: ((3, 5), (6, 2)), 3: ((2, 5), (4, 3), (5, 6)), 4: ((2, 3), (3, 2), (1, 4), (2, 2))}


def made(shape: tuple[int, ...], generator: torch.Generator, is_complex: bool) -> torch.Tensor:
    if is_complex:
        return complex_normal(shape, generator=generator, dtype=torch.complex128)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def dictionary_of(count: int, generator: torch.Generator, is_complex: bool = True, **options: Any) -> KroneckerDictionary:
    factors = [made(size, generator, is_complex) for size in SIZES[count]]
    synthesis = [made((rows + 1, columns), generator, is_complex) for rows, columns in SIZES[count]]
    return KroneckerDictionary(factors, synthesis, **options)


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("lead", [(), (1,), (4,), (2, 3), (0,)])
@pytest.mark.parametrize("count", SIZES)
def test_mode_products_equal_the_dense_matrix(
    count: int, lead: tuple[int, ...], is_complex: bool, generator: torch.Generator
) -> None:
    dictionary = dictionary_of(count, generator, is_complex)
    x = made((*lead, *dictionary.num_atoms), generator, is_complex)
    y = dictionary.measure(x)
    flat = x.flatten(-count).unsqueeze(-1)
    # sums of at most 90 products of a size near 1: rounding near 1e-14
    torch.testing.assert_close(y, (dictionary.dense() @ flat).squeeze(-1), rtol=0, atol=1e-12)
    assert dictionary.synthesis is not None
    channel = (kron(*dictionary.synthesis) @ flat).squeeze(-1).unflatten(-1, dictionary.channel_shape)
    torch.testing.assert_close(dictionary.channel(x), channel, rtol=0, atol=1e-12)
    z = made((*lead, dictionary.num_measurements), generator, is_complex)
    torch.testing.assert_close((y.conj() * z).sum(), (x.conj() * dictionary.adjoint(z)).sum(), rtol=1e-12, atol=1e-11)
    assert torch.equal(dictionary.to_grid(z).flatten(-count), z)


def test_one_and_many_take_different_ways_to_the_same(generator: torch.Generator) -> None:
    dictionary = dictionary_of(3, generator)
    x = made((5, *dictionary.num_atoms), generator, True)
    one_by_one = torch.stack([dictionary.measure(item) for item in x])
    torch.testing.assert_close(dictionary.measure(x), one_by_one, rtol=0, atol=1e-13)


def test_the_channel_may_have_its_axes_in_another_order(generator: torch.Generator) -> None:
    plain = dictionary_of(3, generator)
    turned = KroneckerDictionary(plain.factors, plain.synthesis, channel_order=(2, 0, 1))
    x = made((2, *plain.num_atoms), generator, True)
    assert plain.channel_shape == (3, 5, 6) and turned.channel_shape == (6, 3, 5)
    assert torch.equal(turned.channel(x), plain.channel(x).permute(0, 3, 1, 2))
    array = made((3, 5, 6), generator, True)
    assert torch.equal(turned.to_channel(array), array.permute(2, 0, 1))


def test_without_synthesis_the_channel_is_the_coefficients(generator: torch.Generator) -> None:
    dictionary = KroneckerDictionary(dictionary_of(2, generator).factors)
    x = made((3, *dictionary.num_atoms), generator, True)
    assert dictionary.synthesis is None
    assert dictionary.channel_shape == dictionary.num_atoms
    assert torch.equal(dictionary.channel(x), x)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.float32, torch.float64])
def test_dtype_in_is_dtype_out(dtype: torch.dtype, generator: torch.Generator) -> None:
    dictionary = dictionary_of(2, generator, is_complex=False)
    x = made((2, 5, 2), generator, dtype.is_complex).to(dtype)
    assert dictionary.measure(x).dtype == dictionary.adjoint(dictionary.measure(x)).dtype == dtype
    assert dictionary.channel(x).dtype == dtype
    exact = dictionary.measure(x.to(torch.complex128))
    # single precision: 1e-7 a product
    torch.testing.assert_close(dictionary.measure(x).to(torch.complex128), exact, rtol=0, atol=1e-4)


def test_names_grids_and_ends() -> None:
    factors = [torch.ones(2, 5), torch.ones(3, 4)]
    dictionary = KroneckerDictionary(factors, names=("a", "b"), grids=((2, 2), None), periodic=(True, False))
    assert [dictionary.index(key) for key in ("a", "b", 0, -1)] == [0, 1, 0, 1]
    assert dictionary.grids == ((2, 2), None) and dictionary.periodic == (True, False)
    assert KroneckerDictionary(factors).names == ("mode0", "mode1")
    norms = dictionary.column_norms
    assert torch.allclose(norms[0], torch.full((5,), 2**0.5, dtype=torch.float64))
    assert torch.allclose(norms[1], torch.full((4,), 3**0.5, dtype=torch.float64))
    assert (dictionary.num_measurements, dictionary.num_coefficients) == (6, 20)
    assert "a: 2 x 5" in repr(dictionary)


def test_factors_follow_the_module_and_its_state(generator: torch.Generator) -> None:
    dictionary = dictionary_of(2, generator)
    other = dictionary_of(2, generator)
    assert not torch.equal(other.factors[0], dictionary.factors[0])
    other.load_state_dict(dictionary.state_dict())
    assert torch.equal(other.factors[0], dictionary.factors[0])
    assert other.float().factors[0].dtype == torch.complex64
    assert not list(dictionary.parameters())


def test_gradients_reach_coefficients_and_factors(generator: torch.Generator) -> None:
    a, b = (made(size, generator, True).requires_grad_() for size in SIZES[2])
    x = made((2, 5, 2), generator, True).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b, x: KroneckerDictionary([a, b]).measure(x), (a, b, x))


def test_mode_products_of_views(generator: torch.Generator) -> None:
    matrices = [made(size, generator, True) for size in SIZES[2]]
    x = made((2, 5, 4), generator, True).mT.mT[..., ::2]
    torch.testing.assert_close(mode_products(x, matrices), mode_products(x.contiguous(), matrices), rtol=0, atol=1e-13)


A, B = torch.ones(2, 3), torch.ones(4, 5)
C = torch.ones(2, 3, dtype=torch.complex64)
ZERO = A.clone()
ZERO[:, 1] = 0
TINY = A.double().clone()
TINY[:, 1] = 1e-14
D = KroneckerDictionary
BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: D([]), InvalidValueError, r"measurement=\[\] must hold at least one matrix"),
    (lambda: D(A), InvalidTypeError, "measurement must be a list or tuple"),
    (lambda: D([A[0]]), ShapeError, r"measurement\[0\] has shape \(3,\)"),
    (lambda: D([A, B[:, :0]]), ShapeError, r"measurement\[1\] has shape \(4, 0\)"),
    (lambda: D([A * torch.nan]), InvalidValueError, r"measurement\[0\] holds 6 NaN"),
    (lambda: D([A.long()]), InvalidTypeError, r"measurement\[0\] has dtype torch.int64"),
    (lambda: D([B, ZERO]), InvalidValueError, r"measurement\[1\] \('mode1'\) has 1 zero of 3 columns, the first is 1"),
    (lambda: D([TINY]), InvalidValueError, "has 1 zero of 3 columns"),
    (lambda: D([A * 0]), InvalidValueError, "has 3 zero of 3 columns"),
    (lambda: D([A, B], [A]), ShapeError, r"synthesis has \(3,\) columns; .* \(3, 5\)"),
    (lambda: D([A, B], [A, A]), ShapeError, r"synthesis has \(3, 3\) columns"),
    (lambda: D([A, B], names=("a",)), InvalidValueError, "names has 1 entries; .* 2 factors"),
    (lambda: D([A, B], names=("a", "a")), InvalidValueError, "must be 2 different words"),
    (lambda: D([A, B], grids=((4,), None)), InvalidValueError, r"grids\[0\]=\(4,\) must have at most"),
    (lambda: D([A, B], periodic=(True,)), InvalidValueError, "periodic has 1 entries"),
    (lambda: D([A, B], channel_order=(0, 0)), InvalidValueError, r"channel_order=\(0, 0\) must hold each of 0 to 1 once"),
    (lambda: D([A, B]).index("c"), UnknownNameError, "factor='c' is unknown"),
    (lambda: D([A, B]).index(2), InvalidValueError, "factor=2 must be at most 1"),
    (lambda: D([A, B]).measure(B), ShapeError, r"x has shape \(4, 5\); the last axes must be \(3, 5\)"),
    (lambda: D([A, B]).adjoint(torch.ones(7)), ShapeError, r"y has shape \(7,\); the last axes must be \(8\)"),
    (lambda: D([C, B]).adjoint(torch.ones(8)), InvalidTypeError, "y has dtype torch.float32"),
    (lambda: D([A, B]).measure(torch.ones(3, 5).long()), InvalidTypeError, "x has dtype torch.int64"),
    (lambda: D([A, B]).measure(torch.ones(3, 5).half()), InvalidTypeError, "x has dtype torch.float16"),
    (lambda: D([A, B]).to_channel(torch.ones(5)), ShapeError, "array has shape"),
    (lambda: D([torch.ones(400, 400)] * 2).dense(), InvalidValueError, "160000 x 160000 entries"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input_is_one_clear_line(case: int) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
