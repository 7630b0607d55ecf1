"""What tests of several commands share."""

import pytest

from calm_jax.data import padding


@pytest.fixture(scope='module', autouse=True)
def one_width():
    """All sources of a run are padded to one width: a width is a program of its own for each thing that is done. That outputs
    are the same at any width, and slots grow from one to another, is shown where there are several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(padding, 'MOST_LENGTHS', 1)
        yield


@pytest.fixture
def several_widths(monkeypatch):
    """Widths as everywhere else: those of another process."""
    monkeypatch.setattr(padding, 'MOST_LENGTHS', 8)


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
