"""What is tested: reference channels and requirements of TS 38.104, as the sources named here give them."""

from __future__ import annotations

from dataclasses import dataclass

#: Where the numbers come from; both were read, the standard itself was not.
SOURCES = {
    "requirement": "TS 38.104 V15.19.0 Table 8.2.1.2-1 rows 1 to 6, as transcribed in srsran/srsRAN_matlab, "
    "unitTests/@CheckPUSCHConformance/createTestConfigTable8_2_1_2_1.m, commit 706394c",
    "reference_channels": "TS 38.104 Tables A.3-2, A.4-2 and A.5-2, as transcribed in the same folder, createFRC.m",
    "other_version": "TS 38.104 V17.7.0, same table, 2 receive antennas only: the reference points in the public report script "
    "of another link simulator",
}


@dataclass(frozen=True)
class ReferenceChannel:
    """A fixed reference channel: 25 resource blocks, 14 symbols of which 12 carry data, one layer.

    Args:
        name: in TS 38.104 annex A.
        modulation: its name.
        bits_per_symbol: modulation order.
        rate: target code rate times 1024.
        payload: transport block size [bit], TS 38.214 clause 5.1.3.2 for this rate and 3600 resource elements.
    """

    name: str
    modulation: str
    bits_per_symbol: int
    rate: int
    payload: int


@dataclass(frozen=True)
class Case:
    """One row of the requirement: SNR at which 70 % of the maximum throughput must be reached.

    Args:
        profile: delay profile and maximum Doppler shift as the standard writes them.
        num_rx_ant: receive antennas; one transmit antenna, low correlation.
        channel: reference channel.
        requirement_db: SNR [dB], TS 38.104 V15.19.0.
        other_db: SNR [dB] in V17.7.0 where a source gives it.
    """

    profile: str
    num_rx_ant: int
    channel: ReferenceChannel
    requirement_db: float
    other_db: float | None = None

    @property
    def name(self) -> str:
        """Short name for the command line and files."""
        return f"{self.channel.modulation.lower()}-{self.num_rx_ant}rx"

    @property
    def tap_profile(self) -> str:
        """Name of the delay profile alone, "TDLA30"."""
        return self.profile.split("-")[0]

    @property
    def max_doppler(self) -> float:
        """Maximum Doppler shift [Hz]."""
        return float(self.profile.split("-")[1])


QPSK = ReferenceChannel("G-FR1-A3-8", "QPSK", 2, 193, 1352)
QAM16 = ReferenceChannel("G-FR1-A4-8", "16QAM", 4, 658, 9224)
QAM64 = ReferenceChannel("G-FR1-A5-8", "64QAM", 6, 567, 12040)

CASES = {
    case.name: case
    for case in (
        Case("TDLB100-400", 2, QPSK, -2.3, -2.5),
        Case("TDLC300-100", 2, QAM16, 10.1, 10.0),
        Case("TDLA30-10", 2, QAM64, 12.3, 12.4),
        Case("TDLB100-400", 4, QPSK, -5.8),
        Case("TDLC300-100", 4, QAM16, 6.2),
        Case("TDLA30-10", 4, QAM64, 8.8),
    )
}
