"""What tests of several commands share."""

import pytest


@pytest.fixture
def bars(monkeypatch):
    """(description, whether it is silent) of every progress bar that the analyses and calibration show."""
    shown = []

    def progress(iterable, description, total=None, quiet=False, unit='it', initial=0):
        shown.append((description, quiet))
        return iterable

    for module in ('commands.analyze', 'commands.calibrate', 'calibrating'):
        monkeypatch.setattr(f'calm_jax.{module}.progress', progress)
    return shown
