"""Splits a JSONL file and trains a tokenizer on what is left for training.

    python scripts/prepare.py --data multi30k/train.jsonl.gz --field en --field fr --heldout 1000 --output runs/multi30k
    python scripts/prepare.py --data alpaca.jsonl.xz --field instruction --field input --field output \\
        --heldout 600 --calibration 1000 --test 500 --output runs/alpaca

writes train.jsonl, heldout.jsonl (never trained on: it picks the checkpoint and tunes, so that calibration data stay
untouched), calibration.jsonl and test.jsonl where they are asked for, and tokenizer/spiece.model (unigram, trained on the
fields of train.jsonl). The same input and seed give the same files.
"""

import argparse
import json
import pathlib
import random

from calm_jax.data.jsonl import Records
from calm_jax.data.tokenizers import train_sentencepiece


def split(records, sizes, seed):
    """{name: records} of so many distinct records each, and 'train' of the rest, in the order of the file. A record that
    occurs twice stays on one side."""
    distinct = {}
    for record in records:
        distinct.setdefault(json.dumps(record, sort_keys=True), []).append(record)
    order = list(range(len(distinct)))
    drawn = random.Random(seed).sample(order, sum(sizes.values()))
    side, start = dict.fromkeys(order, 'train'), 0
    for name, size in sizes.items():
        side |= dict.fromkeys(drawn[start : start + size], name)
        start += size
    sides = {'train': [], **{name: [] for name in sizes}}
    for index, same in enumerate(distinct.values()):
        sides[side[index]].extend(same)
    return sides


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True, help='JSONL, plain, .gz or .xz')
    parser.add_argument('--field', required=True, action='append', help='to keep, and learn the vocabulary from; repeatable')
    parser.add_argument('--output', required=True, type=pathlib.Path, help='folder to write')
    for name in ('heldout', 'calibration', 'test'):
        parser.add_argument(f'--{name}', type=int, default=0, help='distinct records to set apart (default 0)')
    parser.add_argument('--vocab_size', type=int, default=8192, help='pieces in the vocabulary (default 8192)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the split (default 0)')
    args = parser.parse_args()

    records = Records(args.data)
    kept = ({field: records[i][field] for field in args.field} for i in range(len(records)))
    sizes = {name: getattr(args, name) for name in ('heldout', 'calibration', 'test') if getattr(args, name)}
    sides = split(kept, sizes, args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    for name, side in sides.items():
        with open(args.output / f'{name}.jsonl', 'w', encoding='utf-8') as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + '\n' for record in side)
        print(f'{name}.jsonl: {len(side)} records')
    texts = [record[field] for record in sides['train'] for field in args.field]
    train_sentencepiece(texts, args.vocab_size, args.output / 'tokenizer' / 'spiece.model', args.seed)


if __name__ == '__main__':
    main()
