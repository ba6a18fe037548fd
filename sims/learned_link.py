"""Block error rate of a coded Sionna link with learned channel estimators: ``python sims/learned_link.py``.

One antenna each side, 14 symbols x 120 subcarriers at 15 kHz, LDPC code of rate 1/2, 16-QAM, one codeword a frame. The pilots
are those of ``ofdm-siso`` (every third subcarrier of symbols 2, 5, 8 and 11), for which the released networks are trained, as a
pilot pattern of Sionna's; channels are that recipe's, TDL-A with a delay spread (25 to 300 ns) and a Doppler (0 to 1.9 kHz)
drawn anew for each frame. Nothing but the received grid and the noise variance reaches a receiver, so AdaFortiTran, which
must be told conditions, estimates them from the pilots (``adafortitran-blind``). ``perfect`` knows the channel; ``ls`` is
Sionna's least squares with linear interpolation; the others are wichan's through `as_channel_estimator`. Equaliser, demapper
and decoder are the same for all, and so are bits, channels and noise.

Writes learned_link.csv and learned_link.png into ``--out``; ``--weights adafortitran=PATH`` takes another weight file.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wichan.errors import WichanError

RECIPE = "ofdm-siso"
RECEIVERS = {
    "perfect": "perfect channel knowledge",
    "ls": "least squares (Sionna)",
    "lmmse-pooled": "LMMSE, pooled covariance",
    "fortitran": "FortiTran",
    "adafortitran-blind": "AdaFortiTran, conditions estimated",
    "delay-doppler-mixture": "delay-Doppler mixture",
}
SNR_DB = (7.0, 10.0, 13.0, 16.0, 19.0)
BITS, RATE, ITERATIONS, SEED = 4, 0.5, 20, 1
Receiver = Callable[[torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]]


class CodedLink:
    """Sionna's transmitter and receiver around a channel estimator.

    Args:
        observation: the pilots.
        size: frames in a chunk.
    """

    def __init__(self, observation: Any, size: int) -> None:
        from link.decoder import StoppingDecoder
        from sionna.phy.channel import ApplyOFDMChannel
        from sionna.phy.fec.ldpc import LDPC5GEncoder
        from sionna.phy.mapping import BinarySource, Demapper, Mapper
        from sionna.phy.mimo import StreamManagement
        from sionna.phy.ofdm import LMMSEEqualizer, ResourceGridMapper

        from wichan.integrations.sionna import resource_grid_of

        self.size, self.resource_grid = size, resource_grid_of(observation)
        n = int(self.resource_grid.num_data_symbols) * BITS
        self.k = int(n * RATE)
        self.encoder = LDPC5GEncoder(self.k, n, num_bits_per_symbol=BITS)
        self.decoder = StoppingDecoder(self.encoder, ITERATIONS)
        self._source, self._mapper, self._demapper = BinarySource(), Mapper("qam", BITS), Demapper("app", "qam", BITS)
        self._to_grid, self._channel = ResourceGridMapper(self.resource_grid), ApplyOFDMChannel()
        self._equalizer = LMMSEEqualizer(self.resource_grid, StreamManagement(np.ones([1, 1]), 1))

    def chunks(self, snr_db: float) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Bits, channel and received grid of one chunk after the other, in Sionna's axes; the same channels at every SNR."""
        from wichan.integrations.sionna import isolated_rng
        from wichan.random import derive_seed
        from wichan.simulate import stream

        channels = stream(RECIPE, batch_size=self.size, split="test", seed=SEED, columns=["h"], snr_db=snr_db)
        for number, batch in enumerate(channels):
            h = batch.h[:, None, :, None]
            with isolated_rng(derive_seed(SEED, "frames", number)):  # Sionna draws from generators of its own
                bits = self._source([self.size, 1, 1, self.k])
                sent = self._to_grid(self._mapper(self.encoder(bits)))
                yield bits, h, self._channel(sent, h, torch.tensor(no_of(snr_db)))

    def bit_errors(self, bits: torch.Tensor, y: torch.Tensor, estimate: Any, no: float) -> torch.Tensor:
        """Equalise, demap, decode: wrong bits of each block, int64 (size, 1)."""
        x_hat, no_eff = self._equalizer(y, *estimate, torch.tensor(no))
        return (self.decoder(self._demapper(x_hat, no_eff)) != bits).sum(dim=-1)[:, 0]


