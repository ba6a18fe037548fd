"""Recipes of kind ``quantized``: channels of any source behind coarse converters."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field

from wichan.errors import InvalidValueError, WichanError
from wichan.grid import OFDMGrid
from wichan.observations.quantized import QuantizedPilots, pilot_sequence
from wichan.observations.quantizer import check_bits
from wichan.simulate.interference import Interference
from wichan.simulate.link import build_pilots, named
from wichan.simulate.ofdm import GridSection, OFDMRecipe, OFDMSampler
from wichan.simulate.schema import Count, Model, Real, validate
from wichan.simulate.sources import ChannelSource
from wichan.store import Column

# The matrix from channels to measurements is kept dense: 1 GiB in double precision.
MAX_MATRIX = 1 << 26
MAX_COMPONENTS = 1 << 16


def _resolution(value: Any) -> Any:
    """Bits as a recipe keeps them: whole numbers, and the word "inf", since JSON has no infinity."""
    if isinstance(value, (list, tuple)):
        return [_resolution(entry) for entry in value]
    if isinstance(value, str) and value.lower() in ("inf", "infinity", ".inf"):
        return "inf"
    if isinstance(value, str):
        raise ValueError(f"={value!r} must be a number of bits or inf")
    try:
        bits = check_bits("", value)
    except WichanError as error:  # pydantic collects ValueErrors only
        raise ValueError(str(error)) from None
    return "inf" if bits == math.inf else bits


def _components(value: Any) -> Any:
    if value == "auto":
        return value
    if isinstance(value, (bool, str)) or not isinstance(value, int) or not 1 <= value <= MAX_COMPONENTS:
        raise ValueError(f"={value!r} must be an integer from 1 to {MAX_COMPONENTS}, or auto")
    return value


Resolution = int | Literal["inf"]


class PilotSequence(Model):
    """``pilots:`` on a grid of one element: one block of pilots, each antenna's channel the same for all of them."""

    num_pilots: Annotated[Count, Field(le=4096)] = 1
    sequence: Literal["angle_amp", "angle", "ones"] = "angle_amp"

    def matrix(self, num_tx_ant: int) -> torch.Tensor:
        r"""Pilots of every transmit antenna, complex128 (num_tx_ant, num_pilots), with power 1 over all antennas together.

        .. math:: X_{tp} = \frac{x_p}{\sqrt{N_t}} e^{-j2\pi tp / \max(P, N_t)}
        """
        sequence = pilot_sequence(self.num_pilots, self.sequence)
        place = torch.outer(torch.arange(num_tx_ant), torch.arange(self.num_pilots)).double()
        phase = place * (-2 * math.pi / max(self.num_pilots, num_tx_ant))
        return torch.polar(torch.full_like(phase, num_tx_ant**-0.5), phase) * sequence


class QuantizerSection(Model):
    """``quantizer:`` the converters: bits for all receive antennas or a list with one entry an antenna."""

    num_bits: Annotated[Resolution | list[Resolution], BeforeValidator(_resolution)] = 1
    kind: Literal["uniform", "lloyd-max"] = "uniform"
    dither_power: Annotated[Real, Field(ge=0, le=1e6)] = 0.0

    def bits(self, num_rx_ant: int) -> float | list[float]:
        """One resolution, or one an antenna."""
        if not isinstance(self.num_bits, list):
            return float(self.num_bits) if self.num_bits == "inf" else self.num_bits
        if len(self.num_bits) != num_rx_ant:
            raise InvalidValueError(f"num_bits has {len(self.num_bits)} entries; the channel has {num_rx_ant} receive antennas")
        return [float(entry) if entry == "inf" else entry for entry in self.num_bits]


class PriorSection(Model):
    """``prior:`` how an evaluation fits priors to the recipe's channels; it has no part in the samples."""

    num_train: Count = 30_000
    train_snr_db: Annotated[Real, Field(ge=-100, le=200)] = 10.0  # of quantised pilots that a prior is learned from
    num_components: Annotated[int | Literal["auto"], BeforeValidator(_components)] = 64
    num_factors: Count = 16
    structure: Literal["full", "toeplitz", "block-toeplitz", "circulant", "block-circulant"] = "full"
    max_iter: Count = 60
    tol: Annotated[Real, Field(ge=0)] = 1e-3
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None


