"""metrics.jsonl, as a run leaves it, drawn and told."""

import pytest

from calm_jax.reporting import reader, training


def logged(folder, text):
    (folder / 'metrics.jsonl').write_text(text)
    return reader.read(folder).trainings


def test_a_line_that_is_being_written_is_not_read_and_a_log_without_losses_is_no_run(some):
    folder = some('results.json')
    (run,) = logged(folder, '{"step": 1, "loss": 2.5}\n{"step": 2, "eval": {"loss": 2.25}}\n{"step": 2, "lo')
    assert (run.losses, run.evaluations) == (((1, 2.5),), ((2, 2.25),))
    assert logged(folder, '') == []


def test_a_line_that_is_no_record_is_named(some):
    with pytest.raises(ValueError, match=r'metrics\.jsonl: not valid JSON at line 2'):
        logged(some('results.json'), '{"step": 1, "loss": 2.5}\n{"step"\n')
    with pytest.raises(ValueError, match=r'metrics\.jsonl: line 1 has no "step"'):
        logged(some('results.json'), '{"loss": 2.5}\n')


def test_the_panel_tells_where_the_loss_began_and_ended(some):
    (panel,) = training.panels(reader.read(some('metrics.jsonl')).trainings)
    (drawing,) = panel.drawings
    assert 'training: from 6.2 at step 1 to 3.9 at step 4' in drawing.alt and 'evaluation: from 4.2 at step 4' in drawing.alt
    assert panel.table.rows == ((1, 6.2, None), (2, 5.1, None), (4, 3.9, 4.2))
    axes = drawing.draw().axes[0]
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 2, 4], [4]] and axes.get_xscale() == 'log'
