"""What is wrong with a file is one line that names it and the place in it."""

import json

import pytest

from calm_jax.reporting import reader


def broken(content, place, value):
    """The content with the value at a place (a path of keys), or without it where the value is `...`."""
    content = json.loads(json.dumps(content))
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return content


@pytest.mark.parametrize(
    ('name', 'place', 'value', 'message'),
    [
        ('softmax_gap/curve.json', ['points'], ..., 'the file has no "points"; it has label, kind'),
        ('softmax_gap/curve.json', ['points'], [], r'points has 0 elements: expected at least 1'),
        ('softmax_gap/curve.json', ['points', 3, 'layers'], 'deep', r'points\[3\]\.layers is "deep": expected a number'),
        ('softmax_gap/curve.json', ['points', 3, 'layers'], 9, r'points\[3\]\.layers is 9: .* from 0 to 8'),
        ('softmax_gap/curve.json', ['points', 0, 'quality'], float('nan'), r'points\[0\]\.quality is nan: expected a finite'),
        ('softmax_gap/curve.json', ['points', 0, 'rejected'], 1.5, r'points\[0\]\.rejected .*expected true, false or null'),
        ('softmax_gap/curve.json', ['kind'], 'guess', r'kind is "guess": expected one of measure, static, oracle'),
        ('softmax_gap/curve.json', ['num_layers'], 8.5, r'num_layers is 8\.5: expected a whole number'),
        ('softmax_gap/curve.json', ['label'], 3, r'label is 3: expected a string'),
        (
            'softmax_gap/trials.json',
            ['tolerances', 1, 'risk_mean'],
            None,
            r'tolerances\[1\]\.risk_mean is null: expected a number',
        ),
        ('softmax_gap/trials.json', ['objective'], 'both', r'objective is "both": expected one of textual, risk'),
        (
            'examples.json',
            ['examples', 0, 'early', 1, 'exit_layers', 2],
            0,
            r'early\[1\]\.exit_layers\[2\] is 0: .* from 1 to 8',
        ),
        (
            'examples.json',
            ['examples', 0, 'early', 1, 'exit_layers'],
            [1],
            r'exit_layers has 1 values: expected 14, one for each',
        ),
        ('examples.json', ['examples', 0, 'early', 0, 'confidence'], [1], r'confidence has 1 values: expected 14'),
        ('examples.json', ['examples', 1, 'full'], None, r'examples\[1\]\.full is null: expected an object'),
        ('sensitivity.json', ['layer'], [1.0], r'layer has 1 values: expected 10, one for each position'),
        ('ranks.json', ['first'], [1.0], r'first has 1 values: expected 8, one for each layer'),
        ('ranks.json', ['quantiles', 2], [1, 2], r'quantiles\[2\] has 2 values: expected 5 in rising order'),
        ('ranks.json', ['quantiles', 2, 0], 0, r'quantiles\[2\]\[0\] is 0: .* of at least 1'),
        ('similarity.json', ['methods', 1, 'points', 0, 'cost'], 9, r'points\[0\]\.cost is 9: .* from 1 to 8'),
        (
            'similarity.json',
            ['methods', 0, 'points', 0, 'by_layer'],
            [],
            r'by_layer has 0 values: expected 8, one for each layer',
        ),
        (
            'similarity.json',
            ['methods', 0, 'points', 1, 'final', 'mean'],
            2,
            r'final\.mean is 2: expected a finite number from',
        ),
        ('similarity.json', ['methods', 2, 'points'], [], r'methods\[2\]\.points has 0 elements: expected at least 1'),
        ('confidence.json', ['accuracy'], [0.5], r'accuracy has 1 values: expected 8, one for each layer'),
        ('confidence.json', ['confidence', 1], 1.2, r'confidence\[1\] is 1\.2: .* from 0 to 1'),
        ('confidence.json', ['auc'], [0.5], r'auc has 1 values: expected 8, one for each layer'),
        ('confidence.json', ['auc'], [], r'auc has 0 values: expected 8, one for each layer'),
        ('confidence.json', ['auc_whole', 1], 'all', r'auc_whole\[1\] is "all": expected a number'),
        ('results.json', ['rows', 0, 'layers'], [8], r'rows\[0\]\.layers is a list or an object'),
        ('results.json', ['columns'], {}, r'columns is \{\}: expected a list'),
        ('softmax_gap/certificate.json', ['guarantee'], ..., 'the file has no "guarantee"'),
        ('softmax_gap/certificate.json', ['tolerance'], 'small', r'tolerance is "small": expected a number'),
        ('softmax_gap/certificate.json', ['grid', 0, 'decoding'], 5, r'grid\[0\]\.decoding is 5: expected an object'),
        ('softmax_gap/certificate.json', ['grid'], [], r'grid has 0 elements: expected at least 1'),
        ('softmax_gap/certificate.json', ['format'], 'calm_jax certificate 1', 'by calm_jax 0.1.0, .*: calibrate again'),
        ('softmax_gap/certificate.json', ['version'], 3, 'upgrade calm_jax'),
    ],
)
def test_an_error_names_file_place_and_what_was_expected(name, place, value, message, some):
    folder = some(name, change=lambda content: broken(content, place, value))
    with pytest.raises(ValueError, match=message) as error:
        reader.read(folder)
    assert str(error.value).startswith(f'{folder / name}: ') and '\n' not in str(error.value)


