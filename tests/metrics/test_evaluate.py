"""`calm evaluate`, run as a user would."""

import gzip
import json
import lzma
import subprocess
import sys
import tracemalloc

import pytest
import sacrebleu

from calm_jax import cli
from calm_jax.metrics import quality
from calm_jax.reporting import reader

TEXTS = ['a man rides a red horse', 'two dogs play', 'the end']
REFERENCES = ['a man rides a brown horse today', 'two dogs play', 'an end']


def write(path, records):
    opener = {'.gz': gzip.open, '.xz': lzma.open}.get(path.suffix, open)
    with opener(path, 'wt', encoding='utf-8') as stream:
        stream.writelines(json.dumps(record) + '\n' for record in records)
    return str(path)


@pytest.fixture
def predictions(tmp_path):
    return write(tmp_path / 'out.jsonl', [{'id': i, 'text': text} for i, text in enumerate(TEXTS)])


@pytest.fixture
def references(tmp_path):
    return write(tmp_path / 'ref.jsonl', [{'en': 'x', 'fr': text} for text in REFERENCES])


def evaluate(predictions, references, tmp_path, *flags, field='fr'):
    """The one row of values that the command writes."""
    output = tmp_path / 'results.json'
    command = [
        'evaluate',
        '--predictions',
        predictions,
        '--references',
        references,
        '--reference_field',
        field,
        '--output',
        str(output),
        '--overwrite',
        '--quiet',
        *flags,
    ]
    assert cli.main(command) == 0
    return json.loads(output.read_text(encoding='utf-8'))['rows'][0]


def complaint(capsys, *command):
    """The one line on standard error of a command that fails."""
    assert cli.main(['evaluate', *command]) == 2
    captured = capsys.readouterr()
    assert captured.out == '' and captured.err.count('\n') == 1
    return captured.err


def test_corpus_values_and_means_of_examples_are_printed_and_written(predictions, references, tmp_path, capsys):
    row = evaluate(predictions, references, tmp_path, '--metric', 'bleu', '--metric', 'rougeL', '--metric', 'bleu')
    wanted = [[text] for text in REFERENCES]
    assert row['bleu'] == sacrebleu.corpus_bleu(TEXTS, [REFERENCES]).score
    assert row['rougeL'] == quality.rougeL(TEXTS, wanted).mean()
    assert row['examples'] == 3
    printed = capsys.readouterr().out
    assert printed.count('bleu') == 1 and f'{row["bleu"]:.2f}' in printed and f'{row["rougeL"]:.4f}' in printed


def test_the_written_file_is_a_table_that_a_report_reads(predictions, references, tmp_path):
    evaluate(predictions, references, tmp_path, '--metric', 'chrf')
    found = reader.read(tmp_path)
    (table,) = found.results
    assert [column.key for column in table.columns] == ['chrf', 'examples']
    assert table.rows[0]['chrf'] == quality.chrf(TEXTS, [[text] for text in REFERENCES]).mean()
    assert found.provenances[0].command.startswith('calm evaluate --predictions ')
    provenance = json.loads((tmp_path / 'results.json').read_text())['provenance']
    assert provenance['versions'] == {'chrf': quality.metric_version('chrf')}


