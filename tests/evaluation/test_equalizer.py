"""The LMMSE equaliser and the SINR it leaves: closed forms, limits, and the error it really makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError
from wichan.evaluation import QAM, lmmse_equalize, post_equalization_sinr
from wichan.random import complex_normal

SHAPES = [(1, 1), (3, 1), (2, 2), (4, 3), (2, 4)]


def channels(rx: int, tx: int, generator: torch.Generator, *, count: int = 5) -> torch.Tensor:
    return complex_normal((count, rx, tx, 3, 4), generator=generator, dtype=torch.complex128)


@pytest.mark.parametrize(("rx", "tx"), SHAPES)
def test_known_channel_gives_the_textbook_sinr(rx: int, tx: int, generator: torch.Generator) -> None:
    h, no = channels(rx, tx, generator), 0.1
    matrix = h.movedim((-4, -3), (-2, -1))
    gram = torch.eye(tx) + matrix.mH @ matrix / no
    expected = (1 / torch.linalg.inv(gram).diagonal(dim1=-2, dim2=-1).real - 1).movedim(-1, -3)
    torch.testing.assert_close(post_equalization_sinr(h, h, no=no), expected)
    torch.testing.assert_close(post_equalization_sinr(h, h, no=no, known_gain=True), expected)
    # What the receiver expects is then what it gets.
    _, no_eff = lmmse_equalize(h.sum(dim=2), h, no=no)
    torch.testing.assert_close(1 / no_eff, expected)


@pytest.mark.parametrize(("rx", "tx"), SHAPES)
def test_equalised_symbols_follow_the_defining_equation(rx: int, tx: int, generator: torch.Generator) -> None:
    h, no = channels(rx, tx, generator), 0.2
    err_var = 0.3 * torch.rand(h.shape, dtype=torch.float64, generator=generator)
    y = complex_normal((5, rx, 3, 4), generator=generator, dtype=torch.complex128)
    matrix, received = h.movedim((-4, -3), (-2, -1)), y.movedim(-3, -1)
    noise = torch.diag_embed((no + err_var.sum(dim=2)).movedim(-3, -1)).to(h.dtype)
    g = matrix.mH @ torch.linalg.inv(matrix @ matrix.mH + noise)
    d = (g @ matrix).diagonal(dim1=-2, dim2=-1)
    x_hat, no_eff = lmmse_equalize(y, h, err_var, no)
    torch.testing.assert_close(x_hat, ((g @ received[..., None])[..., 0] / d).movedim(-1, -3))
    torch.testing.assert_close(no_eff, (1 / d - 1).real.movedim(-1, -3))


@pytest.mark.parametrize(("rx", "tx"), [(1, 1), (3, 1), (3, 2)])
def test_sinr_is_the_error_that_symbols_really_have(rx: int, tx: int, generator: torch.Generator) -> None:
    h = channels(rx, tx, generator, count=1)
    h_hat = h + 0.2 * channels(rx, tx, generator, count=1)
    err_var, no = torch.full((1,), 0.04, dtype=torch.float64), 0.1
    draws = 20_000
    x = QAM("qpsk").map(QAM("qpsk").random_bits((draws, tx, 3, 4), generator=generator)).to(torch.complex128)
    noise = complex_normal((draws, rx, 3, 4), no, generator=generator, dtype=torch.complex128)
    y = (h * x[:, None]).sum(dim=2) + noise
    x_hat, _ = lmmse_equalize(y, h_hat.expand(draws, -1, -1, -1, -1), err_var, no)
    error = (x_hat - x).abs().square().mean(dim=0)
    # |(WH)_kk|^2: what the equaliser makes of a lone symbol of stream k.
    lone = [lmmse_equalize(h[:, :, k], h_hat, err_var, no).x_hat[:, k] for k in range(tx)]
    expected = torch.stack(lone, dim=1)[0].abs().square() / error
    # 20,000 draws of an error of kurtosis 2 or less: a standard error of 0.7 %; the largest of 24 stays within 4 of them.
    torch.testing.assert_close(post_equalization_sinr(h, h_hat, err_var, no)[0], expected, rtol=0.03, atol=0)


def test_one_antenna_has_the_scalar_formula(generator: torch.Generator) -> None:
    h, h_hat = channels(1, 1, generator), channels(1, 1, generator)
    expected = (h.abs().square() / ((h - h_hat).abs().square() + 0.1))[:, 0]
    torch.testing.assert_close(post_equalization_sinr(h, h_hat, None, 0.1), expected)
    torch.testing.assert_close(post_equalization_sinr(h, h_hat, no=0.1, known_gain=True), (h.abs().square() / 0.1)[:, 0])
    # Nobody beats the receiver that knows the channel.
    assert bool((post_equalization_sinr(h, h_hat, no=0.1) <= post_equalization_sinr(h, h, no=0.1)).all())


def test_unitary_channel_is_undone_and_streams_do_not_meet(generator: torch.Generator) -> None:
    q = torch.linalg.qr(complex_normal((3, 3), generator=generator, dtype=torch.complex128))[0][:, :, None, None]
    x = complex_normal((3, 1, 1), generator=generator, dtype=torch.complex128)
    x_hat, no_eff = lmmse_equalize((q * x).sum(dim=1), q, no=0.05)
    torch.testing.assert_close(x_hat, x)
    torch.testing.assert_close(no_eff, torch.full((3, 1, 1), 0.05, dtype=torch.float64))


@pytest.mark.parametrize(("rx", "tx"), [(1, 1), (4, 3)])
def test_without_noise_it_inverts_the_channel(rx: int, tx: int, generator: torch.Generator) -> None:
    h = channels(rx, tx, generator).to(torch.complex64)
    x = complex_normal((5, tx, 3, 4), generator=generator)
    x_hat, no_eff = lmmse_equalize((h * x[:, None]).sum(dim=2), h, no=0.0)
    torch.testing.assert_close(x_hat, x, rtol=1e-3, atol=1e-3)  # single precision, ill-conditioned 4 x 3 channels among them
    assert x_hat.dtype == torch.complex64
    assert bool((no_eff < 1e-6).all())


def test_a_stream_that_is_not_heard_says_so() -> None:
    h = torch.zeros(2, 2, 1, 1, dtype=torch.complex64)
    h[:, 0] = 1.0
    for no in (0.0, 0.1):
        x_hat, no_eff = lmmse_equalize(torch.ones(2, 1, 1, dtype=torch.complex64), h, no=no)
        assert x_hat[1] == 0
        assert no_eff[1] == torch.inf
        sinr = post_equalization_sinr(torch.ones_like(h), h, no=no)
        assert sinr[1] == 0
        assert bool(torch.isfinite(sinr).all())


def test_noise_may_differ_by_batch_and_antenna(generator: torch.Generator) -> None:
    h = channels(2, 1, generator)
    y = complex_normal((5, 2, 3, 4), generator=generator, dtype=torch.complex128)
    no = torch.tensor([[0.1, 1e6]], dtype=torch.float64).expand(5, 2)
    x_hat, _ = lmmse_equalize(y, h, no=no)
    alone, _ = lmmse_equalize(y[:, :1], h[:, :1], no=0.1)
    torch.testing.assert_close(x_hat, alone, rtol=1e-3, atol=1e-3)  # an antenna of 70 dB more noise counts for nothing


def test_large_err_var_moves_weight_to_the_other_antenna(generator: torch.Generator) -> None:
    h = channels(2, 1, generator)
    y = complex_normal((5, 2, 3, 4), generator=generator, dtype=torch.complex128)
    err_var = torch.zeros(2, 1, 1, 1, dtype=torch.float64)
    err_var[1] = 1e6
    torch.testing.assert_close(
        lmmse_equalize(y, h, err_var, 0.1).x_hat, lmmse_equalize(y[:, :1], h[:, :1], no=0.1).x_hat, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("tx", [1, 2])
def test_lazy_conjugates_are_numbers_like_any_other(tx: int, generator: torch.Generator) -> None:
    h = channels(2, tx, generator)
    y = complex_normal((5, 2, 3, 4), generator=generator, dtype=torch.complex128)
    lazy, plain = h.conj(), h.conj().resolve_conj()
    assert lazy.is_conj()
    assert torch.equal(lmmse_equalize(y, lazy, no=0.1).x_hat, lmmse_equalize(y, plain, no=0.1).x_hat)
    assert torch.equal(post_equalization_sinr(lazy, lazy, no=0.1), post_equalization_sinr(plain, plain, no=0.1))


def test_empty_batch(generator: torch.Generator) -> None:
    h = channels(2, 2, generator)[:0]
    x_hat, no_eff = lmmse_equalize(h[:, :, 0], h, no=0.1)
    assert x_hat.shape == no_eff.shape == (0, 2, 3, 4)


H = torch.ones(2, 2, 1, 3, 4, dtype=torch.complex64)
Y = torch.ones(2, 2, 3, 4, dtype=torch.complex64)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: lmmse_equalize(Y[:, :1], H, None, 0.1), ShapeError, "y has shape"),
        (lambda: lmmse_equalize(Y, H[0, 0, 0], None, 0.1), ShapeError, "h_hat has shape"),
        (lambda: lmmse_equalize(Y, H.real, None, 0.1), InvalidTypeError, "h_hat"),
        (lambda: lmmse_equalize(Y * float("nan"), H, None, 0.1), InvalidValueError, "y holds"),
        (lambda: lmmse_equalize(Y, H * float("nan"), None, 0.1), InvalidValueError, "h_hat holds"),
        (lambda: lmmse_equalize(Y, H, -torch.ones(1), 0.1), InvalidValueError, "err_var=-1"),
        (lambda: lmmse_equalize(Y, H, torch.ones(5), 0.1), ShapeError, "err_var has shape"),
        (lambda: lmmse_equalize(Y, H, H, 0.1), InvalidTypeError, "err_var"),
        (lambda: lmmse_equalize(Y, H, None, -0.1), InvalidValueError, "no=-0.1"),
        (lambda: post_equalization_sinr(H[:1], H), ShapeError, "must be equal"),
    ],
)
def test_bad_input(call: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        call()
    assert "\n" not in str(caught.value)
