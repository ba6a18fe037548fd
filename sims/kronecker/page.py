"""The blocks of ``docs/results.md`` about Kronecker-structured learning, from the CSV files of the three scripts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from blocks import Row, markdown, picture, read

from kronecker import published

SYNTHETIC = Path("kronecker_sbl_synthetic") / "synthetic.csv"
IRS = Path("kronecker_sbl_irs") / "irs.csv"
CONVERGENCE = Path("kronecker_sbl_convergence") / "convergence.csv"


def number(value: str | float | None, digits: int = 2) -> str:
    """Two significant digits, very small values as powers of ten, nothing for nothing."""
    if value in ("", None):
        return ""
    found = float(value)
    if found and abs(found) < 1e-3:
        mantissa, exponent = f"{found:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{found:.{digits}g}" if abs(found) < 100 else f"{found:.0f}"


def beside(row: Row, column: str, whose: str = "published") -> str:
    """A value, with that of others in brackets."""
    other = row.get(f"{whose} {column}", "")
    return number(row[column]) + (f" ({number(other)})" if other else "")


def grid(
    rows: Sequence[Row], columns: Sequence[tuple[str, str, Callable[[Row], str]]], names: Sequence[str], first: str
) -> str:
    """A line an estimator; columns are (header, point, cell)."""
    at = {(row["estimator"], row["point"]): row for row in rows}
    lines = []
    for name in names:
        cells = [cell(at[name, point]) if (name, point) in at else "" for _, point, cell in columns]
        if any(cells):
            lines.append([name, *cells])
    return markdown([first, *(header for header, _, _ in columns)], lines)


def _of(folder: Path, *studies: str) -> list[Row]:
    found = [row for row in read(folder / SYNTHETIC) if row["study"] in studies]
    if not found:
        raise FileNotFoundError(f"{folder / SYNTHETIC}: no study {studies[0]}")
    return found


def _names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["estimator"] for row in rows))


def snr(folder: Path) -> str:
    """Study (a), with the figure of all three."""
    rows = _of(folder, "snr", "dense")
    rows = [row for row in rows if row["study"] == "snr" or row["estimator"] == "sbl"]
    columns: list[tuple[str, str, Callable[[Row], str]]] = []
    for point in ("5", "15", "25"):
        columns.append((f"mean NMSE, {point} dB", point, lambda row: beside(row, "nmse")))
        columns.append((f"median, {point} dB", point, lambda row: number(row["median"])))
        columns.append((f"SRR, {point} dB", point, lambda row: beside(row, "srr")))
    columns.append(("success, 25 dB", "25", lambda row: number(row["success"])))
    columns.append(("iterations, 25 dB", "25", lambda row: f"{float(row['iterations']):.0f}"))
    table = grid(rows, columns, _names(rows), "ours (published)")
    figure = picture(folder / SYNTHETIC.with_suffix(".png"), "kronecker_sbl_synthetic.png", "NMSE and recovery, three studies")
    trials = {row["estimator"]: row["trials"] for row in rows}
    told = f"{trials['kron-sbl-svd']} trials a point" + (f", {trials['sbl']} for sbl" if "sbl" in trials else "")
    return f"{table}\n\n{told}.\n\n{figure}"


def general_eig(folder: Path) -> str:
    """What the general eigenvalue routine does to the published KSBL."""
    rows = _of(folder, "rows", "published-rows")
    names = ["kron-sbl-single", "kron-sbl-am", "kron-sbl-single published", "kron-sbl-single general eig"]
    columns: list[tuple[str, str, Callable[[Row], str]]] = [
        (f"M1 = {point}", str(point), lambda row: f"{number(row['nmse'])} / {number(row['srr'])}") for point in published.ROWS
    ]
    table = grid(rows, columns, names, "mean NMSE / SRR")
    known = [published.SYNTHETIC["rows"][column]["kron-sbl-single"] for column in ("nmse", "srr")]
    cells = [f"{number(nmse)} / {number(srr)}" for nmse, srr in zip(*known, strict=True)]
    return f"{table}\n" + "| " + " | ".join(["*KSBL as published*", *cells]) + " |"


def start(folder: Path) -> str:
    """Published start and thresholds against the library's."""
    rows = _of(folder, "snr", "published")
    names = [f"kron-sbl-{m_step}{which}" for m_step in ("svd", "am", "single") for which in ("", " published")]
    columns: list[tuple[str, str, Callable[[Row], str]]] = [
        (f"{point} dB", point, lambda row: f"{number(row['median'])} / {number(row['srr'])} / {float(row['iterations']):.0f}")
        for point in ("5", "15", "25")
    ]
    return grid(rows, columns, names, "median NMSE / SRR / iterations")


