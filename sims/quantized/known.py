"""MSE by an independent NumPy implementation: 32 antennas and components, 30,000 training and 10,000 test channels, one pilot.

Rows are SNR -10, -5, 0, 5, 10, 15, 20 dB; MSE is per antenna. It uses the exact output covariance and 60 iterations of EM; its
channels are other draws of the same law, so that about 1 % between it and a run here is chance.
"""

from __future__ import annotations

import math

_INF = math.inf
#: (number of clusters, bits) -> estimator -> MSE.
MSE: dict[tuple[int, float], dict[str, tuple[float, ...]]] = {
    (1, 1): {
        "bls": (16.3, 5.54, 2.13, 1.06, 0.723, 0.617, 0.583),
        "blmmse": (0.920, 0.807, 0.638, 0.492, 0.413, 0.385, 0.378),
        "bussgang-gmm circulant": (0.855, 0.538, 0.272, 0.207, 0.226, 0.260, 0.279),
        "bussgang-gmm": (0.832, 0.477, 0.218, 0.167, 0.183, 0.204, 0.218),
        "bussgang-mfa": (0.832, 0.477, 0.218, 0.167, 0.183, 0.203, 0.217),
        "bussgang-genie": (0.480, 0.268, 0.161, 0.147, 0.166, 0.183, 0.192),
    },
    (1, 2): {
        "blmmse": (0.893, 0.745, 0.523, 0.316, 0.195, 0.145, 0.128),
        "bussgang-gmm circulant": (0.775, 0.412, 0.182, 0.105, 0.0792, 0.0729, 0.0731),
        "bussgang-gmm": (0.737, 0.349, 0.130, 0.0664, 0.0488, 0.0466, 0.0487),
        "bussgang-genie": (0.403, 0.209, 0.101, 0.0589, 0.0453, 0.0438, 0.0452),
    },
    (1, 3): {
        "blmmse": (0.883, 0.721, 0.486, 0.258, 0.123, 0.0663, 0.0470),
        "bussgang-gmm": (0.701, 0.313, 0.111, 0.0454, 0.0230, 0.0154, 0.0133),
        "bussgang-genie": (0.381, 0.191, 0.0872, 0.0399, 0.0211, 0.0144, 0.0126),
    },
    (1, _INF): {
        "blmmse": (0.878, 0.715, 0.468, 0.231, 0.0894, 0.0305, 0.0099),
        "bussgang-gmm": (0.688, 0.301, 0.103, 0.0376, 0.0141, 0.0052, 0.0019),
        "bussgang-genie": (0.374, 0.187, 0.0812, 0.0329, 0.0128, 0.0048, 0.0017),
    },
    (3, 1): {
        "blmmse": (0.916, 0.802, 0.638, 0.488, 0.405, 0.373, 0.362),
        "bussgang-gmm": (0.908, 0.737, 0.495, 0.344, 0.288, 0.273, 0.270),
        "bussgang-mfa": (0.904, 0.710, 0.468, 0.337, 0.294, 0.282, 0.280),
        "bussgang-genie": (0.658, 0.431, 0.266, 0.191, 0.171, 0.168, 0.167),
    },
    (3, 2): {
        "blmmse": (0.888, 0.742, 0.523, 0.314, 0.193, 0.143, 0.126),
        "bussgang-gmm": (0.870, 0.638, 0.365, 0.192, 0.116, 0.0880, 0.0793),
        "bussgang-mfa": (0.861, 0.608, 0.351, 0.202, 0.133, 0.105, 0.0956),
        "bussgang-genie": (0.585, 0.351, 0.186, 0.100, 0.0647, 0.0522, 0.0482),
    },
    (3, 3): {
        "bussgang-gmm": (0.858, 0.607, 0.329, 0.150, 0.0696, 0.0387, 0.0283),
        "bussgang-genie": (0.564, 0.329, 0.165, 0.0766, 0.0381, 0.0227, 0.0174),
    },
    (3, _INF): {
        "bussgang-gmm": (0.849, 0.596, 0.311, 0.132, 0.0495, 0.0174, 0.0059),
        "bussgang-genie": (0.553, 0.322, 0.155, 0.0673, 0.0269, 0.0102, 0.0037),
    },
}