def no_of(snr_db: float) -> float:
    """Noise variance; pilots, data and channels have power 1."""
    return 10 ** (-snr_db / 10)


def make_receivers(link: CodedLink, setting: Any, options: argparse.Namespace) -> dict[str, Receiver]:
    """Receivers by name, each ``(y, h, no) -> (h_hat, err_var)`` of which only the first looks at ``h``."""
    from sionna.phy.ofdm import LSChannelEstimator
    from sweeps.lineup import build

    from wichan.integrations.sionna import as_channel_estimator

    own = [name for name in options.receivers if name not in ("perfect", "ls")]
    made, left_out = build(setting, own, dict(options.weights), lenient=options.quick)
    for name, why in left_out.items():
        print(f"left out: {name}: {why}", flush=True)
    found: dict[str, Receiver] = {}
    for name in options.receivers:
        if name == "perfect":
            found[name] = lambda y, h, no: (h, torch.zeros(1))
        elif name == "ls":
            found[name] = _behind(LSChannelEstimator(link.resource_grid, interpolation_type="lin"))
        elif name in made:
            estimator: Any = made[name].estimator
            found[name] = _behind(as_channel_estimator(estimator.eval(), link.resource_grid))
    return found


def _behind(estimator: Any) -> Receiver:
    return lambda y, h, no: estimator(y, torch.tensor(no))


def measure(link: CodedLink, receivers: dict[str, Receiver], snr_db: float, num_blocks: int) -> Any:
    """Count errors of all receivers on the same frames."""
    from link.counts import Tally

    tally, begin, no = Tally(list(receivers), 1, link.k), time.monotonic(), no_of(snr_db)
    spent = dict.fromkeys(receivers, 0.0)
    for bits, h, y in link.chunks(snr_db):
        wrong, errors, claimed = [], [], []
        for name, receiver in receivers.items():
            started = time.process_time()
            h_hat, err_var = receiver(y, h, no)
            spent[name] += time.process_time() - started
            wrong.append(link.bit_errors(bits, y, (h_hat, err_var), no))
            errors.append((h_hat - h).abs().square().flatten(1).sum(1))
            claimed.append(err_var.double().mean() * h[0].numel())
        tally.add(torch.stack(wrong), torch.stack(errors), h.abs().square().flatten(1).sum(1), torch.stack(claimed))
        if tally.frames >= num_blocks:
            break
    pace = ", ".join(f"{name} {1e3 * seconds / tally.frames:.1f}" for name, seconds in spent.items() if name != "perfect")
    head = f"{snr_db:g} dB: {tally.frames} blocks in {time.monotonic() - begin:.0f} s"
    print(f"{head}; estimation [CPU ms a frame]: {pace}", flush=True)
    return tally


# -- What is written. --


def rows_of(points: dict[float, Any]) -> list[dict[str, Any]]:
    """One line an SNR and receiver. Eb is the energy of an information bit on the data elements, pilots not counted."""
    rows = []
    for snr, tally in points.items():
        for name in tally.receivers:
            row: dict[str, Any] = {"snr_db": snr, "ebno_db": round(snr - 10 * math.log10(BITS * RATE), 4), "receiver": name}
            row |= {"blocks": tally.frames, "block_errors": tally.block_errors(name)}
            for key, rate in (("bler", tally.bler(name)), ("ber", tally.ber(name)), ("nmse", tally.nmse(name))):
                row |= {key: rate.value, f"{key}_low": rate.low, f"{key}_high": rate.high}
            rows.append(row | {"err_var_over_power": tally.promised(name)})
    return rows


def table(points: dict[float, Any]) -> str:
    """BLER with its interval, and NMSE, a line a receiver."""
    lines = [f"{'BLER [95 %]':28s}" + "".join(f"{f'{snr:g} dB':>22s}" for snr in points)]
    receivers = next(iter(points.values())).receivers
    for name in receivers:
        cells = (tally.bler(name) for tally in points.values())
        lines.append(f"{name:28s}" + "".join(f"{f'{c.value:.3f} [{c.low:.3f}, {c.high:.3f}]':>22s}" for c in cells))
    lines.append("\nNMSE of the channel, and in brackets what err_var says [dB]")
    for name in receivers:
        if name != "perfect":
            pairs = ((tally.nmse(name).value, tally.promised(name)) for tally in points.values())
            lines.append(f"{name:28s}" + "".join(f"{f'{_db(made):.2f} ({_db(said):.2f})':>22s}" for made, said in pairs))
    return "\n".join(lines)


