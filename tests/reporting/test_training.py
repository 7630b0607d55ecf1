"""metrics.jsonl, as a run leaves it, drawn and told."""

import json

import numpy as np
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


def policy_log(folder):
    """Of a policy's run: three batches, the second of which has no gradient of the loss, and two evaluations."""
    numbers = {'full_loss': 1.0, 'cost': 0.9, 'entropy': 0.3, 'multiplier': 0.0, 'above_bound': -0.2, 'cost_grad_norm': 0.1}
    batches = [{'step': step, 'loss': 1.5, **numbers, 'loss_grad_norm': step % 2, 'loss_grad_noise': 2.0} for step in (1, 2, 3)]
    runs = {'encoder_attention': [1.0, 0.26], 'encoder_feed_forward': [1.0, 0.0], 'decoder_attention': [0.5]}
    measured = {
        'loss': 1.25,
        'full_loss': 1.0,
        'cost': 0.5,
        'entropy': 0.2,
        'token_choices': [0.75, 0, 0, 0, 0, 0, 0.25],
        **runs,
    }
    records = [*batches, *({'step': step, 'eval': measured} for step in (2, 3))]
    return logged(folder, ''.join(f'{json.dumps(each)}\n' for each in records))


def test_a_policys_run_is_drawn_with_what_is_balanced_and_what_its_plans_run(some):
    (panel,) = training.panels(policy_log(some('results.json')))
    drawings = {each.name: each for each in panel.drawings}
    assert list(drawings) == ['training', 'training_cost', 'training_bound', 'training_gradients', 'training_runs']
    lines = {name: [line for axes in each.draw().axes for line in axes.lines] for name, each in drawings.items()}
    assert [list(line.get_ydata()) for line in lines['training']] == [[1.5] * 3, [1.25] * 2, [1.0] * 3, [1.0] * 2]
    assert [list(line.get_ydata()) for line in lines['training_cost']] == [[0.9] * 3, [0.5] * 2, [0.3] * 3, [0.2] * 2]
    bound, gradients = drawings['training_bound'].draw().axes, drawings['training_gradients'].draw().axes
    assert [axes.get_yscale() for axes in (*bound, *gradients)] == ['symlog', 'linear', 'log', 'log']
    assert not np.isfinite(gradients[0].yaxis.get_transform().transform([0.0]))  # a gradient of nothing is a gap
    assert [axes.get_title('left') for axes in drawings['training_runs'].draw().axes] == [
        'encoder\nattention',
        'encoder\nfeed-forward',
        'decoder\nattention',
        'tokens\ndropped',
    ]
    table = [dict(zip(panel.table.headings, row)) for row in panel.table.rows]
    assert table[1]['skipped, encoder attention'] == '37%' and table[1]['skipped, encoder feed-forward'] == '50%'
    assert [row['gradient norm of the loss'] for row in table] == [1, 0, 1]
    assert [row['cost, evaluation'] for row in table] == [None, 0.5, 0.5]
    assert 'encoder attention: 63%. encoder feed-forward: 50%. decoder attention: 50%.' in drawings['training_runs'].alt


def test_of_many_evaluations_some_are_drawn_the_first_and_last_among_them(some):
    folder = some('results.json')
    policy_log(folder)
    record = (folder / 'metrics.jsonl').read_text().splitlines()[-1]
    more = [json.dumps({**json.loads(record), 'step': step}) for step in range(4, 104)]
    (panel,) = training.panels(logged(folder, (folder / 'metrics.jsonl').read_text() + ''.join(f'{each}\n' for each in more)))
    axes = panel.drawings[-1].draw().axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(labels) <= 12 and labels[0] == '103' and axes.get_ylim() == (24, 0)
