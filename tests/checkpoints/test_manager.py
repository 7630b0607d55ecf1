import shutil

import jax
import jax.numpy as jnp
import optax
import pytest

from calm_jax.checkpoints.manager import Manager


def state(value, width=3):
    """A training state: parameters, an optimizer's named tuples, a key, a step."""
    params = {'dense': {'kernel': jnp.full((2, width), float(value))}}
    return {
        'params': params,
        'optimizer': optax.adamw(optax.constant_schedule(1e-3)).init(params),
        'key': jax.random.key_data(jax.random.key(value)),
        'step': jnp.asarray(value),
    }


def test_a_restored_state_has_the_structure_types_and_bits_of_the_saved_one(tmp_path):
    with Manager(tmp_path / 'run') as manager:
        manager.save(4, state(4))
    with Manager(tmp_path / 'run') as manager:
        assert manager.latest_step() == 4
        restored = manager.restore(state(0))
    assert jax.tree.structure(restored) == jax.tree.structure(state(4))
    for found, expected in zip(jax.tree.leaves(restored), jax.tree.leaves(state(4))):
        assert found.dtype == expected.dtype and (found == expected).all()


def test_a_run_may_have_any_name(tmp_path):
    for step in (1, 2):
        with Manager(tmp_path / 'run [1]' / 'state') as manager:
            assert manager.latest_step() == (1 if step == 2 else None)
            manager.save(step, state(step))
    with Manager(tmp_path / 'run [1]' / 'state') as manager:
        assert manager.restore(state(0), 1)['step'] == 1 and manager.restore(state(0))['step'] == 2


def test_the_latest_steps_stay(tmp_path):
    with Manager(tmp_path, keep=2) as manager:
        for step in (0, 10, 20, 30):
            manager.save(step, state(step))
        assert manager.latest_step() == 30
        assert manager.restore(state(0), 20)['step'] == 20
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [20, 30]


def test_without_checkpoints_there_is_no_step_and_restoring_says_so(tmp_path):
    with Manager(tmp_path) as manager:
        assert manager.latest_step() is None
        with pytest.raises(FileNotFoundError, match='found no checkpoint'):
            manager.restore(state(0))
        manager.save(1, state(1))
        with pytest.raises(FileNotFoundError, match='found steps 1, expected step 7'):
            manager.restore(state(0), 7)


def test_a_step_saved_again_is_replaced(tmp_path):
    with Manager(tmp_path) as manager:
        manager.save(3, state(3))
        manager.save(3, state(5))
        assert manager.restore(state(0))['step'] == 5


def test_an_interrupted_save_is_invisible_and_removed(tmp_path):
    with Manager(tmp_path) as manager:
        manager.save(3, state(3))
    shutil.copytree(tmp_path / '3', tmp_path / '9.orbax-checkpoint-tmp', ignore=lambda *_: ['commit_success.txt'])
    with Manager(tmp_path) as manager:
        assert manager.latest_step() == 3
        manager.save(4, state(4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['3', '4']


def test_the_state_of_another_model_is_refused_by_the_name_of_what_differs(tmp_path):
    with Manager(tmp_path) as manager:
        manager.save(3, state(3))
        with pytest.raises(ValueError, match=r'params/dense/kernel has shape \(2, 3\), expected \(2, 4\)'):
            manager.restore(state(0, width=4))
        with pytest.raises(ValueError, match='optimizer/0/count is unexpected'):
            manager.restore({'params': state(0)['params']})


def test_a_damaged_step_is_one_line(tmp_path):
    with Manager(tmp_path) as manager:
        manager.save(3, state(3))
    (tmp_path / '3' / 'default' / '_METADATA').unlink()
    with Manager(tmp_path) as manager, pytest.raises(ValueError, match='cannot be read') as error:
        manager.restore(state(0))
    assert '\n' not in str(error.value)


def test_what_cannot_be_meant_is_refused(tmp_path):
    with pytest.raises(ValueError, match='keep is 0'):
        Manager(tmp_path, keep=0)
    (tmp_path / 'file').touch()
    with pytest.raises(FileExistsError, match='not a directory'):
        Manager(tmp_path / 'file')
