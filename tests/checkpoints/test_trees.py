import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.checkpoints import trees

TREE = {'a': {'kernel': np.arange(6, dtype=np.float32).reshape(2, 3)}, 'b': np.array([1, 2], np.int32)}


def test_the_fingerprint_ignores_the_order_of_entries_and_where_arrays_live():
    other = {'b': jnp.array([1, 2], jnp.int32), 'a': {'kernel': jnp.arange(6, dtype=jnp.float32).reshape(2, 3)}}
    strided = {**TREE, 'a': {'kernel': np.asfortranarray(TREE['a']['kernel'])}}
    assert trees.fingerprint(TREE) == trees.fingerprint(other) == trees.fingerprint(strided)
    assert len(trees.fingerprint(TREE)) == 64


@pytest.mark.parametrize(
    'changed',
    (
        {**TREE, 'b': np.array([1, 3], np.int32)},
        {**TREE, 'b': np.array([1, 2], np.uint32)},
        {**TREE, 'b': np.array([[1, 2]], np.int32)},
        {'a': TREE['a'], 'c': TREE['b']},
        {'b': TREE['b'], 'a/kernel': TREE['a']['kernel']},
        {'a': TREE['a']},
    ),
    ids=('a value', 'a dtype', 'a shape', 'a name', 'the nesting', 'a leaf less'),
)
def test_the_fingerprint_changes_with(changed):
    assert trees.fingerprint(changed) != trees.fingerprint(TREE)


@pytest.mark.parametrize('dtype', ('float32', 'bfloat16', 'float16'))
def test_what_is_written_is_read_bit_by_bit(tmp_path, dtype):
    numbers = np.random.default_rng(0).normal(size=(5, 7))
    numbers[0, :3] = np.inf, np.nan, -0.0
    tree = {'x': {'y': jnp.asarray(numbers, dtype)}, 'n': jnp.arange(3), 'scalar': jnp.asarray(2.5, dtype)}
    trees.write(tmp_path / 'tree', tree)
    read = trees.read(tmp_path / 'tree')
    assert trees.fingerprint(read) == trees.fingerprint(tree)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(read))


@pytest.mark.parametrize('name', ['run [1]', 'back\\slash', 'star*', 'what?'])
def test_a_folder_may_have_any_name(tmp_path, name):
    trees.write(tmp_path / name / 'tree', TREE)
    for copy in (name, 'plain'):
        assert trees.fingerprint(trees.read(tmp_path / copy / 'tree')) == trees.fingerprint(TREE)
        shutil.copytree(tmp_path / name, tmp_path / 'plain', dirs_exist_ok=True)


def test_only_floating_point_is_cast_when_writing_and_when_reading(tmp_path):
    tree = {'x': jnp.array([1.0, 1 / 3]), 'n': jnp.arange(3)}
    trees.write(tmp_path / 'tree', tree, 'float16')
    assert trees.read(tmp_path / 'tree')['x'].dtype == jnp.float16
    read = trees.read(tmp_path / 'tree', 'float32')
    assert read['x'].dtype == jnp.float32 and read['n'].dtype == tree['n'].dtype
    np.testing.assert_array_equal(read['x'], np.float32(np.float16([1.0, 1 / 3])))


def test_a_number_that_a_narrower_type_cannot_hold_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r'x/y: the largest magnitude 7e\+04 does not fit float16'):
        trees.write(tmp_path / 'tree', {'x': {'y': jnp.array([1.0, 70000.0])}}, 'float16')
    trees.write(tmp_path / 'tree2', {'x': jnp.array([jnp.inf, 70000.0])}, 'bfloat16')


def test_many_tensors_take_few_files_and_little_more_than_their_bytes(tmp_path):
    rng = np.random.default_rng(0)
    tree = {f'layer_{i}': rng.normal(size=(64, 64)).astype(np.float16) for i in range(60)}
    trees.write(tmp_path / 'tree', tree)
    files = [path for path in (tmp_path / 'tree').rglob('*') if path.is_file()]
    raw = sum(leaf.nbytes for leaf in tree.values())
    assert len(files) < len(tree)
    assert sum(path.stat().st_size for path in files) < raw + 60_000


def test_a_tree_larger_than_a_part_is_stored_in_several(tmp_path, monkeypatch):
    monkeypatch.setattr(trees, 'PART_BYTES', 100)
    tree = {f'layer_{i}': {'a': np.full(20, i, np.float32), 'b': {'c': np.arange(i + 1, dtype=np.int32)}} for i in range(7)}
    trees.write(tmp_path / 'tree', tree, watch=iter)
    assert len([path for path in (tmp_path / 'tree').iterdir() if path.is_dir()]) == 6
    assert trees.fingerprint(trees.read(tmp_path / 'tree')) == trees.fingerprint(tree)


def test_a_tree_that_is_not_in_parts_is_refused_in_one_line(tmp_path):
    trees.write(tmp_path / 'tree', TREE)
    for file in (tmp_path / 'tree' / '0').iterdir():
        shutil.move(file, tmp_path / 'tree')
    sums = tmp_path / 'tree' / trees.CHECKSUMS
    sums.write_text(sums.read_text().replace('"0/', '"'))
    with pytest.raises(ValueError, match='another version') as error:
        trees.read(tmp_path / 'tree')
    assert '\n' not in str(error.value)


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp('trees') / 'tree'
    trees.write(directory, TREE)
    return directory


@pytest.mark.parametrize('damage', ('truncate', 'flip', 'remove'))
def test_damage_to_any_file_is_one_line_that_names_it(written, tmp_path, damage):
    for file in sorted(path.relative_to(written) for path in written.rglob('*') if path.is_file()):
        copy = tmp_path / str(file).replace('/', '-') / 'tree'
        shutil.copytree(written, copy)
        content = bytearray((copy / file).read_bytes())
        if damage == 'truncate':
            (copy / file).write_bytes(content[: len(content) // 2])
        elif damage == 'flip':
            content[len(content) // 2] ^= 1
            (copy / file).write_bytes(content)
        else:
            (copy / file).unlink()
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            trees.read(copy)
        message = str(error.value)
        assert '\n' not in message and str(copy) in message
        assert file.name in message or file.name == trees.CHECKSUMS


def test_a_directory_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such directory'):
        trees.read(tmp_path / 'nothing')
    with pytest.raises(FileNotFoundError, match='checksums.json'):
        trees.read(tmp_path)


def test_what_orbax_cannot_read_is_one_line(tmp_path):
    (tmp_path / trees.CHECKSUMS).write_text('{}')
    with pytest.raises(ValueError, match='cannot be read') as error:
        trees.read(tmp_path)
    assert '\n' not in str(error.value)
