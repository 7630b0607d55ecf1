"""Quality metrics against their definitions, independent computations and published examples."""

import itertools
import sys
import types
from collections import Counter
from importlib import metadata

import numpy as np
import pytest
import sacrebleu

from calm_jax.metrics import quality

EXACT = [name for name in quality.METRICS if name != 'bleurt']


def words(seed, rows=40, longest=9):
    rng = np.random.default_rng(seed)
    lexicon = ['cat', 'dog', 'sat', 'on', 'mat', 'the']
    return [' '.join(rng.choice(lexicon, rng.integers(1, longest))) for _ in range(rows)]


def one(name, prediction, *references):
    return quality.metric(name)([prediction], [list(references)])[0]


def longest_common_subsequence(first, second):
    """By trying every subsequence, longest first."""
    for size in range(min(len(first), len(second)), 0, -1):
        if set(itertools.combinations(first, size)) & set(itertools.combinations(second, size)):
            return size
    return 0


def f_measure(common, predicted, wanted):
    return 2 * common / (predicted + wanted) if common else 0.0


def test_rougeL_is_the_f_measure_of_the_longest_common_subsequence_found_by_brute_force():
    predictions, references = words(0), words(1)
    values = quality.rougeL(predictions, [[text] for text in references])
    for value, prediction, reference in zip(values, predictions, references):
        p, r = prediction.split(), reference.split()
        assert value == pytest.approx(f_measure(longest_common_subsequence(p, r), len(p), len(r)), abs=1e-12)


@pytest.mark.parametrize('n', [1, 2])
def test_rouge_n_is_the_f_measure_of_clipped_n_gram_matches(n):
    predictions, references = words(2), words(3)
    values = quality.metric(f'rouge{n}')(predictions, [[text] for text in references])
    for value, prediction, reference in zip(values, predictions, references):
        p, r = (Counter(zip(*(text.split()[k:] for k in range(n)))) for text in (prediction, reference))
        assert value == pytest.approx(f_measure((p & r).total(), p.total(), r.total()), abs=1e-12)


def test_rouge_on_the_sentences_of_lin_2004():
    # 3 of 4 words in sequence, then 2 of 4; one of three word pairs
    assert one('rougeL', 'police kill the gunman', 'police killed the gunman') == pytest.approx(3 / 4)
    assert one('rougeL', 'the gunman kill police', 'police killed the gunman') == pytest.approx(2 / 4)
    assert one('rouge2', 'police kill the gunman', 'police killed the gunman') == pytest.approx(1 / 3)


def test_rouge_does_not_stem():
    assert one('rouge1', 'running cats', 'run cat') == 0


def test_token_f1_by_hand():
    # normalised: [cat sat] against [cat sat on mat]: precision 1, recall 1/2
    assert one('token_f1', 'The cat sat.', 'a cat sat on the mat') == pytest.approx(2 / 3)
    # as multisets: one of the two predicted "to" is matched, of 3 predicted and 2 wanted words
    assert one('token_f1', 'to be to', 'to go') == pytest.approx(2 / 5)
    assert one('token_f1', 'left', 'right') == 0


def test_token_f1_of_texts_without_words_is_agreement():
    assert one('token_f1', '', '') == 1
    assert one('token_f1', 'the', '!') == 1
    assert one('token_f1', '', 'word') == 0
    assert one('token_f1', 'word', '') == 0


def test_squad_normalisation_drops_case_punctuation_articles_and_extra_space():
    assert quality.normalized("  The   U.S.A. and An apple\tthat's a-z ") == 'usa and apple thats az'
    # articles go as words only, and punctuation goes first
    assert quality.normalized('Theatre another') == 'theatre another'


def test_exact_match_compares_normalised_texts_and_accuracy_stripped_ones():
    assert one('exact_match', 'the Cat!', 'cat') == 1
    assert one('exact_match', 'cat', 'cats') == 0
    assert one('accuracy', ' 1\n', '1') == 1
    assert one('accuracy', 'Positive', 'positive') == 0


