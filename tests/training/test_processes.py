"""Several processes train one model into one folder."""

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np

from calm_jax.checkpoints import native
from calm_jax.cli import main
from calm_jax.commands import configuration

PROCESS = """
import sys, jax
jax.distributed.initialize(
    f'localhost:{sys.argv[1]}', num_processes=2, process_id=int(sys.argv[2]), shutdown_timeout_seconds=20
)
from calm_jax.cli import main
code = main(sys.argv[3:])
jax.distributed.shutdown()
sys.exit(code)
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(('localhost', 0))
        return listener.getsockname()[1]


def train_together(arguments):
    """The exit codes and standard errors of two processes that run one command."""
    port = free_port()
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', PROCESS, str(port), str(index), *arguments],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], errors


def lines(model_dir):
    return [json.loads(line) for line in (model_dir / 'metrics.jsonl').read_text().splitlines()]


def files(model_dir):
    """Names of all that a run leaves, but for what orbax keeps within a checkpoint."""
    names = {path.relative_to(model_dir).as_posix() for path in model_dir.rglob('*')}
    return {name for name in names if 'params/' not in name and name.count('/') < 2}


def test_two_processes_go_on_after_one_and_leave_what_it_does(tmp_path, arguments):
    arguments = [*arguments, '--gin.DROPOUT_RATE=0.0', '--gin.SAMPLED_EXITS=False', '--gin.LOG_EVERY=1', '--gin.EVAL_EVERY=1']
    arguments += ['--accumulate=2', '--patience=2']
    loud = [argument for argument in arguments if argument != '--quiet']
    assert main([*arguments, f'--output={tmp_path}/alone']) == 0
    assert main([*arguments, '--steps=1', '--max_minutes=30']) == 0
    codes, errors = train_together([*loud, '--steps=2', '--resume'])
    assert codes == [0, 0], errors

    alone, model = tmp_path / 'alone', tmp_path / 'model'
    assert files(model) == files(alone) | {'state/1'}
    assert [(line['step'], 'eval' in line) for line in lines(model)] == [(1, False), (1, True), (2, False), (2, True)]
    for ours, theirs in zip(lines(model), lines(alone), strict=True):
        assert ours.keys() == theirs.keys()
        np.testing.assert_allclose(ours.get('eval', ours)['loss'], theirs.get('eval', theirs)['loss'], rtol=1e-5)
    assert (model / 'inputs.json').read_text() == (alone / 'inputs.json').read_text()
    resolved = [configuration.bindings((folder / 'config.gin').read_text()) for folder in (model, alone)]
    assert {name for name in resolved[0] if resolved[0][name] != resolved[1].get(name)} == {'MODEL_DIR'}
    for name in ('best', 'last'):
        ours, theirs = (native.load(folder / name).params for folder in (model, alone))
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-3), ours, theirs)
    # The first process speaks for all.
    assert 'examples; cut:' in errors[0] and 'step 2/2: loss' in errors[0]
    assert 'examples; cut:' not in errors[1] and 'step' not in errors[1]
