"""`calm report`, as a user runs it."""

import subprocess
import sys

import pytest

from calm_jax.cli import main


def test_the_command_writes_page_and_figures_without_pyplot(some, tmp_path):
    folder = some('sensitivity.json', 'results.json')
    script = (
        'import sys; from calm_jax.cli import main; code = main(sys.argv[1:]); '
        'sys.exit(code or ("imported pyplot" if "matplotlib.pyplot" in sys.modules else 0))'
    )
    done = subprocess.run(
        [sys.executable, '-c', script, 'report', str(folder), '--output', 'page.html'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout == 'page.html: from 2 files, 1 figure in page_figures\n'
    assert (tmp_path / 'page.html').is_file()
    assert (tmp_path / 'page_figures' / 'sensitivity.png').read_bytes().startswith(b'\x89PNG')


def test_quiet_says_nothing(some, tmp_path, capsys):
    assert main(['report', str(some('results.json')), '--output', str(tmp_path / 'page.html'), '--quiet']) == 0
    assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda folder, page: page.write_text('old'), 'exists already; name another --output or pass --overwrite'),
        (
            lambda folder, page: (folder / 'results.json').unlink(),
            'nothing to report; looked at any depth for certificate*.json',
        ),
        (lambda folder, page: (folder / 'results.json').write_text('{'), 'not valid JSON at line 1'),
        (lambda folder, page: page.mkdir(), '--output names the page to write'),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(spoil, message, some, tmp_path, capsys):
    folder, page = some('results.json'), tmp_path / 'page.html'
    spoil(folder, page)
    assert main(['report', str(folder), '--output', str(page)]) == 2
    out, err = capsys.readouterr()
    assert out == '' and err.startswith('calm report: ') and message in err and err.count('\n') == 1


def test_overwriting_replaces_the_page(some, tmp_path):
    page = tmp_path / 'page.html'
    page.write_text('old')
    assert main(['report', str(some('results.json')), '--output', str(page), '--overwrite', '--quiet']) == 0
    assert 'English–French captions' in page.read_text(encoding='utf-8')
