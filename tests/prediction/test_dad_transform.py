"""The transform to beams and delays: an isometry that keeps what can occur and nothing else."""

from __future__ import annotations

import math

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError
from wichan.prediction.dad_transform import DelayAngle, PanelShape, delay_basis, panel_shape
from wichan.random import complex_normal


@pytest.mark.parametrize(("subcarriers", "max_delay"), [(300, 0.15), (64, 0.3), (24, 0.15), (5, 0.15), (1, 0.15), (40, 1.0)])
def test_the_basis_is_orthonormal(subcarriers: int, max_delay: float) -> None:
    basis = delay_basis(subcarriers, max_delay)
    assert basis.shape[1] <= subcarriers
    eye = torch.eye(basis.shape[1], dtype=basis.dtype)
    torch.testing.assert_close(basis.mH @ basis, eye, rtol=0, atol=1e-12)  # double precision


@pytest.mark.parametrize("subcarriers", [100, 300])
def test_every_delay_of_the_window_is_kept_and_late_ones_are_not(subcarriers: int) -> None:
    basis, k = delay_basis(subcarriers, 0.15), torch.arange(subcarriers, dtype=torch.float64)

    def kept(delays: torch.Tensor) -> torch.Tensor:
        waves = torch.polar(torch.ones(1, dtype=torch.float64), -2 * math.pi * k[:, None] * delays) / math.sqrt(subcarriers)
        return (basis.mH @ waves).abs().square().sum(0)

    inside = kept(torch.linspace(0, 0.15, 333, dtype=torch.float64))
    assert 1 - float(inside.min()) < 1e-4  # as documented
    # Far side lobes fall as 1 / (pi n)^2, n = 0.1 F and more, times the bins that they reach: a few per cent.
    assert float(kept(torch.linspace(0.3, 0.9, 99, dtype=torch.float64)).max()) < 0.1


def test_a_column_is_concentrated_around_its_delay() -> None:
    basis, k = delay_basis(300, 0.15), torch.arange(300, dtype=torch.float64)
    power = (basis.mH @ torch.polar(torch.ones(300, dtype=torch.float64), -2 * math.pi * k * 0.07)).abs().square()
    around = slice(int(power.argmax()) - 3, int(power.argmax()) + 4)
    assert float(power[around].sum() / power.sum()) > 0.9  # a sinc holds 94 % within three bins


@pytest.mark.parametrize(("rx", "tx", "panel"), [(32, 1, None), (8, 2, None), (1, 8, None), (3, 1, None), (12, 1, (3, 2, 2))])
def test_analysis_is_the_adjoint_and_a_left_inverse_of_synthesis(
    generator: torch.Generator, rx: int, tx: int, panel: tuple[int, int, int] | None
) -> None:
    transform = DelayAngle(rx, tx, 60, panel=panel)
    h = complex_normal((2, rx, tx, 5, 60), generator=generator, dtype=torch.complex128)
    x = transform.analyse(h)
    assert x.shape == (2, transform.copies, transform.shape.columns, transform.shape.rows, 5, transform.num_delays)
    again = complex_normal(x.shape, generator=generator, dtype=torch.complex128)
    back = transform.synthesise(again)
    assert back.shape == h.shape
    torch.testing.assert_close(transform.analyse(back), again)
    torch.testing.assert_close((x.conj() * again).sum(), (h.conj() * back).sum())


def test_a_plane_wave_on_a_beam_fills_one_beam_of_both_polarisations() -> None:
    row, column = torch.arange(4.0), torch.arange(4.0)
    steer = torch.polar(torch.ones(4, 4), 2 * math.pi * (column[:, None] * 1 + row * 3) / 4).flatten()
    h = torch.cat([steer, 0.5 * steer])[None, :, None, None, None].expand(1, 32, 1, 2, 300)
    power = DelayAngle(32, 1, 300).analyse(h).abs().square().sum((0, 4, 5))
    assert tuple(power.shape) == (2, 4, 4)
    for polarization, share in ((0, 0.8), (1, 0.2)):
        # Single precision: 1e-6 of the power.
        assert float(power[polarization, 1, 3] / power.sum()) == pytest.approx(share, abs=1e-5)


@pytest.mark.parametrize(("rx", "tx"), [(12, 2), (2, 12), (12, 1)])
def test_powers_of_the_panel_go_to_its_antennas(rx: int, tx: int) -> None:
    transform = DelayAngle(rx, tx, 20, panel=(3, 2, 2))
    power = torch.arange(6.0).reshape(1, 2, 3, 1)
    out = transform.antennas(power)
    assert out.shape == (1, rx, tx, 1)
    panel_first = out[0, :, :, 0] if rx > tx else out[0, :, :, 0].T
    for copy in range(min(rx, tx)):
        assert panel_first[:, copy].tolist() == [*range(6), *range(6)]


@pytest.mark.parametrize(
    ("antennas", "shape"), [(32, (2, 4, 4)), (8, (2, 2, 2)), (2, (2, 1, 1)), (1, (1, 1, 1)), (7, (7, 1, 1)), (16, (16, 1, 1))]
)
def test_layouts_are_inferred(antennas: int, shape: tuple[int, int, int]) -> None:
    assert panel_shape(antennas) == PanelShape(*shape)


def test_a_panel_is_rows_columns_polarizations() -> None:
    assert panel_shape(12, (3, 2, 2)) == PanelShape(polarizations=2, columns=2, rows=3)
    with pytest.raises(InvalidValueError, match=r"panel=\(4, 4, 1\) has 16 antennas; the channel has 32"):
        panel_shape(32, (4, 4, 1))
    with pytest.raises(InvalidValueError, match=r"panel='4x4' must be \(rows, columns, polarizations\)"):
        panel_shape(32, "4x4")
    with pytest.raises(InvalidTypeError, match=r"panel\[1\]=2.0 must be an integer"):
        panel_shape(32, (4, 2.0, 4))
    with pytest.raises(InvalidValueError, match=r"panel\[2\]=0 must be at least 1"):
        panel_shape(32, (4, 4, 0))


def test_a_basis_made_in_inference_mode_serves_calls_with_gradients() -> None:
    delay_basis.cache_clear()
    with torch.inference_mode():
        delay_basis(21, 0.15)
    x = torch.ones(21, 1, dtype=torch.complex128, requires_grad=True)
    (delay_basis(21, 0.15).mH @ x).abs().square().sum().backward()
    assert x.grad is not None
