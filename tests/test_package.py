"""What importing the package costs, what it offers, and which way its imports point."""

import ast
import pathlib
import subprocess
import sys

import pytest

import calm_jax

ROOT = pathlib.Path(calm_jax.__file__).parent
HEAVY = ('tensorflow', 'torch', 'transformers', 'seqio', 'tensorflow_datasets')
# What a folder may import from the package; its own modules always.
MAY_IMPORT = {
    'types': set(),
    'checks': set(),
    'formats': set(),
    'options': set(),
    'files': set(),
    'schemas': set(),
    'pytrees': set(),
    'argmax': set(),
    'nearest': set(),
    'models': {'types', 'checks'},
    'depth': {'types', 'options', 'pytrees', 'argmax', 'nearest'},
    'metrics': {'types', 'nearest', 'models'},
    'calibration': {'files', 'formats'},
    'report': {'calibration', 'files', 'schemas'},
    'examples': {'schemas'},
    'data': {'nearest', 'files'},
    'decoding': {'types', 'checks', 'options', 'pytrees', 'argmax', 'nearest', 'models', 'depth'},
    'checkpoints': {'models', 'data', 'files'},
    'model': {'types', 'models', 'depth', 'decoding', 'data', 'checkpoints', 'metrics'},
    'sweep': {'data'},
    'curve': {'sweep', 'metrics', 'schemas'},
    'analysis': {'types', 'models', 'depth', 'decoding', 'data', 'model', 'progress'},
    'training': {'types', 'checks', 'models', 'depth', 'data', 'checkpoints', 'progress'},
}


def imports_of(path):
    """Modules of the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            modules = [f'{node.module}.{alias.name}' for alias in node.names]
        yield from (module.split('.')[1] for module in modules if module.startswith('calm_jax.'))


@pytest.mark.parametrize('folder', sorted(MAY_IMPORT))
def test_imports_point_one_way(folder):
    paths = [ROOT / f'{folder}.py'] if (ROOT / f'{folder}.py').exists() else sorted((ROOT / folder).rglob('*.py'))
    assert paths
    for path in paths:
        assert set(imports_of(path)) <= MAY_IMPORT[folder] | {folder}, path


def test_every_public_name_exists_and_is_documented():
    for name in calm_jax.__all__:
        assert getattr(calm_jax, name).__doc__, name
    with pytest.raises(AttributeError, match='nonsense'):
        _ = calm_jax.nonsense


def test_using_the_package_imports_no_other_framework():
    code = (
        'import sys, calm_jax, calm_jax.cli; [getattr(calm_jax, name) for name in calm_jax.__all__]; '
        f'print([name for name in {HEAVY!r} if name in sys.modules])'
    )
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'


def test_only_families_and_checkpoints_name_a_family():
    names = ('longt5', 'bart', 'gpt2', 'llama')
    for path in ROOT.rglob('*.py'):
        inside = path.relative_to(ROOT).parts
        if inside[0] == 'checkpoints' or inside[:2] == ('models', 'families'):
            continue
        assert not [name for name in names if name in path.read_text().lower()], path
