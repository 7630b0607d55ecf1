"""Split Multi30k's English-French training set and train its tokenizer.

    python scripts/multi30k_prepare.py --data multi30k/train.jsonl.gz --output runs/multi30k/data

writes train.jsonl, heldout.jsonl (never trained on: it picks the checkpoint and tunes, so that the validation set stays
untouched for calibration) and tokenizer/spiece.model (unigram, trained on both languages of train.jsonl). The same
input and seed give the same files.
"""
import argparse
import gzip
import json
import pathlib
import random

from calm_jax.data.tokenizers import train_sentencepiece


def split(lines, heldout, seed):
    """(train, heldout) records, each in the order of the file. A pair that occurs twice stays on one side."""
    pairs = {}
    for line in lines:
        record = json.loads(line)
        pair = record['en'], record['fr']
        pairs.setdefault(pair, []).append({'en': record['en'], 'fr': record['fr']})
    chosen = set(random.Random(seed).sample(range(len(pairs)), heldout))
    sides = [], []
    for index, records in enumerate(pairs.values()):
        sides[index in chosen].extend(records)
    return sides


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True, help='train.jsonl.gz with fields en and fr')
    parser.add_argument('--output', required=True, type=pathlib.Path, help='folder to write')
    parser.add_argument('--heldout', type=int, default=1000, help='distinct pairs to hold out (default 1000)')
    parser.add_argument('--vocab_size', type=int, default=8192, help='pieces in the vocabulary (default 8192)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the split (default 0)')
    args = parser.parse_args()

    with gzip.open(args.data, 'rt', encoding='utf-8') as lines:
        train, heldout = split(lines, args.heldout, args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    for name, records in ('train', train), ('heldout', heldout):
        with open(args.output / f'{name}.jsonl', 'w', encoding='utf-8') as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + '\n' for record in records)
        print(f'{name}.jsonl: {len(records)} pairs')

    texts = [record[field] for record in train for field in ('en', 'fr')]
    train_sentencepiece(texts, args.vocab_size, args.output / 'tokenizer' / 'spiece.model', args.seed)


if __name__ == '__main__':
    main()
