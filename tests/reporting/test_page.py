"""The page: complete, self-contained, escaped, accessible."""

import base64
import json
import re

import pytest

from calm_jax.reporting import page, reader
from calm_jax.reporting.palette import layer_swatches

SECTIONS = {
    'results.json': ['results'],
    'examples.json': ['example', 'outputs'],
    'softmax_gap/certificate.json': ['guarantee'],
    'classifier/curve.json': ['tradeoffs'],
    'classifier/trials.json': ['validity'],
    'sensitivity.json': ['sensitivity'],
    'ranks.json': ['depths'],
    'similarity.json': ['similarity'],
    'planned.jsonl': ['plans'],
    'metrics.jsonl': ['training'],
}
ORDER = ['results', 'example', 'guarantee', 'tradeoffs', 'validity', 'sensitivity', 'depths', 'similarity', 'plans']
ORDER += ['training', 'outputs', 'files']


def sections(document):
    return [node.attributes['id'] for node in document.all('section')]


def compose(folder, parse):
    text, images = page.compose(reader.read(folder))
    return parse(text), images


def rows(table):
    return [[cell.text() for cell in row.children if not isinstance(cell, str)] for row in table.all('tr')]


def test_nothing_on_the_page_is_fetched_from_anywhere(composed):
    assert not re.search(r'https?:|//[a-z]', re.sub(r'base64,[\w+/=]+', '', composed.html))
    assert 'url(' not in composed.html and '@import' not in composed.html
    for node in composed.page.all():
        for name in ('src', 'srcset', 'href', 'data', 'action', 'poster'):
            value = node.attributes.get(name)
            assert value is None or value.startswith(('data:', '#')), (node.tag, value)
    policy = [
        node.attributes['content']
        for node in composed.page.all('meta')
        if node.attributes.get('http-equiv') == 'Content-Security-Policy'
    ]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert not composed.page.all('script')


def test_nothing_inside_a_figure_is_fetched_from_anywhere(composed):
    for image in composed.page.all('img'):
        svg = base64.b64decode(image.attributes['src'].removeprefix('data:image/svg+xml;base64,')).decode()
        references = re.findall(r'(?:href|src)="([^"]*)"', svg) + re.findall(r'url\(([^)]*)\)', svg)
        assert all(reference.startswith('#') for reference in references)


def test_a_full_run_shows_every_section_from_results_and_a_changed_output_on(composed):
    assert sections(composed.page) == ORDER
    links = [node.attributes['href'] for node in composed.page.all('nav')[0].all('a')]
    assert links == [f'#{name}' for name in sections(composed.page)]


@pytest.mark.parametrize('name', SECTIONS)
def test_a_section_appears_with_its_file_and_is_absent_without_it(name, some, parse, undrawn):
    document, images = compose(some(name), parse)
    assert sections(document) == [*SECTIONS[name], 'files']
    assert bool(images) == (SECTIONS[name][0] not in ('results', 'example', 'guarantee'))
    assert [node.text() for node in document.by_id('files').all('li')] == [name]


def test_a_certificate_stands_as_its_sentence_and_as_a_row_of_numbers(composed, example):
    certificate = json.loads((example / 'softmax_gap/certificate.json').read_text(encoding='utf-8'))
    guarantee = composed.page.by_id('guarantee')
    promise, none = guarantee.all('article')
    assert promise.all('p', 'sentence')[0].text() == certificate['guarantee']
    assert not promise.all('p', 'verdict')
    table = dict(zip(*rows(guarantee.all('table')[0])[:2]))
    assert table == {
        'setting': 'softmax_gap',
        'objective': 'textual',
        'metric': 'rougeL',
        'δ': '0.1',
        'ε': '0.05',
        'n': '1,014',
        'p-value': 'betting',
        'λ': '0.65',
        'share of δ used': '47%',
        'mean layers on calibration data': '4.03 of 8',
    }


def test_a_certificate_without_a_valid_setting_says_so_clearly(composed):
    guarantee = composed.page.by_id('guarantee')
    none = guarantee.all('article')[1]
    assert none.all('p', 'verdict')[0].text() == 'Full depth: all 8 layers for every token'
    cells = dict(zip(rows(guarantee.all('table')[0])[0], rows(guarantee.all('table')[0])[2]))
    assert (cells['λ'], cells['share of δ used'], cells['mean layers on calibration data']) == ('none valid', '–', '8 of 8')


