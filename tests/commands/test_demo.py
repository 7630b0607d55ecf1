"""The demonstration, run as a user would, on a tiny random model and a few of its texts."""

import json
import shutil
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from calm_jax import cli
from calm_jax.checkpoints import native
from calm_jax.commands import configuration, demo
from calm_jax.data.tokenizers import load_tokenizer
from calm_jax.demo import localisation, vocabulary

ROWS = {'tune': 12, 'calibration': 80, 'test': 12}


def first_lines(split):
    with open(localisation.ASSETS / f'{split}.jsonl', encoding='utf-8') as file:
        return [next(file) for _ in range(ROWS[split])]


@pytest.fixture
def tiny(checkpoint, tmp_path, monkeypatch):
    """Demonstrates with the tests' tiny model, which reads the first bytes of a few texts; returns where to write."""
    assets = tmp_path / 'assets'
    assets.mkdir()
    for split in ROWS:
        (assets / f'{split}.jsonl').write_text(''.join(first_lines(split)), encoding='utf-8')
    shutil.copytree(checkpoint, assets / 'model')
    monkeypatch.setattr(demo, 'ASSETS', assets)
    monkeypatch.setattr(demo, 'MEASURES', {'classifier': '0.99,0.9', 'state': '0.999'})
    monkeypatch.setattr(demo, 'TOLERANCE', 0.6)
    monkeypatch.setattr(demo, 'BATCH_SIZE', 2)
    monkeypatch.setattr(demo, 'TIMED_TEXTS', 3)
    monkeypatch.setattr(demo, 'TIMED_ROUNDS', 2)
    monkeypatch.setattr(demo, 'EXAMPLES', 3)
    return tmp_path / 'out'


def test_the_demo_calibrates_decodes_and_draws(tiny, capsys):
    out = tiny
    assert cli.main(['demo', '--output', str(out)]) == 0
    printed = capsys.readouterr().out
    assert '$ calm calibrate ' in printed and '$ calm generate ' in printed
    assert 'With probability at least 0.95 over the draw of 80 calibration examples' in printed
    certificate = json.loads((out / 'certificate.json').read_text())
    measure = certificate['decoding']['exit']['measure']['class']
    assert 'full model' in printed and measure == 'classifier' and str(out / 'page.html') in printed
    assert printed.count('$ calm calibrate ') == 1 and printed.count('$ calm generate ') == 2
    table = printed[printed.index('\ndecoding') :]
    assert '\x1b' not in table and all(len(line) <= 80 for line in table.splitlines() if str(out) not in line)

    # The table is what the records say, counted here again.
    rows = {row['name']: row for row in json.loads((out / 'results.json').read_text())['rows']}
    full, early = (demo.lines(out / 'test' / f'{name}.jsonl') for name in ('full_model', 'certified'))
    assert len(full) == len(early) == ROWS['test']
    assert rows['full model']['layers'] == 3 and rows['full model']['changed'] == 0
    assert rows[measure]['threshold'] == certificate['threshold']
    layers = [layer for record in early for layer in record['exit_layers']]
    assert rows[measure]['layers'] == pytest.approx(np.mean(layers))
    changed = sum(a['text'] != b['text'] for a, b in zip(early, full))
    assert rows[measure]['changed'] == pytest.approx(100 * changed / ROWS['test'])
    assert rows['full model']['speed_1'] == rows['full model']['speed_batch'] == 1
    results = json.loads((out / 'results.json').read_text())
    alone, together = (results['speeds'][name] for name in ('alone', 'together'))
    assert rows[measure]['speed_1'] == round(alone['speed_up'], 2) and (alone['texts'], alone['rounds']) == (3, 2)
    assert rows[measure]['speed_batch'] == round(together['speed_up'], 2) and together['batch_size'] == 2
    # The headline is the measured one, with its spread and what the test says of the promise.
    assert results['title'] == (
        f'{rows[measure]["layers"]:.1f} of 3 layers a token, {rows[measure]["changed"]:.1f}% of outputs changed, '
        f'{alone["speed_up"]:.1f} times as fast'
    )
    least, middle, most = alone['quartiles']
    assert least <= middle <= most and f'half of 3 texts gain between {least:.2f} and {most:.2f} times,' in results['note']
    assert results['title'] in printed and results['note'] in printed

    examples = json.loads((out / 'examples.json').read_text())
    assert (examples['num_layers'], examples['data'], len(examples['examples'])) == (3, 'test.jsonl', 3)
    page = (out / 'page.html').read_text()
    assert page.startswith('<!') and examples['examples'][0]['reference'] in page

    # A second run must be told to replace the first.
    assert cli.main(['demo', '--output', str(out)]) == 2
    assert capsys.readouterr().err.count('\n') == 1


