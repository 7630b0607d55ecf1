"""Words of all scripts: of Latin ones, those of rouge_score; of others, words at all."""

import numpy as np
import pytest
from rouge_score import rouge_scorer, tokenize

from calm_jax.evaluation import evaluate_file
from calm_jax.metrics import quality
from calm_jax.metrics.objective import Objective
from calm_jax.metrics.words import words

LATIN = [
    "A man rides 3 bikes; don't ask, e.g. snake_case!",
    'Größe, élève e\u0301tude, İstanbul, ﬁ ½ x² Ⅷ 5 µm ª',
    'tiếng Việt ｆｕｌｌ ſ ǅ ʼn',
    '🙂 — …',
    '',
]
OTHER = {
    'Погода сегодня, и\u0306од 5!': ['погода', 'сегодня', 'и\u0306од', '5'],
    'Ένας άνδρας': ['ένας', 'άνδρας'],
    '今日はいい、ok2': ['今', '日', 'は', 'い', 'い', 'ok2'],
    'ส\u0e27ั': ['ส', '\u0e27ั'],
    'हिन्दी में १२': ['हिन्दी', 'में', '१२'],
    '안녕하세요 세계': ['안녕하세요', '세계'],
    'שָׁלוֹם עולם': ['שָׁלוֹם', 'עולם'],
    'iPhone15は': ['iphone15', 'は'],
}


@pytest.mark.parametrize('text', LATIN)
def test_of_latin_script_words_and_scores_are_those_of_rouge_score(text):
    assert words(text) == tokenize.tokenize(text, None)
    reference = rouge_scorer.RougeScorer(['rougeL'], use_stemmer=False)
    for other in LATIN:
        assert quality.rougeL([text], [[other]])[0] == reference.score(other, text)['rougeL'].fmeasure


@pytest.mark.parametrize('text', OTHER)
def test_words_of_other_scripts_are_counted(text):
    assert words(text) == OTHER[text]
    assert quality.rougeL([text], [[text]]) == quality.rouge1([text], [[text]]) == 1
    assert quality.rougeL(['...'], [[text]]) == 0


def test_replacing_what_is_right_by_what_is_wrong_is_a_loss_in_any_script():
    references = [['Погода сегодня хорошая.'], ['今日はいい天気']]
    losses = Objective('risk', ['rougeL'], references).losses(['совсем не то', '犬が'], [row[0] for row in references])
    np.testing.assert_array_equal(losses, [1, 1])


@pytest.mark.parametrize(
    'metric, references, message',
    [
        ('rougeL', [['a b'], ['🙂 !'], ['é']], "rougeL scores 2 of 3 references 0 against themselves, the first '🙂 !'"),
        ('rouge2', [['one']], 'rouge2 scores 1 of 1 references 0'),
        ('chrf', [[' ']], 'chrf scores 1 of 1'),
    ],
)
def test_a_reference_that_nothing_matches_is_refused_where_losses_rest_on_it(metric, references, message):
    with pytest.raises(ValueError, match=message):
        Objective('risk', [metric], references)
    Objective('textual', [metric], references)  # whose losses are of the full output
    ours = quality.metric(metric)([row[0] for row in references], references)
    np.testing.assert_array_equal(ours == 0, quality.unscored(metric, references))


def test_a_full_depth_that_is_worth_nothing_is_named_once(caplog):
    objective = Objective('risk', ['rougeL'], [['Погода'], ['река']])
    for early in (['a', 'b'], ['c', 'd']):
        np.testing.assert_array_equal(objective.losses(early, ['e', 'f']), [0, 0])
    (record,) = caplog.records
    assert 'rougeL scores full depth 0 on all 2 examples' in record.getMessage()


def test_evaluation_says_what_its_score_is_not(tmp_path, caplog):
    for name, text in (('predictions', 'text'), ('references', 'target')):
        rows = (f'{{"id": {place}, "{text}": "{each}"}}\n' for place, each in enumerate(['Погода', '🙂', 'a man']))
        (tmp_path / name).write_text(''.join(rows))
    result = evaluate_file(tmp_path / 'predictions', tmp_path / 'references', ['rougeL', 'exact_match'])
    assert result.values['rougeL'] == pytest.approx(2 / 3)
    assert [record.getMessage() for record in caplog.records] == [
        'rougeL scores 1 of 3 references 0 against themselves: nothing can match them',
        'rougeL counts words of 1 of 3 references that rouge_score leaves out, of other scripts than Latin: it is not what '
        'rouge_score computes',
    ]