def _db(ratio: float) -> float:
    return 10 * math.log10(ratio) if ratio > 0 else -math.inf


def draw(points: dict[float, Any], path: Path) -> None:
    """BLER and NMSE over the SNR with 95 % bands."""
    from wichan.evaluation.figure import MARKERS, PALETTE, figure_canvas, save_png

    snr, names = list(points), next(iter(points.values())).receivers
    blocks = min(tally.frames for tally in points.values())
    with figure_canvas(9.2, 4.6, 2) as (picture, axes):
        for name in names:
            style = list(RECEIVERS).index(name)
            colour, marker = ("black", "") if name == "perfect" else (PALETTE[style - 1], MARKERS[style - 1])
            line = "--" if name == "perfect" else "-"
            for axis, kind in zip(axes, ("bler", "nmse"), strict=True):
                if kind == "nmse" and name == "perfect":
                    continue
                rates = [getattr(tally, kind)(name) for tally in points.values()]
                band = [[max(getattr(rate, field), 1e-6) for rate in rates] for field in ("value", "low", "high")]
                if kind == "nmse":
                    band = [[_db(value) for value in part] for part in band]
                else:  # no wrong block: drawn at half of one
                    band[0] = [max(value, 0.5 / blocks) for value in band[0]]
                axis.fill_between(snr, band[1], band[2], color=colour, alpha=0.15, linewidth=0)
                axis.plot(snr, band[0], line, color=colour, marker=marker, label=RECEIVERS[name])
        axes[0].set_yscale("log")
        axes[0].set_ylim(0.3 / blocks, 1.3)
        axes[0].set_ylabel("block error rate")
        axes[1].set_ylabel("NMSE of the channel [dB]")
        for axis in axes:
            axis.set_xlabel("SNR [dB]")
        handles, labels = axes[0].get_legend_handles_labels()
        picture.legend(handles, labels, loc="outside lower center", ncols=3)
        title = f"Sionna link, LDPC 1/2, 16-QAM, TDL-A as in {RECIPE}; {blocks} blocks a point, bands 95 %"
        picture.suptitle(title, fontsize=9.5)
        save_png(picture, path)


# -- The command. --


def parser() -> argparse.ArgumentParser:
    """The command line."""
    from sweeps.lineup import weight_file

    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--receivers", nargs="+", choices=list(RECEIVERS), default=list(RECEIVERS), metavar="NAME")
    made.add_argument("--points", nargs="+", type=float, default=list(SNR_DB), metavar="DB", help="SNRs [dB]")
    made.add_argument("--blocks", type=int, default=512, help="blocks a point, in chunks of 64 (default 512)")
    made.add_argument("--weights", nargs="+", type=weight_file, default=[], metavar="MODEL=PATH", help="other weight files")
    made.add_argument("--out", type=Path, help="folder (default results/learned_link; --quick: ...-quick)")
    made.add_argument("--quick", action="store_true", help="a smoke run: two points of 4 blocks; what is not there is left out")
    return made


def main(argv: list[str] | None = None) -> int:
    """Simulate, print and draw."""
    options = parser().parse_args(argv)
    out = options.out or Path("results/learned_link" + ("-quick" if options.quick else ""))
    begin = time.monotonic()
    try:
        from wichan.evaluation import Setting
        from wichan.integrations.sionna import require_sionna
        from wichan.simulate import load_recipe

        require_sionna("sims/learned_link.py")
        setting = Setting.of(load_recipe(RECIPE))
        link = CodedLink(setting.observation, 4 if options.quick else 64)
        receivers = make_receivers(link, setting, options)
        chosen = options.points[1:4:2] if options.quick else options.points
        with torch.no_grad():
            points = {snr: measure(link, receivers, snr, 4 if options.quick else options.blocks) for snr in chosen}
    except WichanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    rows = rows_of(points)
    with (out / "learned_link.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print("\n" + table(points))
    draw(points, out / "learned_link.png")
    print(f"\n{time.monotonic() - begin:.0f} s; wrote {out}/learned_link.{{csv,png}}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
