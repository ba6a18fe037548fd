"""Numbers of others: He and Joseph's published curves, and those of an independent prototype.

Synthetic curves are read off the vector figures ``KroSBL_f/pics/*.eps`` of the authors' public repository
``YanbinHe/JournalKroSBL`` (commit dbfa5b3, July 2023; the printed paper may differ): mean NMSE and support recovery rate of 200
trials. The convergence run and the comparison of known and unknown noise are that repository's, too, and the IRS case is the
archive ``PC-KroSBL/Results`` there: 50 trials. The prototype is a NumPy implementation written from the formulas, not from this
library: 200 synthetic and 40 IRS trials of its own draws.

Names are those of `kronecker.lineup`: "kron-sbl-single" is the paper's KSBL, "sbl" its classical SBL, "kron-omp-published" its
KOMP.
"""

from __future__ import annotations

SNR_DB = (5.0, 10.0, 15.0, 20.0, 25.0, 30.0)
ROWS = (6, 8, 10, 12, 14)
NONZEROS = (2, 3, 4, 5, 6)
IRS_SNR_DB = (4.0, 8.0, 12.0, 16.0, 20.0)

Curves = dict[str, tuple[float | None, ...]]

#: study -> metric -> estimator -> value at each point of the study.
SYNTHETIC: dict[str, dict[str, Curves]] = {
    "snr": {
        "nmse": {
            "sbl": (0.551, 0.298, 0.151, 0.104, 0.081, 0.084),
            "kron-sbl-am": (0.345, 0.220, 0.094, 0.061, 0.054, 0.057),
            "kron-sbl-svd": (0.129, 0.074, 0.045, 0.028, 0.022, 0.017),
            "kron-omp-published": (2.4, 1.9, 0.98, 1.0, 0.68, 0.60),
            "kron-sbl-single": (0.523, 0.332, 0.250, 0.217, 0.166, 0.181),
        },
        "srr": {
            "sbl": (0.10, 0.22, 0.44, 0.59, 0.65, 0.66),
            "kron-sbl-am": (0.03, 0.14, 0.59, 0.73, 0.73, 0.74),
            "kron-sbl-svd": (0.54, 0.72, 0.84, 0.89, 0.90, 0.90),
            "kron-sbl-single": (0.10, 0.39, 0.58, 0.59, 0.64, 0.65),
        },
    },
    "rows": {
        "nmse": {
            "sbl": (0.304, 0.109, 0.068, 0.053, 0.040),
            "kron-sbl-am": (0.263, 0.061, 0.041, 0.038, 0.037),
            "kron-sbl-svd": (0.231, 0.038, 0.013, 0.012, 0.011),
            "kron-omp-published": (0.82, 0.68, 0.70, 0.38, 0.32),
            "kron-sbl-single": (0.93, 0.27, 0.050, 0.038, 0.037),
        },
        "srr": {
            "sbl": (0.52, 0.65, 0.68, 0.70, 0.73),
            "kron-sbl-am": (0.60, 0.75, 0.76, 0.76, 0.76),
            "kron-sbl-svd": (0.73, 0.88, 0.90, 0.90, 0.91),
            "kron-sbl-single": (0.38, 0.61, 0.74, 0.76, 0.76),
        },
    },
    "nonzeros": {
        "nmse": {
            "sbl": (0.021, 0.105, 0.222, 0.413, 0.568),
            "kron-sbl-am": (0.022, 0.082, 0.145, 0.397, 0.532),
            "kron-sbl-svd": (0.007, 0.045, 0.136, 0.318, 0.453),
            "kron-omp-published": (3.0, 0.74, 0.84, 0.86, 0.88),
            "kron-sbl-single": (0.26, 0.33, 0.29, 0.50, 0.68),
        },
        "srr": {
            "sbl": (0.82, 0.65, 0.50, 0.38, 0.30),
            "kron-sbl-am": (0.83, 0.76, 0.64, 0.48, 0.40),
            "kron-sbl-svd": (0.93, 0.91, 0.77, 0.62, 0.48),
            "kron-sbl-single": (0.69, 0.57, 0.53, 0.41, 0.36),
        },
    },
}

