"""A checkpoint that never learned to exit, sooner: exit adapters, a certificate, and exactly what full depth says.

python examples/exits_of_any_checkpoint.py                     # after `calm demo`, which leaves calm_demo/

The commands are those of README for a checkpoint of your own. A small LLaMA with random weights stands in for it here, as it
would be published: it says nothing of sense, and is decoded early, and exactly, all the same.
"""

import json
import pathlib
import shlex
import shutil

import jax

from calm_jax.checkpoints import huggingface, native
from calm_jax.cli import main as calm
from calm_jax.models.config import TransformerConfig
from calm_jax.models.transformer import init_params

FOLDER = pathlib.Path('exits_by_example')
TRAIN, TUNE, TEST = (f'calm_demo/data/{name}.jsonl' for name in ('calibration', 'tune', 'test'))


def main(steps: int = 20) -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    publish(FOLDER / 'published')
    adapted, lengths = f'{FOLDER}/adapters/last', '--max_source_length 48 --max_new_tokens 16'
    run(f'import {FOLDER}/published --output {FOLDER}/model')
    run(
        f'train --stage adapters --checkpoint {FOLDER}/model --train_data {TRAIN} --source en --target fr '
        f'--max_source_length 48 --max_target_length 48 --batch_size 8 --steps {steps} --output {FOLDER}/adapters'
    )
    run(
        f'calibrate --checkpoint {adapted} --data {TEST} --source_field en {lengths} --adapters trained --measure softmax_gap '
        f'--grid .9,.5 --metric chrf --tolerance 0.25 --output {FOLDER}/certificate.json'
    )
    texts = f'--input {TUNE} --source_field en'
    run(f'generate --checkpoint {adapted} {texts} --certificate {FOLDER}/certificate.json {out("early")}')
    tuned = f'{texts} {lengths}'
    run(f'generate --checkpoint {FOLDER}/model {tuned} {out("bare")}')
    run(f'generate --checkpoint {adapted} {tuned} {out("full")}')
    exits = '--adapters trained --measure softmax_gap --threshold 0.1 --verify 4'
    run(f'generate --checkpoint {adapted} {tuned} {exits} {out("exact")}')
    bare, full, exact = (tokens(name) for name in ('bare', 'full', 'exact'))
    assert full == bare, 'adapters changed what full depth says'
    # In float32 a pass over several positions may round a tie of this random model's logits the other way.
    equal = sum(one == other for one, other in zip(exact, full, strict=True))
    assert equal >= 0.99 * len(full), 'drafts changed what full depth says'
    print(f'{len(full)} texts say with adapters what they said without; {equal} of them with drafts that are verified')


def publish(directory: pathlib.Path) -> None:
    """Writes a LLaMA with random weights as transformers would, with the demonstration's tokenizer."""
    tokenizer = native.load('calm_demo/model').tokenizer
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        emb_dim=32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        mlp_dim=64,
        num_encoder_layers=0,
        num_decoder_layers=6,
        mlp_activations=('silu', 'linear'),
        dropout_rate=0.0,
        positions='rotary',
        attention_scale=True,
        max_positions=128,
        pad_id=tokenizer.pad_id,
        eos_id=tokenizer.eos_id,
    )
    params = init_params(config, jax.random.key(0))
    huggingface.write(directory, native.Checkpoint(config, params, tokenizer))


def run(command: str) -> None:
    """A command as it would be typed."""
    print(f'calm {command}')
    if code := calm([*shlex.split(command), '--quiet']):
        raise SystemExit(code)


def out(name: str) -> str:
    return f'--output {FOLDER}/{name}.jsonl'


def tokens(name: str) -> list[list[int]]:
    return [json.loads(line)['tokens'] for line in (FOLDER / f'{name}.jsonl').read_text(encoding='utf-8').splitlines()]


if __name__ == '__main__':
    main()