def free(folder: Path) -> str:
    """Values that are not a Kronecker product."""
    rows = _of(folder, "free")
    columns: list[tuple[str, str, Callable[[Row], str]]] = [
        (f"{point} dB", point, lambda row: f"{number(row['nmse'])} / {number(row['median'])} / {number(row['srr'])}")
        for point in ("5", "15", "25")
    ]
    return grid(rows, columns, _names(rows), "mean / median NMSE / SRR")


def noise(folder: Path) -> str:
    """Known and unknown noise variance."""
    small, full = _of(folder, "noise"), _of(folder, "noise-full")
    columns: list[tuple[str, str, Callable[[Row], str]]] = [
        (f"M1 = 8, {point} dB", point, lambda row: f"{number(row['median'])} / {number(row['srr'])}")
        for point in ("5", "15", "25")
    ]
    columns.append(("noise found / true, 25 dB", "25", lambda row: number(row["no_ratio"], 3)))
    columns.append(("M1 = 14, K = 4, 30 dB: mean", "30", lambda row: beside(row, "nmse")))
    return grid([*small, *full], columns, _names(small), "median NMSE / SRR (published)")


def small(folder: Path) -> str:
    """The small problem, where classical SBL takes part."""
    first, second = _of(folder, "small"), _of(folder, "small-15")
    columns: list[tuple[str, str, Callable[[Row], str]]] = []
    for label, point in (("M = 5, 8, 10, 25 dB", "25"), ("M = 7, 8, 10, 15 dB", "15")):
        columns.append((f"{label}: median", point, lambda row: number(row["median"])))
        columns.append(("success", point, lambda row: number(row["success"])))
        columns.append(("SRR", point, lambda row: number(row["srr"])))
    table = grid([*first, *second], columns, _names(first), "N = 10, K = 2")
    return f"{table}\n\n{first[0]['trials']} trials a point."


def irs(folder: Path) -> str:
    """The IRS case."""
    rows = read(folder / IRS)
    levels = [f"{level:g}" for level in published.IRS_SNR_DB]
    names = _names(rows)

    def told(row: Row) -> str:
        others = [number(row.get(f"{whose} nmse", "")) for whose in ("published", "prototype")]
        return number(row["nmse"]) + (f" ({' / '.join(other or '-' for other in others)})" if any(others) else "")

    parts = []
    for title, cell in (
        ("mean NMSE: ours (published / prototype)", told),
        ("median NMSE / SRR", lambda row: f"{number(row['median'])} / {number(row['srr'])}" if row["srr"] else ""),
        ("SER: ours (published)", lambda row: beside(row, "ser")),
    ):
        listed = [name for name in names if name != "perfect CSI" or title.startswith("SER")]
        parts.append(grid(rows, [(f"{level} dB", level, cell) for level in levels], listed, title))
    figure = picture(folder / IRS.with_suffix(".png"), "kronecker_sbl_irs.png", "NMSE, support recovery and SER over SNR")
    return "\n\n".join([*parts, figure])


def convergence(folder: Path) -> str:
    """Cost and error against iterations."""
    rows = read(folder / CONVERGENCE)
    points = ("1", "5", "10", "20", "50", "150", "500")
    columns: list[tuple[str, str, Callable[[Row], str]]] = [
        (f"{point}", point, lambda row: f"{number(row['median'])} / {float(row['cost']):.2f}") for point in points
    ]
    table = grid(rows, columns, _names(rows), "median NMSE / cost / M after iterations")
    rises = {row["estimator"]: number(row["rises"]) for row in rows if row["rises"]}
    told = ", ".join(f"{name} {count}" for name, count in rises.items())
    source = folder / CONVERGENCE.with_suffix(".png")
    figure = picture(source, "kronecker_sbl_convergence.png", "NMSE and cost over iterations")
    return f"{table}\n\nIterations that raised the cost, mean over trials: {told}.\n\n{figure}"


BLOCKS: dict[str, Callable[[Path], str]] = {
    "kronecker-snr": snr,
    "kronecker-eig": general_eig,
    "kronecker-start": start,
    "kronecker-free": free,
    "kronecker-noise": noise,
    "kronecker-small": small,
    "kronecker-irs": irs,
    "kronecker-convergence": convergence,
}