#: The prototype, study "snr" at 5, 15, 25 and 30 dB (None: not run): 8 x 12 x 15 rows, 3 non-zeros a factor, 200 trials.
PROTOTYPE: dict[str, Curves] = {
    "srr": {
        "kron-sbl-svd": (0.47, None, 0.81, None, 0.88, 0.88),
        "kron-sbl-am": (0.03, None, 0.44, None, 0.71, 0.71),
    },
    "median": {
        "kron-sbl-svd": (0.014, None, 0.0013, None, 1.6e-4, 5e-5),
        "kron-sbl-am": (0.097, None, 0.0073, None, 1.2e-3, 1.1e-3),
        "oracle-ls": (None, None, None, None, 1.2e-4, None),
        "kron-omp": (None, None, None, None, 6.4e-4, None),
    },
    "iterations": {
        "kron-sbl-svd": (48.0, None, 25.0, None, 20.0, 19.0),
        "kron-sbl-am": (150.0, None, 134.0, None, 68.0, 51.0),
    },
}

#: Prototype, values that are drawn one by one on the support (8 rows, 3 non-zeros, 25 dB): mean NMSE.
PROTOTYPE_FREE_VALUES = {"kron-sbl-am": 2.0e-4, "kron-sbl-svd": 6.9e-4, "oracle-ls": 2.0e-4}

#: Published, noise variance unknown and known (14 x 12 x 15 rows, 4 non-zeros, 30 dB): NMSE.
NOISE: dict[str, dict[str, float]] = {
    "unknown": {"sbl": 1.6e-3, "kron-sbl-single": 3.7e-4, "kron-sbl-svd": 3.9e-5, "kron-sbl-am": 3.8e-5},
    "known": {"sbl": 5.4e-4, "kron-sbl-single": 3.6e-4, "kron-sbl-svd": 3.9e-5, "kron-sbl-am": 3.7e-5},
}

#: Published convergence, one run without pruning: NMSE after 10, 50, 150 iterations and at the end (AM: 2000, SVD: 500).
CONVERGENCE: dict[str, tuple[float, float, float, float]] = {
    "kron-sbl-am": (0.21, 0.044, 0.021, 0.0068),
    "kron-sbl-svd": (0.0081, 0.0066, 0.0066, 0.0066),
    "kron-sbl-single": (0.23, 0.040, 0.038, 0.035),
    "sbl": (0.047, 0.023, 0.023, 0.023),
}

#: The IRS case at 4, 8, 12, 16, 20 dB: metric -> estimator -> values; seconds a trial on the authors' machine.
IRS: dict[str, Curves] = {
    "nmse": {
        "kron-sbl-svd": (0.61, 0.30, 0.19, 0.12, 0.10),
        "kron-sbl-am": (0.71, 0.32, 0.20, 0.14, 0.070),
        "kron-sbl-pc 0.8": (0.31, 0.13, 0.049, 0.0089, 0.0029),
        "kron-sbl-pc 0.5": (0.32, 0.14, 0.061, 0.011, 0.0060),
        "pc-sbl": (1.0, 1.0, 0.90, 0.61, 0.37),
        "sbl": (0.95, 0.72, 0.46, 0.23, 0.14),
    },
    "ser": {
        "kron-sbl-svd": (0.25, 0.14, 0.092, 0.060, 0.060),
        "kron-sbl-am": (0.24, 0.071, 0.027, 0.0039, 6e-7),
        "kron-sbl-pc 0.8": (0.13, 0.017, 5e-4, 0.0, 0.0),
        "kron-sbl-pc 0.5": (0.14, 0.022, 5e-4, 0.0, 0.0),
        "pc-sbl": (0.23, 0.18, 0.21, 0.19, 0.17),
        "sbl": (0.37, 0.24, 0.11, 0.10, 0.063),
    },
    "seconds": {
        "kron-sbl-svd": (30.0, 10.0, 6.4, 5.7, 5.7),
        "kron-sbl-am": (44.0, 20.0, 12.0, 13.0, 12.0),
        "kron-sbl-pc 0.8": (27.0, 14.0, 9.8, 8.0, 7.4),
        "kron-sbl-pc 0.5": (28.0, 14.0, 8.8, 6.7, 5.4),
        "pc-sbl": (88.0, 84.0, 56.0, 43.0, 46.0),
        "sbl": (63.0, 22.0, 14.0, 11.0, 9.0),
    },
}

#: The prototype's mean NMSE in the IRS case, 40 trials.
PROTOTYPE_IRS: Curves = {
    "kron-sbl-pc 0.8": (0.43, 0.23, 0.10, 0.028, 0.005),
    "kron-sbl-pc 0.5": (0.45, 0.27, 0.14, 0.068, 0.005),
    "kron-sbl-am": (0.78, 0.65, 0.46, 0.22, 0.083),
    "kron-sbl-svd": (0.75, 0.70, 0.35, 0.20, 0.20),
}
