"""Splits a JSONL file into what a study needs, each part disjoint from the others, with long fields cut to so many words.

    python scripts/prepare_studies.py --data cnndm.jsonl.xz --field article --field highlights --words article=110 \\
        --train 400 --heldout 40 --tune 200 --calibration 200 --test 150 --output cnndm
    python scripts/prepare_studies.py --data alpaca.jsonl.xz --field instruction --field input --field output \\
        --words instruction=40 --words input=40 --train 4000 --heldout 60 --tune 400 --calibration 400 --test 300 \\
        --output alpaca

train.jsonl is what is learned from, heldout.jsonl picks checkpoints, tune.jsonl is what prompt controllers learn from,
calibration.jsonl is for certificates and test.jsonl for the end. Records that are alike once they are cut count once. The same
input, sizes and seed give the same files.
"""

import argparse
import json
import pathlib
import random

from calm_jax.data.jsonl import Records

PARTS = ('train', 'heldout', 'tune', 'calibration', 'test')


def cut(record, fields, words):
    """The fields of a record, those in words, {field: number}, with no more words than that."""
    return {field: ' '.join(record[field].split()[: words[field]]) if field in words else record[field] for field in fields}


def parts_of(records, sizes, seed):
    """{name: records} of so many distinct ones each. Raises ValueError where there are fewer."""
    distinct = list({json.dumps(record, sort_keys=True): record for record in records}.values())
    if sum(sizes.values()) > len(distinct):
        raise ValueError(f'{sum(sizes.values())} records are asked for; there are {len(distinct)} distinct ones')
    drawn = iter(random.Random(seed).sample(distinct, sum(sizes.values())))
    return {name: [next(drawn) for _ in range(size)] for name, size in sizes.items()}


def most_words(text):
    """('article', 110) of 'article=110'."""
    field, _, number = text.partition('=')
    if not field or not number.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r}: expected FIELD=WORDS')
    return field, int(number)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True, help='JSONL, plain, .gz or .xz')
    parser.add_argument('--field', required=True, action='append', help='to keep; repeatable')
    parser.add_argument(
        '--words', type=most_words, action='append', default=[], metavar='FIELD=N', help='to cut at; repeatable'
    )
    for name in PARTS:
        parser.add_argument(f'--{name}', type=int, default=0, help='distinct records of it (default 0: no such file)')
    parser.add_argument('--seed', type=int, default=0, help='of the split (default 0)')
    parser.add_argument('--output', required=True, type=pathlib.Path, help='folder to write')
    args = parser.parse_args()
    records = Records(args.data)
    texts = [cut(records[i], args.field, dict(args.words)) for i in range(len(records))]
    sizes = {name: getattr(args, name) for name in PARTS if getattr(args, name)}
    try:
        parts = parts_of(texts, sizes, args.seed)
    except ValueError as error:
        parser.error(str(error))
    args.output.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        lines = (json.dumps(record, ensure_ascii=False) + '\n' for record in part)
        (args.output / f'{name}.jsonl').write_text(''.join(lines), encoding='utf-8')
        print(f'{args.output / name}.jsonl: {len(part)} records')


if __name__ == '__main__':
    main()
