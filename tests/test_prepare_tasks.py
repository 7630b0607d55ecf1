"""Files of GLUE and SQuAD, as they are published, become the records that trainings and `evaluate` read."""

import json
import lzma
import pathlib
import sys

import pytest

SCRIPTS = pathlib.Path(__file__).parents[1] / 'scripts'
MNLI = (
    'index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\tsentence1\t'
    'sentence2\tlabel1\tgold_label\n'
    '0\t31\t31n\tfiction\t(\t(\t(\t(\tHe said "no\tHe agreed.\tneutral\tcontradiction\n'
)
RTE = 'index\tsentence1\tsentence2\tlabel\n0\tIt rains.\tIt is wet.\tentailment\n1\tIt rains.\tIt is dry.\tnot_entailment\n'
SST2 = 'sentence\tlabel\na joy \t1\ndull\t0\n'


def squad(version, *questions):
    context = 'Ada wrote the first program.'
    return json.dumps({'version': version, 'data': [{'title': 'Ada', 'paragraphs': [{'context': context, 'qas': questions}]}]})


ANSWERED = {
    'id': 'a',
    'question': ' Who wrote it? ',
    'answers': [
        {'text': 'Ada', 'answer_start': 0},
        {'text': 'Ada', 'answer_start': 0},
        {'text': 'Ada wrote', 'answer_start': 0},
    ],
}
UNANSWERABLE = {
    'id': 'b',
    'question': 'When?',
    'is_impossible': True,
    'answers': [],
    'plausible_answers': [{'text': 'first', 'answer_start': 14}],
}


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import prepare_tasks

    def run(flag, text, *flags):
        path, output = tmp_path / 'data.xz', tmp_path / 'out' / 'made.jsonl'
        path.write_bytes(lzma.compress(text.encode()))
        monkeypatch.setattr(sys, 'argv', ['prepare_tasks.py', flag, str(path), '--output', str(output), *flags])
        prepare_tasks.main()
        return [json.loads(line) for line in output.read_text(encoding='utf-8').splitlines()]

    yield run
    sys.modules.pop('prepare_tasks')


def test_pairs_of_glue_keep_their_columns_and_the_name_of_their_label(prepared):
    (pair,) = prepared('--glue', MNLI)
    assert (pair['sentence1'], pair['sentence2'], pair['label']) == ('He said "no', 'He agreed.', 'contradiction')
    assert [each['label'] for each in prepared('--glue', RTE)] == ['entailment', 'not_entailment']


def test_numbers_of_sst_2_become_names(prepared):
    assert [(each['sentence'], each['label']) for each in prepared('--sst2', SST2)] == [
        ('a joy ', 'positive'),
        ('dull', 'negative'),
    ]


def test_questions_have_all_their_answers_once_and_none_is_an_empty_text(prepared):
    answered, impossible = prepared('--squad', squad('v2.0', ANSWERED, UNANSWERABLE))
    assert answered['question'] == 'Who wrote it?'
    assert answered['context'][answered['answer_start'] :].startswith(answered['answer'])
    assert (answered['answer'], answered['answers']) == ('Ada', ['Ada', 'Ada wrote'])
    assert (impossible['answer'], impossible['answers']) == ('', [''])
    assert prepared('--squad', squad('1.1', ANSWERED), '--context', '4') == []
