"""Run points chunk by chunk, keep the counts, and report."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from link import report
from link.counts import Tally, read_json, write_json
from link.receivers import RECEIVERS, SEARCHES, Estimator, make_receivers
from link.setting import Frames, Link, Setting

from wichan.errors import InvalidValueError
from wichan.integrations.sionna.require import sionna_versions
from wichan.store.records import current_versions

#: Every link gets a share of its block errors before any gets all, so that a run that is cut short shows all of them.
_SHARES = (0.25, 1.0)
_EVERY = 60.0  # seconds between progress lines


@dataclass(frozen=True)
class Plan:
    """What to run, how far, and where to."""

    setting: Setting
    points: dict[str, tuple[float, ...]]
    receivers: list[str]
    out: Path
    min_errors: int
    min_frames: int
    max_frames: int
    max_time: float | None = None
    search: bool = True  # for the peers' best settings

    @property
    def counts(self) -> Path:
        """The file that holds what was counted."""
        return self.out / "counts.json"


def simulate(plan: Plan, *, dry: bool = False) -> dict[str, Any]:
    """Run what is missing and return the state: setting, receivers, settings of the peers and counts; ``dry``: only read it."""
    state = _load(plan, dry)
    deadline = math.inf if plan.max_time is None else time.monotonic() + plan.max_time
    for share in () if dry else _SHARES:
        for name, points in plan.points.items():
            link: Link | None = None
            for snr in points:
                if time.monotonic() >= deadline:
                    break
                stop = _stopper(plan, share, deadline)
                tally = _tally(state, plan, name, snr)
                if tally is not None and stop(tally):
                    continue
                link = link or Link(name, plan.setting)
                _run_point(plan, state, link, snr, tally, stop)
            if time.monotonic() >= deadline:
                print("time is up; run again to go on", flush=True)
                return state
    return state


def _load(plan: Plan, dry: bool) -> dict[str, Any]:
    fresh = {"setting": plan.setting.as_json(), "receivers": plan.receivers, "versions": _versions()}
    fresh |= {"searches": {}, "counts": {}}
    state = read_json(plan.counts)
    if dry and not state:
        raise InvalidValueError(f"--plot-only: {plan.counts} is not there; run without it first")
    # Other versions may draw other frames; what was counted can still be looked at.
    for key in ("setting", "receivers") if dry else ("setting", "receivers", "versions"):
        if state and state.get(key) != fresh[key]:
            raise InvalidValueError(f"{plan.counts} holds another {key}: {state.get(key)}; choose another folder with --out")
    return state or fresh


def _tally(state: dict[str, Any], plan: Plan, name: str, snr: float) -> Tally | None:
    kept = state["counts"].get(name, {}).get(repr(snr))
    return None if kept is None else Tally.from_json(kept, plan.receivers, kept["num_streams"], kept["k"])


def _stopper(plan: Plan, share: float, deadline: float) -> Callable[[Tally], bool]:
    def stop(tally: Tally) -> bool:
        if tally.frames >= plan.max_frames or time.monotonic() >= deadline:
            return True
        fewest = min(tally.block_errors(name) for name in plan.receivers)
        return tally.frames >= share * plan.min_frames and fewest >= share * plan.min_errors

    return stop


def _run_point(
    plan: Plan, state: dict[str, Any], link: Link, snr: float, tally: Tally | None, stop: Callable[[Tally], bool]
) -> None:
    chosen = {name: _chosen(plan, state, link, name) for name in SEARCHES if name in plan.receivers}
    receivers = make_receivers(link, plan.receivers, snr, chosen)
    tally = tally or Tally(plan.receivers, link.num_streams, link.k)
    counts = state["counts"].setdefault(link.name, {})
    started = said = time.monotonic()
    before = tally.frames
    while not tally.frames or not stop(tally):
        _count(tally, link, receivers, link.frames(snr, tally.chunks))
        counts[repr(snr)] = tally.as_json() | {"num_streams": link.num_streams, "k": link.k}
        write_json(plan.counts, state)
        if time.monotonic() - said > _EVERY:
            said = time.monotonic()
            _say(link, snr, tally, said - started, before)
    _say(link, snr, tally, time.monotonic() - started, before)


def _chosen(plan: Plan, state: dict[str, Any], link: Link, name: str) -> str:
    """A peer's best setting on this link (interpolation, order of passes), found once in the middle of its SNR range."""
    search, usual = SEARCHES[name]
    if not plan.search:
        return usual
    found = state["searches"].setdefault(link.name, {})
    if name not in found:
        middle = link.snr_db[len(link.snr_db) // 2]
        found[name] = {"snr_db": middle, "nmse_db": search(link, middle)}
        shown = ", ".join(f"{kind} {value:.2f}" for kind, value in found[name]["nmse_db"].items())
        print(f"{link.name}: NMSE [dB] of {RECEIVERS[name]} at {middle:g} dB: {shown}", flush=True)
    return next(iter(found[name]["nmse_db"]))


def _count(tally: Tally, link: Link, receivers: dict[str, Estimator], frames: Frames) -> None:
    bits, errors, reported = [], [], []
    for estimate in receivers.values():
        h_hat, err_var = estimate(frames)
        bits.append(link.bit_errors(frames, h_hat, err_var))
        errors.append((h_hat - frames.h).abs().square().flatten(1).sum(dim=1))
        reported.append(err_var.double().mean() * frames.h[0].numel())
    energy = frames.h.abs().square().flatten(1).sum(dim=1)
    tally.add(torch.stack(bits), torch.stack(errors), energy, torch.stack(reported))


def _say(link: Link, snr: float, tally: Tally, seconds: float, before: int) -> None:
    errors = " ".join(f"{name}={tally.block_errors(name)}" for name in tally.receivers)
    pace = 1e3 * seconds / max(tally.frames - before, 1)
    print(f"{link.name} {snr:g} dB: {tally.frames} frames, wrong blocks {errors}, {pace:.0f} ms a frame", flush=True)


def finish(plan: Plan, state: dict[str, Any]) -> None:
    """Print the tables, write CSV and JSON, draw the picture."""
    points: report.Points = {}
    for name in plan.points:
        kept = sorted(state["counts"].get(name, {}), key=float)
        tallies = {float(snr): _tally(state, plan, name, float(snr)) for snr in kept}
        points |= {name: {snr: tally for snr, tally in tallies.items() if tally is not None}} if tallies else {}
    if not points:
        raise InvalidValueError(f"{plan.counts} holds no point of {', '.join(plan.points)}; give it more --max-time")
    others = [name for name in ("sionna-lmmse", "ls") if name in plan.receivers and report.REFERENCE in plan.receivers]
    for name, found in points.items():
        print("\n" + report.table(name, found, plan.min_errors))
        for other in others[:1]:
            print("\n" + report.pair_table(name, found, other))
    lines = [report.verdict(points, other) for other in others]
    print("\n" + "\n".join(lines))
    about = {key: state[key] for key in ("setting", "searches", "versions")}
    about |= {"min_errors": plan.min_errors, "verdict": lines}
    report.write_summary(points, plan.out / "link_level", about, plan.min_errors)
    report.draw(points, plan.out / "link_level.png", RECEIVERS, _subtitle(plan), plan.min_errors)


def _versions() -> dict[str, str]:
    return current_versions() | sionna_versions()


def _subtitle(plan: Plan) -> str:
    setting = plan.setting
    parts = [f"16-QAM, LDPC rate 1/2, profile {setting.profile}, {setting.delay_spread * 1e9:.0f} ns"]
    parts.append(f"{setting.speed * 3.6:.0f} km/h at {setting.carrier_frequency / 1e9:g} GHz")
    parts.append(f"bands are 95 % intervals, hollow: fewer than {plan.min_errors} block errors")
    return ", ".join(parts)
