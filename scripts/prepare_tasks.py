"""Public task data as JSONL that every command reads.

    python scripts/prepare_tasks.py --sst2 sst2/train.tsv.xz --output sst2.jsonl
    python scripts/prepare_tasks.py --squad train-v1.1.json.xz --output squad.jsonl [--context 160]

SST-2 (GLUE; MNLI and RTE alike): tab-separated with a header; fields are those of the header, and `label` is a name. SQuAD 1.1
and 2.0: id, question, context, answer (the first, empty where there is none), answer_start, answers (all, one empty text where
there is none). --context leaves out questions whose context has more words: small models read short texts.
"""

import argparse
import csv
import json
import lzma
import pathlib

LABELS = {'sst2': ('negative', 'positive')}
# GLUE's own order of names, which its numbers count.


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--sst2', help='TSV with columns sentence and label (0, 1), plain or .xz')
    source.add_argument('--glue', help='TSV whose column label, or gold_label, is a name, plain or .xz')
    source.add_argument('--squad', help='JSON of SQuAD 1.1 or 2.0, plain or .xz')
    parser.add_argument('--output', required=True, type=pathlib.Path, help='JSONL to write')
    parser.add_argument('--context', type=int, help='words of a context at most')
    parser.add_argument('--limit', type=int, help='records at most, the first ones')
    args = parser.parse_args()
    if args.squad:
        records = squad(args.squad, args.context)
    else:
        records = glue(args.sst2 or args.glue, LABELS['sst2'] if args.sst2 else None)
    records = list(records)[: args.limit]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with open(args.output, 'w', encoding='utf-8') as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + '\n' for record in records)
    print(f'{args.output}: {len(records)} records')


def opened(path):
    return lzma.open(path, 'rt', encoding='utf-8') if str(path).endswith('.xz') else open(path, encoding='utf-8')


def glue(path, names):
    """Records of a TSV; names: those that the numbers of its labels count, or None."""
    with opened(path) as file:
        for number, row in enumerate(csv.DictReader(file, delimiter='\t', quoting=csv.QUOTE_NONE)):
            label = row.pop('gold_label', None) or row['label']
            yield {'id': number, **row, 'label': label if names is None else names[int(label)]}


def squad(path, context_words):
    """Records of a SQuAD file, question by question."""
    with opened(path) as file:
        articles = json.load(file)['data']
    for article in articles:
        for paragraph in article['paragraphs']:
            if context_words and len(paragraph['context'].split()) > context_words:
                continue
            for question in paragraph['qas']:
                answers = [] if question.get('is_impossible') else question['answers']
                first = answers[0] if answers else {'text': '', 'answer_start': 0}
                yield {
                    'id': question['id'],
                    'question': question['question'].strip(),
                    'context': paragraph['context'],
                    'answer': first['text'],
                    'answer_start': first['answer_start'],
                    'answers': list(dict.fromkeys(answer['text'] for answer in answers)) or [''],
                }


if __name__ == '__main__':
    main()
