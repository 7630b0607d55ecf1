"""A host program's gin and the library's: neither sees what the other binds."""

import copy
import subprocess
import sys

import gin
import pytest
from gin import config as gin_config

from calm_jax import gin_registry
from calm_jax.commands import configuration, gin_state
from calm_jax.decoding.codec import source_hash
from calm_jax.depth.confidence import StaticDepth
from calm_jax.depth.vocabulary import FixedPruning
from calm_jax.options import option
from calm_jax.pytrees import pytree
from calm_jax.training.optimizer import Optimizer
from calm_jax.training.train_loop import LoopOptions
from calm_jax.training.train_state import TrainState

FILES = ['models/tiny.gin', 'runs/train.gin']
REQUIRED = ["MODEL_DIR='a'", "TRAIN_DATA='b'", "SOURCE='{en}'", "TARGET='{fr}'", "TOKENIZER='c'"]


def snapshot():
    """All that gin holds for the program around."""
    return {
        'text': gin.config_str(),
        'operative': gin.operative_config_str(),
        'values': copy.copy(gin_config._CONFIG),
        'imports': set(gin_config._IMPORTS),
        'singletons': dict(gin_config._SINGLETONS),
        'readers': list(gin_config._FILE_READERS),
        'prefixes': list(gin_config._LOCATION_PREFIXES),
        'locked': gin.config_is_locked(),
        'scope': gin.current_scope(),
        'registry': dict(gin_config._REGISTRY.items()),
        'owners': dict(gin_config._INVERSE_REGISTRY),
        'constants': dict(gin_config._CONSTANTS.items()),
    }


@pytest.fixture
def host(tmp_path):
    """A program with a configuration of its own, whose class has a name of the library's; returns that class's maker."""

    class Host:
        def __init__(self, rate, name=None):
            self.rate = rate

    before = gin_state.current(), dict(gin_config._OPERATIVE_CONFIG), list(gin_config._LOCATION_PREFIXES)
    make = gin.external_configurable(Host, name='Optimizer', module='host')
    gin.parse_config("RATE = 0.5\nOptimizer.rate = %RATE\ninner/Optimizer.rate = 2.0\nEXTRA = 'x'\n")
    gin.add_config_file_search_path(str(tmp_path))
    gin.finalize()
    make()
    yield make
    gin_config._set_config_is_locked(False)
    gin_config._REGISTRY.pop('host.Optimizer')
    gin_config._INVERSE_REGISTRY.pop(Host)
    gin_state._hold(before[0], before[1], {})
    gin_config._LOCATION_PREFIXES[:] = before[2]


def test_reading_a_configuration_leaves_the_host_s_gin_as_it_was(host):
    with gin.config_scope('inner'):
        before = snapshot()
        read = configuration.read(FILES, REQUIRED)
        bound = configuration.decoding([], ['Limits.max_new_tokens=3'])
        assert snapshot() == before
        assert host().rate == 2.0
    assert (read.macros['MODEL_DIR'], bound.document) == ('a', {'limits': {'max_new_tokens': 3}})
    assert 'RATE = 0.5' not in read.text and 'Optimizer.warmup_steps = %WARMUP_STEPS' in read.text


@pytest.mark.parametrize('binding', ['SEDE=1', 'Optimizer.rate=1', 'SOURCE={en}', "TRAIN_STEPS='a'", 'import no_such_module'])
def test_a_mistake_leaves_the_host_s_gin_as_it_was(host, binding):
    before = snapshot()
    with pytest.raises(ValueError) as error:
        configuration.read(FILES, [*REQUIRED, binding])
    assert snapshot() == before and '\n' not in str(error.value)


