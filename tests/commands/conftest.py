"""What tests of several commands share."""

import pytest


@pytest.fixture
def bars(monkeypatch):
    """(description, whether it is silent) of every progress bar that the analyses and calibration show."""
    shown = []

    def progress(iterable, description, total=None, quiet=False, unit='it', initial=0):
        shown.append((description, quiet))
        return iterable

    for command in ('analyze', 'calibrate', 'trials'):
        monkeypatch.setattr(f'calm_jax.commands.{command}.progress', progress)
    return shown