def test_sentence_bleu_by_hand_with_exponential_smoothing():
    # 1-grams 3/4, 2-grams 2/3, 3-grams 1/2, no 4-gram of 1: smoothed to 1/2; same length, no brevity penalty
    expected = (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** (1 / 4)
    assert one('sentence_bleu', 'a b c x', 'a b c d') == pytest.approx(expected, abs=1e-12)
    # two orders without a match: 1/2 and 1/4 of one
    expected = (3 / 4 * 1 / 3 * (1 / 2) / 2 * (1 / 4) / 1) ** (1 / 4)
    assert one('sentence_bleu', 'a b x c', 'a b c d') == pytest.approx(expected, abs=1e-12)


def test_sentence_bleu_of_a_short_text_stops_at_its_own_order_and_is_penalised_for_brevity():
    assert one('sentence_bleu', 'a b', 'a b c') == pytest.approx(np.exp(1 - 3 / 2), abs=1e-12)
    assert one('sentence_bleu', 'x', 'a') == 0


def chrf_by_definition(prediction, reference):
    """Mean precision and recall over the orders that both texts have, then F₂ (Popović 2015)."""
    prediction, reference = prediction.replace(' ', ''), reference.replace(' ', '')
    precisions, recalls = [], []
    for n in range(1, 7):
        p, r = (Counter(text[k : k + n] for k in range(len(text) - n + 1)) for text in (prediction, reference))
        if p and r:
            precisions.append((p & r).total() / p.total())
            recalls.append((p & r).total() / r.total())
    precision, recall = np.mean(precisions), np.mean(recalls)
    return 5 * precision * recall / (4 * precision + recall) if precision else 0.0


def test_chrf_is_the_f2_of_character_n_grams():
    predictions, references = words(4), words(5)
    values = quality.chrf(predictions, [[text] for text in references])
    expected = [chrf_by_definition(p, r) for p, r in zip(predictions, references)]
    np.testing.assert_allclose(values, expected, atol=1e-12)


@pytest.mark.parametrize('name', EXACT)
def test_a_value_lies_in_the_unit_interval_and_is_one_for_the_reference_itself(name):
    texts = words(6, longest=12) + ['one two three four five .']
    others = words(7, rows=len(texts))
    values = quality.metric(name)(texts, [[text] for text in others])
    assert values.shape == (len(texts),) and values.dtype == np.float64
    assert (values >= 0).all() and (values <= 1).all()
    several = [text for text in texts if len(quality.normalized(text).split()) > 1]
    same = quality.metric(name)(several, [[text] for text in several])
    np.testing.assert_allclose(same, 1, atol=1e-12)
    assert (same <= 1).all()


@pytest.mark.parametrize('name', EXACT)
def test_several_references_score_as_the_best_of_them(name):
    predictions, first, second = words(8), words(9), words(10)
    alone = [quality.metric(name)(predictions, [[text] for text in each]) for each in (first, second)]
    both = quality.metric(name)(predictions, [list(pair) for pair in zip(first, second)])
    np.testing.assert_array_equal(both, np.maximum(*alone))


def test_every_metric_scores_no_examples_as_an_empty_array():
    assert all(quality.metric(name)([], []).shape == (0,) for name in EXACT)


def test_corpus_bleu_pools_counts_over_examples_and_references():
    # matches / n-grams over both examples: 6/7, 4/5, 2/3, 1/1 (each example pools its references)
    predictions = ['a b c d', 'e f x']
    references = [['a b c d', 'z'], ['e f g']]
    counts = [(4 + 2, 7), (3 + 1, 5), (2 + 0, 3), (1, 1)]
    expected = 100 * np.prod([matched / total for matched, total in counts]) ** (1 / 4)
    assert quality.bleu(predictions, references) == pytest.approx(expected)


def test_corpus_values_of_unequal_numbers_of_references_are_those_of_the_library():
    predictions, references = words(11), [[text] for text in words(12)]
    references[3] += ['the cat', 'on the mat']
    padded = [[row[k] if k < len(row) else None for row in references] for k in range(3)]
    assert quality.bleu(predictions, references) == sacrebleu.corpus_bleu(predictions, padded).score
    assert quality.corpus_chrf(predictions, references) == sacrebleu.corpus_chrf(predictions, padded).score


@pytest.mark.parametrize('name', ['bleu', 'corpus_chrf'])
def test_a_corpus_metric_is_refused_where_a_value_per_example_is_needed(name):
    with pytest.raises(ValueError, match=f"'{name}' is one number for a whole corpus.*sentence_bleu"):
        quality.metric(name)


@pytest.mark.parametrize('typed, near', [('rougel', 'rougeL'), ('rouge-2', 'rouge2'), ('token_F1', 'token_f1')])
def test_an_unknown_metric_is_answered_with_the_nearest_name(typed, near):
    with pytest.raises(ValueError, match=f"unknown metric '{typed}'.*did you mean {near}"):
        quality.metric(typed)
    with pytest.raises(ValueError, match=f'did you mean {near}'):
        quality.metric_version(typed)


def test_an_unknown_metric_near_to_none_is_answered_with_all_names():
    with pytest.raises(ValueError, match="unknown metric 'perplexity'; expected one of rouge1, .*accuracy"):
        quality.metric('perplexity')


@pytest.mark.parametrize(
    'predictions, references, complaint',
    [
        (['a', 'b'], [['a']], '2 predictions and 1 lists of references'),
        (['a'], ['a'], r'references\[0\] is a string: expected a list'),
        (['a', 'b'], [['a'], []], 'example 1 has no reference'),
    ],
)
@pytest.mark.parametrize('name', ['rougeL', 'accuracy'])
def test_arguments_that_do_not_fit_are_refused(name, predictions, references, complaint):
    with pytest.raises(ValueError, match=complaint):
        quality.metric(name)(predictions, references)
    with pytest.raises(ValueError, match=complaint):
        quality.bleu(predictions, references)


def test_versions_name_library_version_and_options():
    library = f'rouge-score {metadata.version("rouge-score")}'
    options = 'words of all scripts 1, no stemmer, best reference'
    assert quality.metric_version('rougeL') == f'{library} rougeL F-measure, {options}'
    for name in ('chrf', 'sentence_bleu', 'bleu', 'corpus_chrf'):
        assert quality.metric_version(name).startswith(f'sacrebleu {sacrebleu.__version__} ')
    names = [name for name in [*quality.METRICS, *quality.CORPUS_METRICS] if name != 'bleurt']
    assert len({quality.metric_version(name) for name in names}) == len(names)


def test_the_versions_of_sacrebleu_metrics_state_the_options_of_the_library_s_own_signature():
    scorers = {'sentence_bleu': sacrebleu.BLEU(effective_order=True), 'chrf': sacrebleu.CHRF()}
    for name, scorer in scorers.items():
        scorer.sentence_score('a', ['a'])
        options = set(str(scorer.get_signature()).split('|')) - {'nrefs:1', f'version:{sacrebleu.__version__}'}
        assert options <= set(quality.metric_version(name).replace(',', '').split())


def test_bleurt_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(quality.importlib.util, 'find_spec', lambda name: None)
    for call in (lambda: quality.bleurt(['a'], [['a']]), lambda: quality.metric_version('bleurt')):
        with pytest.raises(ValueError, match="'bleurt' needs the package bleurt, which is not installed: pip install"):
            call()


@pytest.fixture
def bleurt_package(monkeypatch):
    """A stand-in for the package: the score is the length of the candidate over that of the reference, minus a half."""
    loaded = []

    class BleurtScorer:
        def __init__(self, checkpoint):
            loaded.append(checkpoint)

        def score(self, *, references, candidates):
            return [len(c) / len(r) - 0.5 for c, r in zip(candidates, references, strict=True)]

    package, module = types.ModuleType('bleurt'), types.ModuleType('bleurt.score')
    package.score, module.BleurtScorer = module, BleurtScorer
    monkeypatch.setitem(sys.modules, 'bleurt', package)
    monkeypatch.setitem(sys.modules, 'bleurt.score', module)
    monkeypatch.setattr(quality.importlib.util, 'find_spec', lambda name: package)
    monkeypatch.setattr(quality.metadata, 'version', lambda name: '0.0.2')
    quality._bleurt_scorer.cache_clear()
    yield loaded
    quality._bleurt_scorer.cache_clear()


def test_bleurt_takes_the_best_reference_and_clips_to_the_unit_interval(bleurt_package, monkeypatch, tmp_path):
    checkpoint = tmp_path / 'BLEURT-20'
    checkpoint.mkdir()
    monkeypatch.setenv('BLEURT_CHECKPOINT', str(checkpoint))
    values = quality.bleurt(['aaaa', 'a', 'aa'], [['aaaa', 'aaaaa'], ['aaaa'], ['aa', 'a']])
    np.testing.assert_allclose(values, [0.5, 0.0, 1.0])
    assert quality.bleurt([], []).shape == (0,)
    assert bleurt_package == [str(checkpoint)], 'the checkpoint is loaded once'
    assert quality.metric_version('bleurt') == 'bleurt 0.0.2 BLEURT-20, clipped to [0, 1], best reference'


def test_bleurt_without_a_checkpoint_says_where_to_name_it(bleurt_package, monkeypatch, tmp_path):
    monkeypatch.delenv('BLEURT_CHECKPOINT', raising=False)
    with pytest.raises(ValueError, match='BLEURT_CHECKPOINT is not set; expected the folder'):
        quality.bleurt(['a'], [['a']])
    monkeypatch.setenv('BLEURT_CHECKPOINT', str(tmp_path / 'missing'))
    with pytest.raises(ValueError, match='missing.*no folder'):
        quality.bleurt(['a'], [['a']])