def test_beside_one_certificate_stands_only_what_its_sentence_does_not_say(some, parse):
    document, _ = compose(some('softmax_gap/certificate.json'), parse)
    (promise,) = document.by_id('guarantee').all('article')
    assert not document.by_id('guarantee').all('table')
    listed = promise.all('dl', 'meanings')[0]
    assert [(div.all('dt')[0].text(), div.all('dd')[0].text()) for div in listed.all('div')] == [
        ('p-value', 'betting'),
        ('share of δ used', '47%'),
    ]


def test_what_a_guarantee_depends_on_is_listed_by_dotted_name(composed):
    listed = composed.page.by_id('guarantee').all('dl', 'circumstances')[0]
    pairs = {div.all('dt')[0].text(): div.all('dd')[0].text() for div in listed.all('div')}
    assert pairs['decoding.exit.measure.class'] == 'softmax_gap' and pairs['environment.batch_size'] == '32'
    assert pairs['procedure'] == 'fixed_sequence' and pairs['parameters'].startswith('sha256:')


def test_columns_that_say_what_they_mean_are_explained_once(some, parse):
    def explain(content):
        content['columns'][1]['meaning'] = 'mean of <all> tokens'
        content['note'] = 'Promised: nothing.'

    document, _ = compose(some('results.json', change=explain), parse)
    assert [node.text() for node in document.by_id('results').all('p', 'lead')] == ['Promised: nothing.']
    (listed,) = document.all('dl', 'meanings')
    assert (listed.all('dt')[0].text(), listed.all('dd')[0].text()) == ('Layers of 8', 'mean of <all> tokens')


def test_an_output_that_changed_stands_first_and_once_and_sets_have_their_names(some, parse):
    def name(content):
        content['data'] = 'test.jsonl'

    document, _ = compose(some('examples.json', change=name), parse)
    lead, others = document.by_id('example'), document.by_id('outputs')
    assert len(lead.all('article')) == 1 and lead.all('span', 'departs') and 'From test.jsonl.' in lead.text()
    assert [node.text() for node in others.all('h3', 'set')] == ['test.jsonl']
    inputs = [article.all('dd')[0].text() for article in document.all('article', 'example')]
    assert len(set(inputs)) == len(inputs) == 2
    assert all(node.all('ol', 'legend') and node.all('span', 'sign') for node in document.all('div', 'outputs'))


def test_where_no_output_changed_none_is_said_to(some, parse):
    def same(content):
        for each in content['examples']:
            each['early'] = [{**output, **each['full']} for output in each['early']]

    document, _ = compose(some('examples.json', change=same), parse)
    assert sections(document) == ['outputs', 'files'] and not document.all('span', 'sign')


def test_lines_of_texts_stay_lines(some, parse):
    def break_lines(content):
        content['examples'][0]['input'] = 'one\n  two'
        content['examples'][1]['input'] = f'long\n{"text " * 80}'
        content['examples'][0]['full']['pieces'][0] = '▁a\n'

    document, _ = compose(some('examples.json', change=break_lines), parse)
    inputs = [article.all('dd')[0] for article in document.all('article', 'example')]
    assert any(node.text() == 'one\n  two' for node in inputs)
    assert any(summary.text().startswith('long\ntext') for node in inputs for summary in node.all('summary'))
    assert any(node.text().startswith('a\n') for node in document.all('p', 'full'))
    style = document.all('style')[0].text()
    for names in ('.text, .tokens', '.input summary'):
        assert 'white-space: pre-wrap' in style[style.index(f'{names} {{') :].partition('}')[0]


def test_a_results_table_keeps_its_columns_units_and_values(composed):
    table = composed.page.by_id('results').all('table')[0]
    head, full, softmax, *_ = rows(table)
    # On a narrow screen a cell stands alone, below its heading.
    assert 'stacking' in table.classes() and [cell.attributes['data-heading'] for cell in table.all('td')[:7]] == head[1:]
    assert head == ['Measure', 'Layers of 8', 'FLOPs per token', 'ROUGE-L', 'BLEU', 'Time s', 'Speed-up ×', 'Certified']
    assert full == ['full model', '8.00', '40.2 M', '0.612', '38.24', '184.20', '1.00', '–']
    assert softmax == ['softmax gap', '3.35', '27.7 M', '0.606', '37.91', '91.64', '2.01', 'yes']


