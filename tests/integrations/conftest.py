"""Sionna picks a GPU where there is one; its tests compare on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _sionna_on_the_cpu(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.get_closest_marker("sionna") is None:
        yield
        return
    from wichan.integrations.sionna import require_sionna

    config = require_sionna("a test").phy.config
    before, config.device = config.device, "cpu"
    yield
    config.device = before