def test_malformed_json_names_file_line_and_column(some):
    folder = some('results.json')
    (folder / 'results.json').write_text('{"title": "x",\n "rows": [,]}')
    with pytest.raises(ValueError, match=r'results\.json: not valid JSON at line 2, column 11: '):
        reader.read(folder)


def test_what_is_no_text_is_refused(some):
    folder = some('results.json')
    (folder / 'results.json').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(ValueError, match=r'results\.json: not readable as UTF-8 JSON'):
        reader.read(folder)


def test_a_json_list_is_no_report_file(some):
    folder = some('results.json')
    (folder / 'results.json').write_text('[]')
    with pytest.raises(ValueError, match=r'results\.json: the file is \[\]: expected an object'):
        reader.read(folder)


def test_a_folder_without_any_of_the_files_says_what_was_looked_for(tmp_path):
    (tmp_path / 'other.json').write_text('{}')
    with pytest.raises(FileNotFoundError) as error:
        reader.read(tmp_path)
    for name in ('certificate*.json', 'results.json', 'curve.json', 'trials.json', 'sensitivity.json', 'examples.json'):
        assert name in str(error.value)
    assert '\n' not in str(error.value)


def test_a_missing_folder_and_a_file_in_its_place_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere: no such folder'):
        reader.read(tmp_path / 'nowhere')
    (tmp_path / 'file').write_text('')
    with pytest.raises(NotADirectoryError, match='file: a file; expected the folder'):
        reader.read(tmp_path / 'file')


def test_files_are_found_at_any_depth_in_order_but_not_in_hidden_folders(some):
    folder = some('softmax_gap/curve.json')
    text = (folder / 'softmax_gap' / 'curve.json').read_text()
    for place in ('b/c/d', 'a', '.cache/x'):
        (folder / place).mkdir(parents=True)
        (folder / place / 'curve.json').write_text(text)
    assert [path.as_posix() for path in reader.read(folder).files] == [
        'a/curve.json',
        'b/c/d/curve.json',
        'softmax_gap/curve.json',
    ]


def test_optional_numbers_may_be_absent_or_null(some):
    def drop(content):
        for point in content['points']:
            for key in ('flops', 'flops_elbayad', 'quality', 'p_value', 'rejected'):
                del point[key]
            point['consistency'] = None
        del content['full'], content['tolerance'], content['epsilon'], content['n'], content['objective']

    (curve,) = reader.read(some('softmax_gap/curve.json', change=drop)).curves
    assert curve.full is None and curve.n is None and curve.tolerances == () and curve.points[0].flops is None


def test_tolerances_come_in_rising_order(some):
    folder = some('softmax_gap/trials.json', change=lambda content: content['tolerances'].reverse())
    (trials,) = reader.read(folder).trials
    assert [each.tolerance for each in trials.tolerances] == [0.05, 0.1, 0.15, 0.2, 0.25]


def test_certificates_tables_and_sensitivities_are_known_by_what_they_hold(some):
    folder = some('results.json', 'softmax_gap/certificate.json', 'sensitivity.json', 'examples.json')
    before = reader.read(folder)
    (folder / 'a').mkdir()
    for name, other in (
        ('results.json', 'time.json'),
        ('softmax_gap/certificate.json', 'a/c2.json'),
        ('sensitivity.json', 's.json'),
    ):
        (folder / name).rename(folder / other)
    after = reader.read(folder)
    assert [path.as_posix() for path in after.files] == ['a/c2.json', 'time.json', 's.json', 'examples.json']
    assert after.results[0].rows == before.results[0].rows and after.provenances == before.provenances
    assert after.certificates[0].guarantee == before.certificates[0].guarantee
    assert after.sensitivities[0].layer == before.sensitivities[0].layer


@pytest.mark.parametrize(
    'content',
    [
        '[]',
        '3',
        '{',
        '{"columns": ["a"], "rows": [[1]], "title": "a frame"}',
        '{"columns": [], "rows": [], "title": 3}',
        '{"title": "t", "columns": [{"key": "k", "name": "n"}], "rows": [{"k": [1]}]}',
        '{"format": 3}',
        '[' * 100_000,
        '{"metric": 1, "positions": {}, "sampling": [], "layer": []}',
        '{"analysis": ["ranks"]}',
        '\ufeff{}',
    ],
)
def test_json_of_other_programs_is_passed_over(content, some):
    folder = some('results.json')
    (folder / 'foreign.json').write_text(content)
    assert [path.as_posix() for path in reader.read(folder).files] == ['results.json']


def test_a_certificate_of_another_name_with_a_fault_is_named(some):
    folder = some('softmax_gap/certificate.json', change=lambda content: broken(content, ['guarantee'], ...))
    (folder / 'softmax_gap' / 'certificate.json').rename(folder / 'c.json')
    with pytest.raises(ValueError, match=r'c\.json: the file has no "guarantee"'):
        reader.read(folder)
