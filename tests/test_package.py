"""What importing the package costs, what it offers, and which way its imports point."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import calm_jax
from calm_jax.cli import COMMANDS

ROOT = pathlib.Path(calm_jax.__file__).parent
HEAVY = ('tensorflow', 'torch', 'transformers', 'seqio', 'tensorflow_datasets')
# What a module or folder at the top of the package may import from it; its own modules always.
MAY_IMPORT = {
    'types': set(),
    'checks': set(),
    'formats': set(),
    'files': set(),
    'schemas': set(),
    'pytrees': {'options'},
    'argmax': set(),
    'nearest': set(),
    'examples': {'schemas'},
    'outputs': set(),
    'progress': set(),
    'machine': set(),
    'tasks': {'checks'},
    'answers': {'tasks'},
    'models': {'types', 'checks', 'tasks'},
    'options': {'types', 'checks'},
    'depth': {'types', 'pytrees', 'argmax', 'nearest', 'options'},
    'metrics': {'types', 'nearest', 'models'},
    'calibration': {'formats', 'files'},
    'reporting': {'calibration', 'files', 'formats', 'schemas'},
    'data': {'nearest', 'files', 'formats', 'tasks'},
    'decoding': {'types', 'checks', 'options', 'pytrees', 'argmax', 'nearest', 'models', 'depth', 'tasks'},
    'checkpoints': {'models', 'data', 'depth', 'decoding', 'files', 'formats', 'tasks'},
    'compilation': set(),
    'output': set(),
    'streamed_text': {'data'},
    'stop_strings': {'types', 'data'},
    'languages': {'nearest', 'data'},
    'request': {'types', 'nearest', 'data', 'depth', 'decoding', 'calibration', 'languages', 'tasks'},
    'certified': {'__init__', 'formats', 'machine', 'models', 'data', 'decoding', 'calibration', 'checkpoints', 'tasks'},
    'arrivals': {'types', 'data', 'decoding', 'models'},
    'flight': {'arrivals', 'types', 'data', 'decoding', 'models', 'output'},
    'readouts': {'arrivals', 'types', 'data', 'decoding', 'models', 'output', 'tasks'},
    'memory': {'types', 'arrivals', 'depth', 'decoding', 'models'},
    'output_rows': {'answers', 'types', 'data', 'decoding', 'flight', 'metrics', 'models', 'output', 'readouts', 'request'},
    'model': {
        'answers',
        'output_rows',
        'readouts',
        'tasks',
        'compilation',
        'memory',
        'flight',
        'types',
        'options',
        'output',
        'streamed_text',
        'stop_strings',
        'languages',
        'request',
        'certified',
        'models',
        'decoding',
        'data',
        'calibration',
        'checkpoints',
        'metrics',
    },
    'counting': {'checkpoints', 'data', 'depth', 'files', 'formats', 'outputs', 'tasks'},
    'reading': {'types', 'decoding', 'models'},
    'speed': {'calibration', 'certified', 'data', 'decoding', 'model', 'output', 'progress', 'request'},
    'runs': {'certified', 'data', 'decoding', 'languages', 'model', 'progress', 'request'},
    'demo': {'data'},
    'stages': {'metrics', 'model', 'models', 'outputs', 'reporting', 'training'},
    '__init__': {
        'types',
        'models',
        'options',
        'pytrees',
        'compilation',
        'counting',
        'output',
        'model',
        'depth',
        'decoding',
        'calibrating',
        'calibration',
        'evaluation',
        'checkpoints',
        'training',
        'speed',
        'stages',
        'sweep',
    },
    'controlling': {'analysis', 'data', 'decoding', 'files', 'model', 'prediction_sets', 'tasks', 'training'},
    'gin_registry': {'controlling', 'options', 'models', 'depth', 'decoding', 'tasks', 'training'},
    'recorded': {'types', 'formats', 'files', 'calibration', 'data', 'decoding'},
    'sweep': {'calibration', 'certified', 'data', 'decoding', 'model', 'recorded', 'runs'},
    'measured': {'calibration', 'data', 'decoding', 'metrics', 'recorded', 'sweep'},
    'tuning': {'calibration', 'certified', 'files', 'measured', 'model', 'recorded', 'speed', 'sweep'},
    'curve': {'calibration', 'measured', 'schemas', 'sweep'},
    'calibrating': {
        'calibration',
        'curve',
        'data',
        'decoding',
        'examples',
        'files',
        'measured',
        'metrics',
        'model',
        'progress',
        'recorded',
        'request',
        'speed',
        'sweep',
        'tuning',
    },
    'evaluation': {'data', 'files', 'formats', 'metrics', 'progress'},
    'prediction_sets': {'analysis', 'data', 'evaluation', 'files', 'metrics', 'nearest', 'progress'},
    'analysis': {'types', 'argmax', 'models', 'depth', 'decoding', 'data', 'model', 'progress'},
    'training': {
        'tasks',
        'compilation',
        'decoding',
        'types',
        'checks',
        'options',
        'pytrees',
        'models',
        'depth',
        'data',
        'metrics',
        'checkpoints',
        'files',
        'progress',
    },
}
PARTS = {path.stem for path in ROOT.glob('*.py')} | {path.parent.name for path in ROOT.glob('*/*.py')}
MAY_IMPORT['commands'] = PARTS - {'commands', 'cli', '__init__', '__main__'}
MAY_IMPORT['cli'] = {'commands', 'nearest', '__init__'}
MAY_IMPORT['__main__'] = {'cli'}
# Addresses that hold a family's name and are no knowledge of it.
NAMED_ELSEWHERE = {'data/seqio_tasks.py': ['t5']}


def imports_of(path):
    """Dotted names below the package that a file imports, anywhere in it; names of `calm_jax` itself as those of __init__."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f'{path}: a relative import'
            names = [f'{node.module}.{alias.name}' for alias in node.names]
        for name in names:
            package, _, inner = name.partition('.')
            if package == 'calm_jax':
                yield inner if inner.partition('.')[0] in PARTS else '__init__'