def test_the_job_sees_its_own_configuration_whatever_gin_holds_by_then(host, monkeypatch):
    seen = {}

    def train_model(optimizer: Optimizer, options: LoopOptions, **others) -> TrainState:
        seen.update(optimizer=optimizer, steps=options.steps, **others)

    monkeypatch.setattr(gin_registry, 'CONFIGURABLES', (*without('train_model'), train_model))
    bindings = [
        'train_model.optimizer=@Optimizer()',
        'train_model.options=@LoopOptions()',
        'job.run=@train_model',
        "Optimizer.name='adamw'",
        'Optimizer.learning_rate=0.25',
        'Optimizer.warmup_steps=1',
    ]
    first = configuration.read([], [*bindings, 'LoopOptions.steps=1'])
    configuration.read([], [*bindings, 'LoopOptions.steps=2'])
    before = snapshot()
    first.job(model_dir='b')
    assert snapshot() == before
    assert seen == {'optimizer': Optimizer('adamw', 0.25, 1), 'steps': 1, 'model_dir': 'b'}


def without(name):
    return (each for each in gin_registry.CONFIGURABLES if each.__name__ != name)


def test_registering_for_good_is_idempotent_and_survives_a_reading():
    before = snapshot()
    try:
        gin_registry.register()
        registered = snapshot()
        gin_registry.register()
        configuration.read(FILES, REQUIRED)
        assert snapshot() == registered != before
        assert registered['registry']['calm_jax.Optimizer'].wrapped is Optimizer and type(Optimizer) is type
    finally:
        for configurable in (*gin_registry.CONFIGURABLES, gin_registry.job):
            gin_config._REGISTRY.pop(f'calm_jax.{configurable.__name__}')
            gin_config._INVERSE_REGISTRY.pop(configurable)
    assert snapshot() == before


IMPORTING = """
import gin, sys
from gin import config
def held():
    return (gin.config_str(), gin.operative_config_str(), list(config._FILE_READERS), list(config._LOCATION_PREFIXES),
            sorted(name for name, _ in config._REGISTRY.items()), gin.config_is_locked())
@gin.configurable
def uniform(rate): return rate
gin.parse_config('RATE = 0.5\\nuniform.rate = %RATE')
uniform()
gin.add_config_file_search_path('/somewhere')
before = held()
import calm_jax.cli, calm_jax.gin_registry, calm_jax.commands.train, calm_jax.commands.configuration
assert held() == before, (held(), before)
assert uniform() == 0.5
"""


def test_importing_the_library_leaves_the_host_s_gin_as_it_was():
    run = subprocess.run([sys.executable, '-c', IMPORTING], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytree
class Mine(StaticDepth):
    gain: float = option(default=0.5)


def test_classes_that_are_bound_leave_gin_as_it_was(host, tmp_path):
    (tmp_path / 'mine.gin').write_text('Exit.measure = @Mine()\nExit.threshold = 0.25\nDecoding.seed = 3\n')
    before = snapshot()
    bound = configuration.decoding(['mine.gin'], ['Mine.gain=2.0', 'FixedPruning.keep=9'], [str(tmp_path)], [Mine])
    assert snapshot() == before
    measure = {'class': f'{__name__}:Mine', 'source': source_hash(Mine), 'gain': 2.0}
    assert bound.document == {'exit': {'measure': measure, 'threshold': 0.25}, 'seed': 3}
    assert bound.unused == {FixedPruning: {'keep': 9}} and bound.own == (Mine,)


@pytest.mark.parametrize(
    'binding, message',
    [
        ('Decoding.exit=@SoftmaxGap()', 'Decoding.exit is @SoftmaxGap(); expected @Exit() or None'),
        ('Exit.measure=@Exit()', 'Exit.measure is @Exit(); expected @SoftmaxGap() or '),
        ("Exit.threshold='a'", "Exit.threshold is 'a'; expected a number"),
        ('Exit.treshold=0.5', '--gin.Exit.treshold=0.5: Exit has no treshold; did you mean threshold?'),
    ],
)
def test_a_decoding_that_cannot_be_meant_is_refused_in_one_line(binding, message):
    with pytest.raises(ValueError) as error:
        configuration.decoding([], [binding])
    assert str(error.value).startswith(message) and '\n' not in str(error.value)
