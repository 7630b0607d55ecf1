"""Pairs that teach a model that starts from nothing to read its source: find some words in a text, and say what follows them.

    python scripts/reading_pairs.py --texts runs/dialogsum/train.jsonl:dialogue --texts squad/train.jsonl:context \\
        --passage 12 36 --target 12 --output runs/reading_short

A source is three words, a dash and a passage in which every seventh word is hidden; its target is the words that begin with
those three, hidden ones too. Twelve thousand summaries alone teach a small model a language, and to say the same of every
dialogue. Copying comes after some hundred steps of short passages, and goes on in long ones: `reading_base.sh` makes a model of
the BART shape that has read before it summarises. Writes OUTPUT/train.jsonl and OUTPUT/heldout.jsonl (source, target).
"""

import argparse
import json
import pathlib
import random

from calm_jax.data.jsonl import Records

CUE, HIDDEN = 3, 1 / 7  # words; their share
MASK, BAR = '...', '-'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--texts', action='append', required=True, metavar='FILE:FIELD', help='JSONL; repeatable')
    parser.add_argument('--output', required=True, type=pathlib.Path)
    parser.add_argument('--passage', type=int, nargs=2, default=(40, 110), help='words of the shortest and the longest')
    parser.add_argument('--target', type=int, default=25, help='words')
    parser.add_argument('--heldout', type=int, default=400, help='pairs that are not trained on')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    texts = sorted({text for each in args.texts for text in of_file(each)})
    draw.shuffle(texts)
    made = [pair for text in texts if (pair := of_text(text.split(' '), args.passage, args.target, draw))]
    args.output.mkdir(parents=True, exist_ok=True)
    for name, part in (('heldout', made[: args.heldout]), ('train', made[args.heldout :])):
        lines = (json.dumps({'source': source, 'target': target}, ensure_ascii=False) + '\n' for source, target in part)
        (args.output / f'{name}.jsonl').write_text(''.join(lines), encoding='utf-8')
        print(f'{len(part)} pairs in {args.output / name}.jsonl')


def of_file(name):
    """Texts of FILE:FIELD."""
    path, _, field = name.rpartition(':')
    records = Records(path)
    return [records[i][field] for i in range(len(records))]


def of_text(words, passage, count, draw):
    """(source, target) of a text's words; None where it is too short to say anything of."""
    if len(words) < passage[0]:
        return None
    length = draw.randint(passage[0], min(passage[1], len(words)))
    start = draw.randint(0, len(words) - length)
    words = words[start : start + length]
    at = draw.randint(0, length - count)
    seen = [word if at <= i < at + CUE or draw.random() > HIDDEN else MASK for i, word in enumerate(words)]
    return ' '.join([*words[at : at + CUE], BAR, *seen]), ' '.join(words[at : at + count])


if __name__ == '__main__':
    main()
