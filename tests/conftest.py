"""One tiny model with a byte tokenizer, and data for it, for every test that runs a command or loads a checkpoint."""

import gc
import json
import os
import pathlib
from importlib import metadata

# Set before JAX starts. Tiny models run for milliseconds and compile for seconds: compile quickly rather than well.
FLAGS = '--xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=0'
if metadata.version('jaxlib').startswith('0.10.'):  # a flag that is not known would end the process
    FLAGS += ' --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'
    FLAGS += ' --xla_llvm_force_inline_before_split=false'  # with them a third of the time
os.environ.setdefault('XLA_FLAGS', FLAGS)
# Where in the code an operation comes from is told by tracebacks, without being written into programs.
os.environ.setdefault('JAX_TRACEBACK_IN_LOCATIONS_LIMIT', '0')
# What one process has compiled the other need not, nor commands that are run again; the quickest are compiled sooner than kept.
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')

import jaxtyping  # noqa: E402

import tests.annotations  # noqa: E402, F401

# Tracing makes objects by the million, few of them in circles: to look for those after every 700 takes a tenth of the time.
gc.set_threshold(100_000, 20, 20)

# Shapes and types of the functions of these folders are checked whenever a test of theirs, or a law, traces or calls one.
jaxtyping.install_import_hook(['calm_jax.decoding', 'calm_jax.depth'], 'tests.annotations.checked')
CHECKED = {'laws', 'decoding', 'depth'}

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from calm_jax.checkpoints import native  # noqa: E402
from calm_jax.data.tokenizers import ByteTokenizer  # noqa: E402
from calm_jax.models.config import TransformerConfig  # noqa: E402
from calm_jax.models.transformer import init_params  # noqa: E402

MOST_MAPPED = 50_000  # areas of memory, of the 65,530 that Linux gives a process


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """The whole suite runs in two processes, each of which takes tests that stand together and helps the other at the end.

    One process, as a debugger needs it, where a path, -n or --pdb is given.
    """
    whole = config.args_source is not config.ArgsSource.ARGS and not hasattr(config, 'workerinput')
    if whole and config.option.numprocesses is None and not (config.option.usepdb or config.option.trace):
        config.option.numprocesses, config.option.dist = 2, 'worksteal'


def pytest_collection_modifyitems(items):
    """The longest first: as one of the last it would leave the other process idle."""
    items.sort(key=lambda item: item.path.name != 'test_processes.py')


@pytest.fixture(scope='session', autouse=True)
def compiled(tmp_path_factory):
    """Commands keep compiled programs between runs: here for this session and all its processes, not in a home."""
    folder = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        folder = folder.parent
    os.environ['JAX_COMPILATION_CACHE_DIR'] = str(folder / 'compiled')
    jax.config.update('jax_compilation_cache_dir', str(folder / 'compiled'))


@pytest.fixture(scope='module', autouse=True)
def annotations(request):
    """Annotations are checked by tests that go through every decision: to check them everywhere takes a fifth of tracing."""
    jaxtyping.config.update('jaxtyping_disable', not CHECKED & set(request.path.parts))


@pytest.fixture(scope='module', autouse=True)
def programs():
    """What was compiled is dropped after a module of tests, where it is much: a process can map only so many programs."""
    yield
    maps = pathlib.Path('/proc/self/maps')
    if not maps.exists() or len(maps.read_bytes().splitlines()) > MOST_MAPPED:
        jax.clear_caches()


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory):
    config = TransformerConfig(
        vocab_size=259, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_encoder_layers=1, num_decoder_layers=3
    )
    params = jax.tree.map(np.array, jax.jit(init_params, static_argnums=0)(config, jax.random.key(1)))
    kernel = 0.3 * np.linspace(-1, 1, 16, dtype=np.float32)[:, None]  # sure now and then
    heads = {'exit_classifier': {'kernel': kernel, 'bias': np.zeros(1, np.float32)}}
    directory = tmp_path_factory.mktemp('model') / 'tiny'
    native.save(directory, config, params, ByteTokenizer(), heads, {'limits': {'max_source_length': 16, 'max_new_tokens': 8}})
    return str(directory)


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    """70 records, some longer than the model takes."""
    path = tmp_path_factory.mktemp('data') / 'in.jsonl'
    words = ['a', 'bb', 'cat', 'horse']
    lines = [
        {
            'id': f'row {i}',
            'en': ' '.join(words[(i * 7 + j) % 4] for j in range(1 + i % 6)),
            'fr': words[i % 4],
            'topic': 'even' if i % 2 == 0 else 'odd',
            'page': i // 2,
        }
        for i in range(70)
    ]
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return str(path)