def test_a_round_that_the_machine_spoils_does_not_change_the_speed(monkeypatch):
    """Full depth takes 4 and 2 seconds, exits half of it; one round in three is a hundred times as slow."""

    def timed(model, decodings, texts, batch_size, rounds):
        seconds = np.array([[2.0, 1.0]] * rounds) * len(texts[0])
        seconds[0] *= [1, 100]
        return types.SimpleNamespace(seconds=seconds)

    monkeypatch.setattr(demo, 'time_decodings', timed)
    monkeypatch.setattr(demo, 'TIMED_ROUNDS', 3)
    model = types.SimpleNamespace(resolve=lambda decoding: types.SimpleNamespace(full=lambda: None))
    speed = demo.speed_alone(model, None, ['aa', 'b'], quiet=True)
    assert speed == {'speed_up': 2.0, 'quartiles': [2.0, 2.0, 2.0], 'texts': 2, 'rounds': 3}


def test_where_nothing_is_certified_the_headline_says_so():
    title, note = demo.headline(types.SimpleNamespace(found=False), {}, {}, 3)
    assert (title, note) == (
        'Full depth: nothing could be promised',
        'What was not: at most 5% of outputs change, with probability 0.95.',
    )


def test_a_folder_that_no_demo_made_is_left_alone(tiny, tmp_path, capsys):
    (tmp_path / 'letters').write_text('dear')
    for flags in ([], ['--overwrite']):
        assert cli.main(['demo', '--output', str(tmp_path), *flags]) == 2
        assert capsys.readouterr().err.count('\n') == 1
    assert (tmp_path / 'letters').read_text() == 'dear'
    assert cli.main(['demo', '--output', str(tmp_path / 'letters')]) == 2
    assert 'is a file' in capsys.readouterr().err


@pytest.mark.parametrize('lost', ['babel', 'assets'])
def test_an_earlier_demo_stays_where_the_next_cannot_start(tiny, lost, monkeypatch, capsys):
    tiny.mkdir()
    for name in (demo.MARKER, 'page.html'):
        (tiny / name).write_text('earlier')
    if lost == 'babel':
        monkeypatch.setitem(sys.modules, 'babel', None)
        localisation._babel.cache_clear()
    else:
        (demo.ASSETS / 'test.jsonl').unlink()
    flags = ['--retrain'] if lost == 'babel' else []
    assert cli.main(['demo', '--output', str(tiny), '--overwrite', *flags]) == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and ('Babel is needed' if lost == 'babel' else 'test.jsonl of the demo missing') in said
    assert sorted(path.name for path in tiny.iterdir()) == [demo.MARKER, 'page.html']


def test_the_vocabulary_keeps_digits_apart_and_texts_whole(tmp_path, monkeypatch):
    texts = [text for split in ROWS for line in first_lines(split) for text in json.loads(line).values()]
    monkeypatch.setattr(vocabulary, 'VOCAB_SIZE', 200)
    tokenizer = vocabulary.train(texts, tmp_path)
    for text in texts:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(sum(map(str.isdigit, piece)) <= 1 for piece in tokenizer.pieces(ids))
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.vocab_size) == (0, 1, 200)
    assert load_tokenizer(tmp_path).fingerprint() == tokenizer.fingerprint()
    assert vocabulary.train(texts, tmp_path / 'again').fingerprint() == tokenizer.fingerprint()


def test_retraining_runs_both_stages_and_keeps_half_precision(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip('babel', reason='Babel is only needed to make the data again')
    called = []

    def call(command, arguments, quiet):
        """Stands for the training itself: leaves a checkpoint where the stage would."""
        called.append((command, arguments[0]))
        shutil.copytree(checkpoint, Path(arguments[-1]) / 'best')

    monkeypatch.setattr(demo, 'call', call)
    monkeypatch.setattr(demo, 'TRAINING_ROWS', 150)
    monkeypatch.setattr(vocabulary, 'VOCAB_SIZE', 200)
    monkeypatch.setattr(localisation, 'SHIPPED_ROWS', {'tune': 3, 'calibration': 3, 'test': 3})
    demo.retrain(tmp_path, tmp_path / 'data', quiet=True)
    directory = tmp_path / 'model'
    assert called == [('train', '--gin_file=runs/demo.gin'), ('train', '--gin_file=runs/demo_classifier.gin')]
    made = native.load(directory, dtype=None)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(made.params)} == {'float16'}
    assert str(made.heads['exit_classifier']['kernel'].dtype) == 'float32' and made.generation == demo.GENERATION
    assert len(demo.lines(tmp_path / 'data' / 'train.jsonl')) == 150
    for split in ('tune', 'calibration', 'test'):
        assert demo.lines(tmp_path / 'data' / f'{split}.jsonl') == demo.lines(localisation.ASSETS / f'{split}.jsonl')[:3]


@pytest.mark.parametrize('name', ['demo', 'demo_classifier'])
def test_the_gin_files_of_the_demo_resolve(name, tmp_path):
    bindings = [f'{macro} = {str(tmp_path)!r}' for macro in ('MODEL_DIR', 'TRAIN_DATA')]
    bindings.append(f'{"TOKENIZER" if name == "demo" else "CHECKPOINT"} = {str(tmp_path)!r}')
    assert callable(configuration.read([f'runs/{name}.gin'], bindings).job)
