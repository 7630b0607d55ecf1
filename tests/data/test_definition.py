import functools
import os
import subprocess
import sys

import numpy as np

from calm_jax.data.definition import digest


class Step:
    def __init__(self, size):
        self.size = size
        self.itself = self

    def run(self):
        return self.size


def closed(value):
    return lambda: value


def defaulted(value):
    def step(text, other=value):
        return text + other

    return step


def test_what_defines_a_function_or_an_object_is_in_its_digest():
    def one(text):
        return text + 'a'

    def two(text):
        return text + 'b'

    values = [
        one,
        two,
        closed('a'),
        closed('b'),
        defaulted('a'),
        defaulted('b'),
        functools.partial(one, 'a'),
        functools.partial(one, 'b'),
        functools.partial(one, text='a'),
        Step(1),
        Step(2),
        Step(1).run,
        Step,
        len,
        np.arange(2),
        np.arange(2.0),
        {'a': 1},
        {'a': 2},
        (1, 2),
        (2, 1),
        b'a',
        None,
        closed(one),
        closed(two),
    ]
    assert len({digest(value) for value in values}) == len(values)
    again = [closed('a'), defaulted('b'), functools.partial(one, 'a'), Step(1), Step(1).run, {'b': 1, 'a': 2}]
    same = [closed('a'), defaulted('b'), functools.partial(one, 'a'), Step(1), Step(1).run, {'a': 2, 'b': 1}]
    assert [digest(value) for value in again] == [digest(value) for value in same]


def test_a_change_in_a_function_s_file_changes_its_digest(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for name, helper in (('step_one', 'a'), ('step_one', 'b')):
        (tmp_path / f'{name}.py').write_text(f'def helper(): return "{helper}"\ndef step(): return helper()\n')
        found.append(digest(__import__(name).step))
        del sys.modules[name]
    assert found[0] != found[1]


def test_a_digest_is_the_same_in_every_process(tmp_path):
    (tmp_path / 'steps.py').write_text(
        'import functools\n'
        'def step(text, words={"a", "b", "c"}, *, size=3):\n'
        '    return [len(word) for word in words if word in {"d", "e", "f"}]\n'
        'class Step:\n    def __init__(self): self.names = frozenset("abcdef"); self.step = lambda: object\n'
        'values = functools.partial(step, size=4), Step(), Step().step, object\n'
    )
    code = 'import steps; from calm_jax.data.definition import digest; print(digest(steps.values))'
    found = {
        subprocess.run(
            [sys.executable, '-c', code],
            env={**os.environ, 'PYTHONHASHSEED': seed, 'PYTHONPATH': os.pathsep.join([str(tmp_path), *sys.path])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ('1', '2', '3')
    }
    assert len(found) == 1
