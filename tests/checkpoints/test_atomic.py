import pytest

from calm_jax.checkpoints.atomic import new_directory


def write(directory, text):
    (directory / 'config.json').write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_nothing_stands_at_the_path_until_the_block_ends(tmp_path):
    path = tmp_path / 'deep' / 'model'
    with new_directory(path) as temporary:
        write(temporary, 'new')
        assert not path.exists()
    assert (path / 'config.json').read_text() == 'new'
    assert names(path.parent) == ['model']


@pytest.mark.parametrize('overwrite', (False, True))
def test_a_failure_inside_the_block_leaves_what_was_there_and_nothing_else(tmp_path, overwrite):
    path = tmp_path / 'model'
    if overwrite:
        path.mkdir()
        write(path, 'old')
    with pytest.raises(KeyboardInterrupt):
        with new_directory(path, overwrite) as temporary:
            write(temporary, 'half')
            raise KeyboardInterrupt
    assert names(tmp_path) == (['model'] if overwrite else [])
    assert not overwrite or (path / 'config.json').read_text() == 'old'


def test_a_directory_is_replaced_only_when_asked(tmp_path):
    path = tmp_path / 'model'
    path.mkdir()
    with new_directory(path) as temporary:  # An empty directory is nothing.
        write(temporary, 'old')
        (temporary / 'more').touch()
    with pytest.raises(FileExistsError, match='not empty.*--overwrite'):
        with new_directory(path):
            pytest.fail('the block must not run')
    with new_directory(path, overwrite=True) as temporary:
        write(temporary, 'new')
    assert names(path) == ['config.json'] and names(tmp_path) == ['model']
    assert (path / 'config.json').read_text() == 'new'


def test_overwriting_refuses_a_directory_that_is_no_checkpoint(tmp_path):
    (tmp_path / 'thesis.tex').touch()
    with pytest.raises(FileExistsError, match='not a checkpoint'):
        with new_directory(tmp_path, overwrite=True):
            pytest.fail('the block must not run')
    assert names(tmp_path) == ['thesis.tex']


def test_a_file_is_never_replaced(tmp_path):
    (tmp_path / 'model').touch()
    with pytest.raises(FileExistsError, match='not a directory'):
        with new_directory(tmp_path / 'model', overwrite=True):
            pytest.fail('the block must not run')


def test_a_symbolic_link_keeps_pointing_at_what_was_replaced(tmp_path):
    (tmp_path / 'real').mkdir()
    write(tmp_path / 'real', 'old')
    (tmp_path / 'link').symlink_to('real')
    with new_directory(tmp_path / 'link', overwrite=True) as temporary:
        write(temporary, 'new')
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'real' / 'config.json').read_text() == 'new'
