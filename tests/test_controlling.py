"""A prompt controller, from the outputs of a few plans to what it decodes."""

import json
import pathlib

import numpy as np
import pytest

from calm_jax import cli
from calm_jax.data.decoded import header_path


@pytest.fixture(scope='module')
def outputs(checkpoint, data, tmp_path_factory):
    """{name: file} of the data, decoded within plans of 1 and 2 of 3 layers, and at full depth."""
    folder = tmp_path_factory.mktemp('plans')
    flags = {'one': ['--plan', 'uniform:1'], 'two': ['--plan', 'uniform:2'], 'full': []}
    for name, more in flags.items():
        command = ['generate', '--checkpoint', checkpoint, '--input', data, '--source_field', 'en', '--quiet', *more]
        assert cli.main([*command, '--output', str(folder / f'{name}.jsonl')]) == 0
    return {name: str(folder / f'{name}.jsonl') for name in flags}


def train(checkpoint, data, predictions, folder):
    bindings = {
        'MODEL_DIR': str(folder),
        'CHECKPOINT': checkpoint,
        'TRAIN_DATA': data,
        'PREDICTIONS': predictions,
        'SOURCE': 'en',
        'TARGET': 'fr',
        'METRIC': 'chrf',
    }
    said = [f'--gin.{name}={value!r}' for name, value in bindings.items()]
    return cli.main(['train', '--gin_file=runs/prompt_controller.gin', *said])


def test_a_controller_is_fitted_to_outputs_and_decodes_one_of_their_plans_for_each_text(
    checkpoint, data, outputs, tmp_path, capsys
):
    files = [outputs['full'], outputs['one'], outputs['two']]
    assert train(checkpoint, data, files, tmp_path / 'made') == 0
    said = capsys.readouterr()
    assert '--plan prompt_controller' in said.out and 'layers, loss' in said.err
    made = json.loads((tmp_path / 'made' / 'controller.json').read_text())
    assert [plan['layers'] for plan in made['plans']] == [1, 2, 3]
    assert made['prompts'] == 70 and made['curve']['levels'][0] == 1 and made['curve']['layers'][-1] == 1
    worst = max(plan['loss'] for plan in made['plans'])
    assert all(0 <= each <= worst for each in made['curve']['mixing'] if each is not None)
    assert made['curve']['layers'] == sorted(made['curve']['layers'], reverse=True)
    decode = ['generate', '--checkpoint', str(tmp_path / 'made' / 'last'), '--input', data, '--source_field', 'en', '--quiet']
    ran, mean = {}, {}
    for level in ('0', '.95', '1'):
        path = tmp_path / f'{level}.jsonl'
        assert cli.main([*decode, '--plan', f'prompt_controller:{level}', '--output', str(path)]) == 0
        records = [json.loads(line) for line in path.read_text().splitlines()]
        mean[level] = np.mean([record['layers'] for record in records])
        ran[level] = [record['text'] for record in records]
    full = [json.loads(line)['text'] for line in open(outputs['full'])]
    assert ran['1'] == full and mean['1'] == 3 and mean['0'] == 1 and 1 <= mean['.95'] <= 3


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (('one', 'two'), 'no predictions are at full depth'),
        (('one', 'early', 'full'), 'holds no plan, and tokens that left early'),
        (('one', 'one', 'full'), 'predictions names a file twice'),
        (('full', 'copy'), 'are of one plan; leave one out'),
        (('one', 'mixed', 'full'), 'its plan is not that of the other texts'),
        (('one', 'short', 'full'), 'records'),
    ],
)
def test_predictions_that_a_controller_cannot_be_of_are_refused_in_one_line(
    names, message, checkpoint, data, outputs, tmp_path, capsys
):
    one, two, full = (open(outputs[name]).read().splitlines(keepends=True) for name in ('one', 'two', 'full'))
    last = json.loads(full[-1])
    early = [*full[:-1], json.dumps({**last, 'exit_layers': [1, *last['exit_layers'][1:]]}) + '\n']
    for name, lines in {'copy': full, 'mixed': [*one[:9], *two[9:]], 'short': two[:-1], 'early': early}.items():
        (tmp_path / f'{name}.jsonl').write_text(''.join(lines))
    files = [outputs.get(name, str(tmp_path / f'{name}.jsonl')) for name in names]
    assert train(checkpoint, data, files, tmp_path / 'made') == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in said and not (tmp_path / 'made').exists()


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('input', 'another', 'was decoded of other prompts: its header has input'),
        ('source_field', 'fr', "was decoded of other prompts: its header has source_field 'fr'; expected 'en'"),
        ('parameters', 'another', 'was decoded by another model'),
    ],
)
def test_outputs_of_other_prompts_or_of_another_model_are_refused_in_one_line(
    name, value, message, checkpoint, data, outputs, tmp_path, capsys
):
    files = []
    for each in ('one', 'full'):
        path = tmp_path / f'{each}.jsonl'
        path.write_bytes(pathlib.Path(outputs[each]).read_bytes())
        header = json.loads(header_path(pathlib.Path(outputs[each])).read_text())
        header_path(path).write_text(json.dumps({**header, name: value}))
        files.append(str(path))
    assert train(checkpoint, data, files, tmp_path / 'made') == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1] and len(said) == 1 and not (tmp_path / 'made').exists()