def files_of(part):
    return [ROOT / f'{part}.py'] if (ROOT / f'{part}.py').exists() else sorted((ROOT / part).rglob('*.py'))


def test_every_module_and_folder_says_what_it_may_import():
    assert set(MAY_IMPORT) == PARTS


@pytest.mark.parametrize('part', sorted(MAY_IMPORT))
def test_imports_point_one_way(part):
    assert files_of(part)
    for path in files_of(part):
        assert {name.partition('.')[0] for name in imports_of(path)} <= MAY_IMPORT[part] | {part}, path


def test_no_command_is_a_library_of_another():
    commands = {f'commands.{name}{"_" if name == "import" else ""}' for name in COMMANDS}
    imported = {}
    for path in files_of('commands'):
        others = commands - {f'commands.{path.stem}'}
        if names := {'.'.join(name.split('.')[:2]) for name in imports_of(path)} & others:
            imported[path.stem] = {name.partition('.')[2] for name in names}
    assert not imported


def test_every_public_name_exists_and_is_documented():
    for name in calm_jax.__all__:
        assert getattr(calm_jax, name).__doc__, name
    with pytest.raises(AttributeError, match='nonsense'):
        _ = calm_jax.nonsense


def test_type_checkers_see_the_names_that_python_finds():
    (block,) = (
        node
        for node in ast.parse((ROOT / '__init__.py').read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING'
    )
    seen = {(node.module, alias.name, alias.asname) for node in block.body for alias in node.names}
    assert seen == {(calm_jax._MODULE_OF[name], name, name) for name in calm_jax.__all__}


def test_a_users_script_is_checked_with_real_types(tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(
        'import calm_jax as calm\n'
        'model = calm.load("folder")\n'
        'reveal_type(model)\n'
        'exit = calm.Exit(calm.SoftmaxGap(calm.FixedPruning(keep=9)), threshold=0.8)\n'
        'reveal_type(exit)\n'
        'reveal_type(model.generate("a text", exit=exit).text)\n'
        'reveal_type(model.generate(["a", "b"], calm.Decoding(choice=calm.Beam(size=2)), batch_size=4))\n'
        'reveal_type(calm.calibrate([[0.0]], [0.5], tolerance=0.1, epsilon=0.05))\n'
        'reveal_type(calm.__version__)\n'
        'calm.nonsense\n'
        'calm.Limits(max_tokens=3)\n'
        'model.generate("a text", exitt=exit)\n'
    )
    command = [sys.executable, '-m', 'pyright', '--pythonpath', sys.executable, '--project', str(tmp_path), str(script)]
    printed = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stdout
    types = re.findall(r'Type of ".*" is "(.*)"', printed)
    assert types == ['Model', 'Exit', 'str', 'Outputs', 'Certificate', 'str'], printed
    assert re.findall(r':(\d+):\d+ - error: ', printed) == ['10', '11', '12'], printed


def test_using_the_package_imports_no_other_framework():
    code = (
        'import sys, calm_jax, calm_jax.cli; [getattr(calm_jax, name) for name in calm_jax.__all__]; '
        f'print([name for name in {HEAVY!r} if name in sys.modules])'
    )
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'


def code_of(path):
    """A file without comments and docstrings, in lower case."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(getattr(node, 'body', None), list):
            node.body = [
                each for each in node.body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
            ]
    return ast.unparse(tree).lower()


def test_only_families_and_checkpoints_name_a_family():
    for path in sorted(ROOT.rglob('*.py')):
        inside = path.relative_to(ROOT).as_posix()
        if inside.startswith(('checkpoints/', 'models/families/', 'data/tokenizers/classes.py')):  # names of published classes
            continue
        assert not re.findall('longt5|bart|gpt2|llama', path.read_text().lower()), path
        # Words of prose too (an optimiser is called T5's, a flag an option): what counts is the code.
        assert re.findall('(?<![a-z])m?(?:t5|opt)(?![a-z0-9])', code_of(path)) == NAMED_ELSEWHERE.get(inside, []), path