def test_the_page_says_what_was_run_where_and_when_after_its_results(composed):
    title = 'English–French captions, early exits within δ = 0.1'
    assert composed.page.all('header')[0].all('h1')[0].text() == title
    (heading,) = [node for node in composed.page.by_id('results').all('h3') if node.text() == title]
    assert 'unseen' in heading.classes()  # said once, to the eye
    text = composed.page.by_id('files').text()
    for part in ('python scripts/benchmarks/translation.py', 'calm calibrate --checkpoint', 'laptop, 8 cores', '2026-03-14'):
        assert part in text


def test_every_token_has_its_exit_layer_text_and_hover_text(composed, example):
    content = json.loads((example / 'examples.json').read_text(encoding='utf-8'))
    outputs = [output for each in content['examples'] for output in each['early']]
    shown = composed.page.all('p', 'tokens')
    assert len(shown) == len(outputs) == 4
    for paragraph, output in zip(shown, outputs):
        tokens = paragraph.all('span', 't')
        assert [int(token.attributes['data-layer']) for token in tokens] == output['exit_layers']
        assert [token.classes()[1] for token in tokens] == [f'l{layer}' for layer in output['exit_layers']]
        assert [token.text() for token in tokens] == [piece.removeprefix('▁') for piece in output['pieces']]
        assert paragraph.text() == ''.join(output['pieces']).replace('▁', ' ').strip()
    titles = [token.attributes['title'] for token in shown[0].all('span', 't')]
    assert titles[3] == 'layer 6 of 8, confidence 0.88'
    assert shown[2].all('span', 't')[0].attributes['title'] == 'layer 1 of 8'


def test_the_first_token_that_departs_from_the_full_model_is_marked(composed):
    marked = [[token.text() for token in paragraph.all('span', 'departs')] for paragraph in composed.page.all('p', 'tokens')]
    assert marked == [[], ['tient'], [], ['tandis']]
    assert [node.text() for node in composed.page.all('p', 'compared')] == [
        'the same tokens as the full model',
        'differs from the full model from token 6 on',
        'the same tokens as the full model',
        'differs from the full model from token 9 on',
    ]


def test_each_layer_has_its_colour_in_the_style_sheet_and_in_the_legend(composed):
    style = composed.page.all('style')[0].text()
    for dark, swatches in ((False, layer_swatches(8)), (True, layer_swatches(8, dark=True))):
        for layer, swatch in enumerate(swatches, start=1):
            rule = f'.of8 .l{layer} {{ background: {swatch.fill}; color: {swatch.ink}; }}'
            assert rule in style
            assert (style.index(rule) > style.rindex('prefers-color-scheme: dark')) == dark
    legend = composed.page.all('ol', 'legend')[0].all('li')[1:]
    assert [(item.classes(), item.text()) for item in legend] == [([f'l{layer}'], str(layer)) for layer in range(1, 9)]
    assert 'of8' in composed.page.all('div', 'outputs')[0].classes()


def test_reference_and_full_output_stand_beside_the_early_ones(composed, example):
    content = json.loads((example / 'examples.json').read_text(encoding='utf-8'))
    articles = [each for part in ('example', 'outputs') for each in composed.page.by_id(part).all('article', 'example')]
    for article, each in zip(articles, content['examples'], strict=True):
        names = [node.text().split(' ')[0] for node in article.all('dt')]
        assert names == ['Input', 'Reference', 'Full', 'softmax_gap', 'softmax_gap']
        assert each['reference'] in article.text()
        assert article.all('p', 'full')[0].text() == ''.join(each['full']['pieces']).replace('▁', ' ').strip()


def test_an_example_without_a_reference_has_no_line_for_one(some, parse):
    def drop(content):
        for each in content['examples']:
            each['reference'] = None

    document, _ = compose(some('examples.json', change=drop), parse)
    assert 'Reference' not in [node.text() for node in document.all('dt')]


EVIL = '<script>alert("x")</script>&amp;\'"><img src=x onerror=alert(1)>'