def test_the_values_are_printed_as_json_where_asked(predictions, references, tmp_path, capsys):
    flags = ['--predictions', predictions, '--references', references, '--reference_field', 'fr', '--metric', 'chrf']
    assert cli.main(['evaluate', *flags, '--json', '--output', str(tmp_path / 'values.json')]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / 'values.json').read_text())
    assert cli.main(['evaluate', *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ['quantity', 'value', 'unit'] and len(lines) == 3 and all(len(line) <= 80 for line in lines)


def test_a_file_that_is_there_is_replaced_only_when_asked(predictions, references, tmp_path, capsys):
    output = tmp_path / 'results.json'
    output.write_text('kept')
    command = [
        '--predictions',
        predictions,
        '--references',
        references,
        '--reference_field',
        'fr',
        '--metric',
        'bleu',
        '--output',
        str(output),
    ]
    assert 'pass --overwrite' in complaint(capsys, *command) and output.read_text() == 'kept'
    assert cli.main(['evaluate', *command, '--overwrite', '--quiet']) == 0
    assert json.loads(output.read_text())['rows'] and not list(tmp_path.glob('*.partial'))


@pytest.mark.parametrize('suffix', ['.gz', '.xz'])
def test_compressed_files_give_the_same_values(predictions, references, tmp_path, suffix):
    packed = write(tmp_path / f'ref.jsonl{suffix}', [{'fr': text} for text in REFERENCES])
    assert evaluate(predictions, packed, tmp_path, '--metric', 'bleu') == evaluate(
        predictions, references, tmp_path, '--metric', 'bleu'
    )


def test_a_list_of_references_and_several_fields_and_templates_all_count(predictions, tmp_path):
    records = [{'all': [text, 'other'], 'head': text.split()[0], 'tail': ' '.join(text.split()[1:])} for text in TEXTS]
    path = write(tmp_path / 'several.jsonl', records)
    assert evaluate(predictions, path, tmp_path, '--metric', 'exact_match', field='all')['exact_match'] == 1
    assert evaluate(predictions, path, tmp_path, '--metric', 'exact_match', field='{all}')['exact_match'] == 1
    assert evaluate(predictions, path, tmp_path, '--metric', 'exact_match', field='{head} {tail}')['exact_match'] == 1
    assert evaluate(predictions, path, tmp_path, '--metric', 'exact_match', field='tail')['exact_match'] < 1
    assert (
        evaluate(predictions, path, tmp_path, '--metric', 'exact_match', '--reference_field', '{head} {tail}', field='tail')[
            'exact_match'
        ]
        == 1
    )


def test_labels_that_are_numbers_are_compared_as_text(tmp_path):
    out = write(tmp_path / 'out.jsonl', [{'text': '1'}, {'text': '0'}])
    labels = write(tmp_path / 'labels.jsonl', [{'label': 1}, {'label': 1}])
    assert evaluate(out, labels, tmp_path, '--metric', 'accuracy', field='label')['accuracy'] == 0.5


def test_costs_that_the_predictions_tell_are_averaged_layers_by_token(references, tmp_path, capsys):
    costs = [
        {'layers': 2.0, 'exit_layers': [2, 4, 3], 'tokens': [1, 2, 3], 'flops': 1e9},
        {'layers': 8.0, 'exit_layers': [9], 'tokens': [1], 'flops': 2e9},
        {'layers': 5.0, 'exit_layers': [], 'tokens': [], 'flops': 6e9},
    ]
    out = write(tmp_path / 'out.jsonl', [{'text': text, **cost} for text, cost in zip(TEXTS, costs)])
    row = evaluate(out, references, tmp_path, '--metric', 'bleu')
    assert row['layers'] == (3 * 2 + 8) / 4 and row['flops'] == 3e9
    assert row['exit_layers'] == (2 + 4 + 3 + 9) / 4 and 'flops_elbayad' not in row
    assert '3.000e+09' in capsys.readouterr().out


def test_a_cost_that_only_some_predictions_tell_is_left_out(references, tmp_path):
    out = write(tmp_path / 'out.jsonl', [{'text': text} for text in TEXTS[:2]] + [{'text': TEXTS[2], 'flops': 1.0}])
    assert 'flops' not in evaluate(out, references, tmp_path, '--metric', 'bleu')


def test_a_metric_of_ones_own_is_scored_with_its_source(predictions, references, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'own_scores.py').write_text(
        'def ends(texts, references):\n    return [text.endswith("end") for text in texts]\n'
    )
    row = evaluate(predictions, references, tmp_path, '--metric', 'own_scores:ends', '--metric', 'chrf')
    assert row['own_scores:ends'] == pytest.approx(1 / 3) and 0 < row['chrf'] < 1
    versions = json.loads((tmp_path / 'results.json').read_text())['provenance']['versions']
    assert versions['own_scores:ends'].startswith('own_scores:ends, source ')


def test_records_of_0_1_0_are_refused_by_their_header(predictions, references, tmp_path, capsys):
    (tmp_path / 'out.jsonl.config.json').write_text('{"input": "x", "settings": {}}')
    flags = ('--predictions', predictions, '--references', references, '--reference_field', 'fr', '--metric', 'bleu')
    assert 'written by calm_jax 0.1.0, whose records format is no longer read: decode again' in complaint(capsys, *flags)


def test_unequal_numbers_of_records_are_refused(predictions, tmp_path, capsys):
    short = write(tmp_path / 'short.jsonl', [{'fr': text} for text in REFERENCES[:2]])
    message = complaint(
        capsys, '--predictions', predictions, '--references', short, '--reference_field', 'fr', '--metric', 'bleu'
    )
    assert 'out.jsonl holds 3 records' in message and 'short.jsonl 2: expected one reference' in message


def test_the_same_ids_in_another_order_are_refused_and_other_ids_are_not(predictions, tmp_path, capsys):
    turned = write(tmp_path / 'turned.jsonl', [{'id': i, 'fr': REFERENCES[i]} for i in (1, 0, 2)])
    message = complaint(
        capsys, '--predictions', predictions, '--references', turned, '--reference_field', 'fr', '--metric', 'bleu'
    )
    assert 'out.jsonl:1 has id 0' in message and 'turned.jsonl:1 has id 1: the same ids in another order' in message
    named = write(tmp_path / 'named.jsonl', [{'id': f'q{i}', 'fr': text} for i, text in enumerate(REFERENCES)])
    assert evaluate(predictions, named, tmp_path, '--metric', 'bleu')['bleu'] > 0


@pytest.mark.parametrize('extra', [{}, {'id': 'q'}])
def test_rows_of_an_input_in_another_order_are_refused_unless_the_references_are_in_the_same(tmp_path, capsys, extra):
    order = (2, 0, 1)
    turned = write(tmp_path / 'turned.jsonl', [{'id': i, 'text': TEXTS[i]} for i in order])
    references = write(tmp_path / 'ref.jsonl', [{**extra, 'fr': text} for text in REFERENCES])
    flags = ('--reference_field', 'fr', '--metric', 'bleu')
    message = complaint(capsys, '--predictions', turned, '--references', references, *flags)
    assert 'turned.jsonl:1 has id 2: the ids are the rows of an input in another order' in message
    same = write(tmp_path / 'same.jsonl', [{'id': i, 'fr': REFERENCES[i]} for i in order])
    assert evaluate(turned, same, tmp_path, '--metric', 'bleu')['bleu'] > 0


@pytest.mark.parametrize(
    'change, expected',
    [
        (['--metric', 'bleuu'], 'did you mean bleu?'),
        (['--reference_field', 'en', '--reference_field', 'es'], "ref.jsonl:1: no field 'es'"),
        (['--reference_field', '{fr'], "template '{fr'"),
        (['--references', 'missing.jsonl'], 'missing.jsonl does not exist'),
        (['--predictions', 'missing.jsonl'], 'missing.jsonl does not exist'),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(predictions, references, capsys, change, expected):
    assert expected in complaint(
        capsys, '--predictions', predictions, '--references', references, '--reference_field', 'fr', '--metric', 'bleu', *change
    )


@pytest.mark.parametrize(
    'record, expected',
    [
        ({'output': 'a'}, "out.jsonl:2: no field 'text'"),
        ({'text': None}, 'out.jsonl:2: field "text" holds null; expected a string'),
    ],
)
def test_a_prediction_without_a_text_is_refused(references, tmp_path, capsys, record, expected):
    out = write(tmp_path / 'out.jsonl', [{'text': 'a'}, record, {'text': 'b'}])
    assert expected in complaint(
        capsys, '--predictions', out, '--references', references, '--reference_field', 'fr', '--metric', 'bleu'
    )


def test_a_record_without_any_reference_is_refused(predictions, tmp_path, capsys):
    path = write(tmp_path / 'empty.jsonl', [{'all': ['a']}, {'all': []}, {'all': ['b']}])
    assert 'empty.jsonl:2: the list of references is empty' in complaint(
        capsys, '--predictions', predictions, '--references', path, '--reference_field', 'all', '--metric', 'bleu'
    )


def test_the_command_runs_as_a_process_and_imports_no_model(predictions, references):
    script = (
        'import sys; from calm_jax import cli; code = cli.main(sys.argv[1:]); '
        'assert "jax" not in sys.modules and "rouge_score" not in sys.modules; sys.exit(code)'
    )
    done = subprocess.run(
        [
            sys.executable,
            '-c',
            script,
            'evaluate',
            '--predictions',
            predictions,
            '--references',
            references,
            '--reference_field',
            'fr',
            '--metric',
            'bleu',
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 'bleu' in done.stdout and 'corpus, 0–100' in done.stdout


def test_an_output_that_is_a_folder_is_refused_before_anything_is_read(tmp_path, capsys):
    (tmp_path / 'folder').mkdir()
    for overwrite in ([], ['--overwrite']):
        assert 'folder is a folder; --output names' in complaint(
            capsys,
            '--predictions',
            'none',
            '--references',
            'none',
            '--reference_field',
            'fr',
            '--metric',
            'bleu',
            '--output',
            str(tmp_path / 'folder'),
            *overwrite,
        )


def test_token_lists_are_not_kept(references, tmp_path, monkeypatch):
    big = {'layers': 2.0, 'tokens': list(range(1000, 3000)), 'pieces': ['piece'] * 2000}
    out = write(tmp_path / 'out.jsonl', [{'text': TEXTS[i % 3], **big} for i in range(60)])
    many = write(tmp_path / 'many.jsonl', [{'fr': REFERENCES[i % 3]} for i in range(60)])
    held = []
    real = quality.CORPUS_METRICS['bleu']

    def measured(texts, wanted):
        held.append(tracemalloc.get_traced_memory()[0])
        return real(texts, wanted)

    monkeypatch.setitem(quality.CORPUS_METRICS, 'bleu', measured)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    evaluate(out, many, tmp_path, '--metric', 'bleu')
    tracemalloc.stop()
    assert held[0] - before < 60 * 2000 * 8  # one pointer a token would already be more