class QuantizedRecipe(OFDMRecipe):
    """A recipe of kind ``quantized``: that of kind ``ofdm`` with converters, by default on a grid of one element.

    Channels are scaled to E|h|^2 = 1, which is what the converters' gain control assumes.
    """

    grid: GridSection = GridSection(num_ofdm_symbols=1, num_subcarriers=1, subcarrier_spacing=15e3)
    source: str = "spatial"
    pilots: dict[str, Any] = {}
    quantizer: QuantizerSection = QuantizerSection()
    prior: PriorSection = PriorSection()
    snr_convention: Literal["quantised"] = "quantised"  # type: ignore[assignment]
    normalize: Literal["ensemble"] = "ensemble"

    @property
    def has_sequence(self) -> bool:
        """Whether the pilots are a plain sequence and no pattern on an OFDM grid."""
        return self.grid.num_ofdm_symbols * self.grid.num_subcarriers == 1 and "pattern" not in self._pilots

    @property
    def _pilots(self) -> dict[str, Any]:
        # null takes a setting away, as among the conditions.
        return {name: value for name, value in self.pilots.items() if value is not None}

    def build_observation(self, grid: OFDMGrid, source: ChannelSource) -> QuantizedPilots:
        """Build pilots and converters, for channels with the library's four axes."""
        rx, tx = source.num_rx_ant, source.num_tx_ant
        bits = named("quantizer", lambda: self.quantizer.bits(rx))
        options = {"kind": self.quantizer.kind, "dither_power": self.quantizer.dither_power}
        if not self.has_sequence:
            return self._ofdm(grid, source, bits, options)
        pilots: PilotSequence = validate(PilotSequence, self._pilots, "pilots")
        rows = pilots.num_pilots * rx
        if rows * rx * tx > MAX_MATRIX:
            raise InvalidValueError(
                f"pilots.num_pilots={pilots.num_pilots} with {rx} x {tx} antennas asks for a matrix of {rows * rx * tx} "
                f"entries; at most {MAX_MATRIX} are allowed"
            )
        every = bits * pilots.num_pilots if isinstance(bits, list) else bits  # measurements run pilot by pilot
        shape = (rx, tx, 1, 1)
        return QuantizedPilots.from_sequence(pilots.matrix(tx), rx, every, channel_shape=shape, **options)

    def _ofdm(self, grid: OFDMGrid, source: ChannelSource, bits: Any, options: dict[str, Any]) -> QuantizedPilots:
        """Converters that see the time signal of OFDM symbols."""
        from wichan.observations.quantized_waveform import quantized_ofdm

        for name in PilotSequence.model_fields:
            if name in self._pilots:
                raise InvalidValueError(
                    f"pilots.{name} does not apply: it is for a grid of one element; a larger one takes pilots.pattern"
                )
        pilots = build_pilots(grid, self._pilots, source.num_tx_ant)
        return named("quantizer", lambda: quantized_ofdm(pilots, bits, source.num_rx_ant, **options))


class QuantizedSampler(OFDMSampler):
    """Blocks as of kind ``ofdm``, with what the converters give in ``y``."""

    schema = QuantizedRecipe  # type: ignore[assignment]
    recipe: QuantizedRecipe

    def _received(self) -> Column:
        bits = self.recipe.quantizer.num_bits
        kind = "mixed" if isinstance(bits, list) else "ideal" if bits == "inf" else f"{bits}-bit"
        text = f"output of {kind} converters, " + ("pilot by pilot" if self.recipe.has_sequence else "in time")
        return Column("y", "complex64", (self.observation.num_measurements,), ("num_measurements",), description=text)

    def interference(self) -> tuple[Interference, ...]:
        """Only for pilots on an OFDM grid: for a plain sequence the model, one coefficient an antenna, leaves out nothing."""
        return () if self.recipe.has_sequence else super().interference()