def spoil(value):
    """Every string that is not a choice or a number's name, replaced by markup."""
    if isinstance(value, dict):
        return {key: inner if key in ('key', 'kind', 'objective', 'format') else spoil(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [spoil(inner) for inner in value]
    return f'{value}{EVIL}' if isinstance(value, str) else value


def test_markup_in_any_text_stays_text(composed, some, parse, undrawn):
    document, _ = compose(
        some(
            'softmax_gap/certificate.json',
            'results.json',
            'examples.json',
            'oracle/curve.json',
            'softmax_gap/trials.json',
            change=spoil,
        ),
        parse,
    )
    assert {node.tag for node in document.all()} <= {node.tag for node in composed.page.all()}
    assert not [node for node in document.all() if any(name.startswith('on') for name in node.attributes)]
    assert all(node.attributes['src'].startswith('data:') for node in document.all('img'))
    assert document.all('p', 'tokens')[0].all('span', 't')[0].text() == f'Un{EVIL}'
    for place in ('guarantee', 'results', 'tradeoffs', 'validity', 'outputs'):
        assert EVIL in document.by_id(place).text()


def test_figures_have_descriptions_and_tables_have_headings(composed):
    images = composed.page.all('img')
    assert len(images) == 2 * len(composed.images) == 28
    assert [image.classes() for image in images] == [['light'], ['dark']] * 14
    for image in images:
        assert len(image.attributes['alt']) > 60
    for table in composed.page.all('table'):
        assert composed.page.by_id(table.attributes['aria-labelledby']) is not None
        assert {cell.attributes['scope'] for cell in table.all('thead')[0].all('th')} == {'col'}
        assert all(row.all('th')[0].attributes['scope'] == 'row' for row in table.all('tbody')[0].all('tr'))
    assert composed.page.all('html')[0].attributes['lang'] == 'en'
    names = [node.attributes['id'] for node in composed.page.all() if 'id' in node.attributes]
    assert len(set(names)) == len(names)


def test_the_same_files_give_the_same_page(some):
    run = reader.read(some('sensitivity.json', 'results.json'))
    assert page.compose(run) == page.compose(run)


def test_figures_are_written_as_png_beside_the_page(some, tmp_path, undrawn):
    written = page.write(reader.read(some('classifier/trials.json')), tmp_path / 'deep' / 'page.html')
    assert written.figures == [tmp_path / 'deep' / 'page_figures' / 'validity.png']
    assert written.figures[0].read_bytes().startswith(b'\x89PNG')
    assert (tmp_path / 'deep' / 'page.html').read_text(encoding='utf-8').startswith('<!DOCTYPE html>')


def test_a_page_without_figures_makes_no_folder_for_them(some, tmp_path):
    assert page.write(reader.read(some('results.json')), tmp_path / 'page.html').figures == []
    assert not (tmp_path / 'page_figures').exists()


def test_an_existing_page_is_kept_unless_overwriting_is_asked_for(some, tmp_path):
    run, output = reader.read(some('results.json')), tmp_path / 'page.html'
    output.write_text('mine')
    with pytest.raises(FileExistsError, match=r'page\.html: exists already; .*--overwrite'):
        page.write(run, output)
    assert output.read_text() == 'mine'
    page.write(run, output, overwrite=True)
    assert 'mine' not in output.read_text(encoding='utf-8')


def test_overwriting_removes_figures_of_an_earlier_report_and_nothing_else(some, tmp_path):
    folder = tmp_path / 'page_figures'
    folder.mkdir()
    for name in ('tradeoff_2_quality_layers.png', 'validity.png', 'holiday.png', 'validity.txt'):
        (folder / name).write_text('old')
    run = reader.read(some('results.json'))
    with pytest.raises(FileExistsError, match='page_figures: exists already'):
        page.write(run, tmp_path / 'page.html')
    page.write(run, tmp_path / 'page.html', overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == ['holiday.png', 'validity.txt']


def test_a_folder_is_no_page(some, tmp_path):
    with pytest.raises(IsADirectoryError, match='--output names the page to write'):
        page.write(reader.read(some('results.json')), tmp_path, overwrite=True)


def test_examples_that_differ_in_early_outputs_alone_are_shown_once(some, parse):
    folder = some('examples.json')
    content = json.loads((folder / 'examples.json').read_text(encoding='utf-8'))
    articles = len(compose(folder, parse)[0].all('article', 'example'))
    for number, each in enumerate(content['examples']):
        for output in each['early']:
            output['label'] = f'another {number}'
    (folder / 'b').mkdir()
    (folder / 'b' / 'examples.json').write_text(json.dumps(content), encoding='utf-8')
    document, _ = compose(folder, parse)
    assert len(document.all('article', 'example')) == articles
    assert len(document.all('p', 'tokens')) == 8 and 'another 1' in document.by_id('outputs').text()
    content['examples'][0]['full']['pieces'][0] += 'x'
    (folder / 'b' / 'examples.json').write_text(json.dumps(content), encoding='utf-8')
    assert len(compose(folder, parse)[0].all('article', 'example')) == 2 * articles
