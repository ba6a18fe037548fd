"""The PUSCH conformance experiment: its code, its statistics, and its link beside Sionna's own chain."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "sims"))

from pusch.cases import CASES
from pusch.crossing import crossing_of, estimate_crossing, missing_offsets
from pusch.ldpc import LayeredDecoder
from pusch.receivers import DESIGN_DELAY, DESIGN_DOPPLER, GRID, NAMES, practical_covariance
from pusch.report import Store, draw, summarize, table, write_csv

# -- Statistics and files: no Sionna. --


def test_crossing_of_a_line_is_exact():
    snr_db = torch.tensor([-2.0, -1.0, 0.0], dtype=torch.float64)
    curves = torch.stack([0.5 + 0.15 * (snr_db + 2), 0.72 + 0.1 * (snr_db + 2), 0.3 + 0.1 * (snr_db + 2)], dim=1)
    # 0.5 + 0.15 t = 0.7 inside; the others cross beyond the left and the right end
    assert crossing_of(snr_db, curves).tolist() == pytest.approx([-2 + 4 / 3, -2.2, 2.0])


def test_crossing_ignores_a_dip_and_refuses_a_flat_curve():
    snr_db = torch.arange(4, dtype=torch.float64)
    dip = torch.tensor([[0.5, 0.65, 0.6, 0.9], [0.5, 0.5, 0.5, 0.5]], dtype=torch.float64).T
    found = crossing_of(snr_db, dip)
    assert float(found[0]) == pytest.approx(2.2)  # from (2, max(0.65, 0.6)) to (3, 0.9)
    assert bool(found[1].isnan())


def test_interval_covers_the_true_crossing(generator):
    """95 % intervals of 200 experiments: 190 expected, 3 standard deviations of a binomial count are 9.2, the bootstrap of
    60 runs is known to fall short by a few more."""
    snr_db = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    mean = 0.7 + 0.1 * snr_db
    covered = 0
    for _ in range(200):
        common = 0.2 * torch.randn(60, dtype=torch.float64, generator=generator)
        found = estimate_crossing(snr_db, mean[:, None] + common, resamples=200)
        covered += found.low <= 0 <= found.high
        assert found.low < found.snr_db < found.high
    assert 176 <= covered <= 199


def test_search_walks_until_the_target_is_enclosed():
    truth = {k: 0.7 + 0.05 * (k + 4.4) for k in range(-8, 4)}
    points: dict[int, float] = {}
    while wanted := missing_offsets(points, start=-2):
        points[wanted[0]] = truth[wanted[0]]
    assert sorted(points) == [-6, -5, -4, -3, -2]  # 0.62 <= 0.66 at -6; nothing measured above the start
    assert missing_offsets({12: 0.1}, start=-2) == []  # gives up at the limit


def test_store_resumes_and_refuses_other_settings(tmp_path):
    path = tmp_path / "conformance.json"
    store = Store(path, {"opportunities": 6, "seed": 1})
    store.row("qpsk-2rx", "practical")[-2] = [6, 3]
    store.save()
    again = Store(path, {"opportunities": 6, "seed": 1})
    assert again.throughput("qpsk-2rx", "practical") == {-2: 0.75}
    assert again.throughput("qpsk-2rx", "practical", least=3) == {}
    with pytest.raises(ValueError, match="choose another --output"):
        Store(path, {"opportunities": 6, "seed": 2})


def test_report_states_margin_and_draws(tmp_path):
    store = Store(tmp_path / "conformance.json", {"opportunities": 6})
    for name in NAMES:
        store.row("16qam-4rx", name).update({-3: [3, 4, 2, 3] * 5, -2: [6, 5, 6, 5] * 5})
    rows = summarize(store)
    # means 0.5 and 0.9167: 0.7 is crossed 0.48 dB after the first point, 6.2 - 3 dB
    assert rows[0]["practical"]["snr_db"] == pytest.approx(3.68)
    assert rows[0]["practical"]["margin_db"] == pytest.approx(2.52)
    assert "TDLC300-100, 1x4, G-FR1-A4-8 (16QAM) | 6.2 | 3.7" in table(rows) and "**+2.5**" in table(rows)
    write_csv(store, tmp_path / "points.csv")
    assert (tmp_path / "points.csv").read_text().count("\n") == 1 + 2 * len(NAMES)
    draw(store, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"


class StubLink:
    """Throughput 0.7 at the requirement minus 3 dB, rising by 0.1 a dB; counts its calls."""

    calls = 0

    def __init__(self, case):
        self.case = case

    def run(self, snr_db, num_runs, *, generator, names, opportunities):
        StubLink.calls += 1
        share = 0.7 + 0.1 * (snr_db - self.case.requirement_db + 3)
        whole = torch.full((num_runs,), float(share), dtype=torch.float64)
        return dict.fromkeys(names, (whole * opportunities).round() / opportunities)


def test_measurement_stops_in_time_and_continues_where_it_was(tmp_path, monkeypatch):
    import pusch.link
    from conformance import Budget, measure

    monkeypatch.setattr(pusch.link, "Link", StubLink)
    StubLink.calls = 0
    store = Store(tmp_path / "conformance.json", {"opportunities": 10})
    monkeypatch.setattr("conformance.OPPORTUNITIES", 10)
    assert not measure(store, "qpsk-4rx", 8, 4, Budget(0.0))
    assert StubLink.calls == 0
    assert measure(store, "qpsk-4rx", 8, 4, Budget(1e6))
    # offsets -2 (0.8), -3 (0.7) and -4 (0.6), two batches each, all receivers together
    assert StubLink.calls == 6
    again = Store(tmp_path / "conformance.json", {"opportunities": 10})
    assert measure(again, "qpsk-4rx", 8, 4, Budget(1e6)) and StubLink.calls == 6
    assert measure(again, "qpsk-4rx", 12, 4, Budget(1e6)) and StubLink.calls == 9  # more slots: one more batch a point
    assert again.throughput("qpsk-4rx", "perfect") == pytest.approx({-4: 0.6, -3: 0.7, -2: 0.8})
    assert summarize(again)[0]["practical"]["snr_db"] == pytest.approx(-8.8)


# -- Decoder and prior. --


def test_decoder_is_exact_on_a_tree(generator):
    """On a code without cycles belief propagation gives the bitwise posterior: here the sum over all eight codewords."""
    base = [[0, 0, 0, -1, -1, -1], [-1, -1, 0, 0, 0, -1], [-1, -1, -1, -1, 0, 0]]
    checks = torch.tensor([[int(shift >= 0) for shift in row] for row in base])
    words = torch.tensor(list(itertools.product((0, 1), repeat=6)))
    words = words[((words @ checks.T) % 2 == 0).all(1)]
    llr = 2 * torch.randn(200, 6, generator=generator)
    weight = torch.exp(-(llr.double() @ words.T.double()))
    posterior = (weight @ words.double()) / weight.sum(1, keepdim=True)
    clear = (posterior - 0.5).abs() > 1e-3  # not where single precision decides
    decoder = LayeredDecoder(base, 1, core_rows=3)
    decoder._violated = lambda bits, used: torch.ones(bits.shape[1], dtype=torch.bool)  # never stop early
    assert clear.float().mean() > 0.98
    assert torch.equal(decoder(llr)[clear], (posterior > 0.5)[clear])


def test_practical_prior_is_the_mean_over_uniform_delays_and_dopplers():
    """Against the mean over 4000 midpoints a side, whose error is far below 1e-6 here."""
    covariance = practical_covariance(2)
    middle = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    term = covariance.terms[0]
    time, frequency = term.time @ term.time.mH, term.frequency @ term.frequency.mH
    for t, f in ((0, 7), (3, 299), (9, 1)):
        doppler = torch.exp(2j * torch.pi * (2 * middle - 1) * DESIGN_DOPPLER * GRID.times[t]).mean()
        delay = torch.exp(-2j * torch.pi * middle * DESIGN_DELAY * f * 15e3).mean()
        assert abs(complex(time[t, 0] - doppler)) < 1e-6
        assert abs(complex(frequency[f, 0] - delay)) < 1e-6
    assert torch.allclose(covariance.mean_power(), torch.ones(1, dtype=torch.float64), atol=1e-8)


# -- The link, beside Sionna. --


@pytest.mark.sionna
def test_payloads_follow_from_rate_and_allocation():
    """Sizes of TS 38.214 clause 5.1.3.2; that of G-FR1-A1-1 (308/1024, same allocation) is printed as 2152 in TS 38.108."""
    from sionna.phy.nr import calculate_tb_size

    known = [(2, 308, 2152)] + [(c.channel.bits_per_symbol, c.channel.rate, c.channel.payload) for c in CASES.values()]
    for order, rate, payload in known:
        size = calculate_tb_size(order, rate / 1024, num_prbs=25, num_ofdm_symbols=14, num_dmrs_per_prb=24)[0]
        assert int(size) == payload


@pytest.mark.sionna
@pytest.mark.parametrize(("payload", "coded", "rate", "order"), [(9224, 14400, 658 / 1024, 4), (12040, 21600, 567 / 1024, 6)])
def test_first_transmission_equals_sionnas_transport_encoder(generator, payload, coded, rate, order):
    from pusch.transport import TransportChain
    from sionna.phy.nr import TBEncoder

    chain = TransportChain(payload, coded, rate, order, n_rnti=3, n_id=5)
    bits = torch.randint(0, 2, (2, payload), generator=generator).float()
    theirs = TBEncoder(payload, coded, rate, order, n_rnti=3, n_id=5)(bits)
    assert torch.equal(chain.transmissions(chain.buffers(chain.blocks(bits)))[0], theirs)


@pytest.mark.sionna
def test_redundancy_versions_add_up(generator):
    """Clean soft bits come back from version 0 and from 3 (both hold the payload), and fill the same buffer positions."""
    from pusch.transport import TransportChain

    chain = TransportChain(9224, 14400, 658 / 1024, 4)
    blocks = chain.blocks(torch.randint(0, 2, (3, 9224), generator=generator).float())
    buffers = chain.buffers(blocks)
    sent = chain.transmissions(buffers)
    assert chain.encoder.rv_starts == [0, 17 * 224, 33 * 224, 56 * 224]  # k_0 of TS 38.212 Table 5.4.2.1-2, Z = 224
    for attempt, version in enumerate(chain.rv):
        soft = torch.zeros_like(buffers)
        chain.collect(soft, 8 * (2 * sent[attempt] - 1), torch.full((3,), attempt))
        assert torch.equal(soft != 0, (soft * (2 * buffers - 1)) > 0)  # right sign wherever something arrived
        if version in (0, 3):
            assert bool(chain.decode(soft, blocks, buffers).all())


@pytest.mark.sionna
def test_decoder_is_as_good_as_sionnas(generator):
    """Same soft bits of a short code near its waterfall, 300 blocks: 12 layered against 24 flooding iterations.

    Both have the same fixed points; where they differ the difference is a handful, 8 blocks allow 3 deviations of that.
    """
    from pusch.transport import base_graph
    from sionna.phy.fec.ldpc import LDPC5GDecoder, LDPC5GEncoder

    encoder = LDPC5GEncoder(200, 400)
    bits = torch.randint(0, 2, (300, 200), generator=generator).float()
    sign = 2 * encoder(bits) - 1
    llr = 3.0 * sign + 6.0**0.5 * torch.randn(300, 400, generator=generator)  # 1.8 dB Es/N0 of BPSK
    theirs = (LDPC5GDecoder(encoder, num_iter=24)(llr) == bits).all(1)
    punctured, filler, rest = 2 * encoder.z, encoder.k_filler, encoder.n_cb_comp - 400
    whole = torch.cat([-llr, torch.zeros(300, rest)], dim=1)
    split = 200 - punctured
    known = [torch.zeros(300, punctured), whole[:, :split], torch.full((300, filler), 100.0), whole[:, split:]]
    mine = (LayeredDecoder(base_graph(encoder), encoder.z)(torch.cat(known, 1))[:, :200] == bits.bool()).all(1)
    assert 30 < int(theirs.sum()) < 300
    assert int(mine.sum()) >= int(theirs.sum()) - 8


@pytest.fixture(scope="module")
def link():
    from pusch.link import Link

    with torch.no_grad():
        return Link(CASES["16qam-2rx"])


@pytest.mark.sionna
def test_slot_is_that_of_the_reference_channel(link, generator):
    """DMRS on symbols 2 and 11, twice the power on every second subcarrier: every symbol has mean power 1, so SNR = 1/no."""
    from pusch.receivers import pusch_config
    from sionna.phy.nr import PUSCHTransmitter

    payload = torch.randint(0, 2, (4, 9224), generator=generator).float()
    grids = link.slots(payload)[2]
    power = grids.abs().square()
    assert torch.allclose(power[:, :, [2, 11], ::2], torch.tensor(2.0)) and not power[:, :, [2, 11], 1::2].any()
    # data: 16 slots x 300 symbols of 16QAM, whose power has a deviation of 0.57 (4 of them, 4800 draws)
    assert power.mean((0, 1, 3)).tolist() == pytest.approx([1.0] * 14, abs=4 * 0.57 / 4800**0.5)
    config = pusch_config()
    config.tb.mcs_table, config.tb.mcs_index = 1, 16
    config.n_rnti, config.tb.n_id = 1, 1
    theirs = PUSCHTransmitter(config, return_bits=False)(payload[:, None])
    assert torch.allclose(grids[0], theirs[:, 0, 0], atol=1e-6)


@pytest.mark.sionna
def test_receivers_see_what_sionna_receiver_sees(link, generator):
    """Sionna's estimator within our loop, and ours within Sionna's interface, give one and the same estimate."""
    from pusch.receivers import observation_of, pusch_config, resource_grid

    from wichan.estimators import LMMSE
    from wichan.integrations.sionna import as_channel_estimator

    y = torch.randn(3, 2, 14, 300, dtype=torch.complex64, generator=generator)
    mine = link.receivers["practical"](y, 0.1, y[:, :, None])
    rg = resource_grid(pusch_config())
    estimator = as_channel_estimator(lambda pilots: LMMSE(pilots, practical_covariance(2)), rg)
    for ours, theirs in zip(mine, estimator(y[:, None], 0.1), strict=True):
        assert torch.allclose(theirs[:, 0, :, 0], ours, atol=1e-5)
    assert observation_of(rg).pilot_symbols.tolist() == [2, 11]


@pytest.mark.sionna
@pytest.mark.slow
def test_runs_are_paired_and_ordered(link):
    """Receivers share their slots whatever else is run; all arrives at 30 dB, nothing at -15 dB, knowledge does not hurt."""
    with torch.no_grad():

        def run(snr_db, names, opportunities=2):
            generator = torch.Generator().manual_seed(1)
            return link.run(snr_db, 6, generator=generator, names=names, opportunities=opportunities)

        assert all(bool((share == 1).all()) for share in run(30.0, list(NAMES), 1).values())
        assert not run(-15.0, ["perfect"])["perfect"].any()
        both = run(8.0, ["practical", "perfect"])
        assert torch.equal(both["practical"], run(8.0, ["practical"])["practical"])
        assert float(both["perfect"].mean()) >= float(both["practical"].mean())


@pytest.mark.sionna
def test_gate_only_saves_time(link, generator):
    """Blocks below the gate are lost with the decoder too: soft bits that carry 0.8 to 1.1 of the payload."""
    chain = link.chain
    blocks = chain.blocks(torch.randint(0, 2, (8, 9224), generator=generator).float())
    buffers = chain.buffers(blocks)
    sign = 2 * chain.transmissions(buffers)[0] - 1
    strength = torch.linspace(1.2, 2.6, 8)[:, None]  # half the mean LLR of a Gaussian channel
    soft = torch.zeros_like(buffers)
    noise = torch.randn(sign.shape, generator=generator)
    chain.collect(soft, 2 * strength * sign + 2 * strength.sqrt() * noise, torch.zeros(8, dtype=torch.int64))
    information = chain.information(soft, buffers).amin(1)
    assert float(information[0]) < chain.gate < float(information[-1])
    with_gate = chain.decode(soft, blocks, buffers)
    without = (chain.hard(soft) == blocks.bool()).flatten(1).all(1)
    assert torch.equal(with_gate, without) and bool(without[-1]) and not bool(without[0])
