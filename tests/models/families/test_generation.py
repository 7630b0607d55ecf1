"""Published generation settings: every field is used, changes no token, is named, or is refused."""

import re

import pytest

from calm_jax.decoding import codec
from calm_jax.decoding.rules import Rules
from calm_jax.models.families import generation
from calm_jax.models.families.generation import document_of, published_of

# The fields of `GenerationConfig` in transformers 5.24, and what 4.x had besides (4.20 to 4.57).
FIELDS = """
max_length max_new_tokens min_length min_new_tokens early_stopping max_time stop_strings do_sample num_beams use_mtp use_cache
cache_implementation cache_config max_cache_len temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff
repetition_penalty encoder_repetition_penalty length_penalty no_repeat_ngram_size bad_words_ids renormalize_logits
forced_bos_token_id forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens
begin_suppress_tokens sequence_bias token_healing guidance_scale watermarking_config num_return_sequences output_attentions
output_hidden_states output_scores output_logits return_dict_in_generate pad_token_id bos_token_id eos_token_id
encoder_no_repeat_ngram_size decoder_start_token_id is_assistant num_assistant_tokens num_assistant_tokens_schedule
assistant_confidence_threshold prompt_lookup_num_tokens max_matching_ngram_size assistant_early_exit assistant_lookbehind
target_lookbehind assistant_ensemble_weight speculation_type compile_config disable_compile continuous_batching_config
low_memory penalty_alpha dola_layers diversity_penalty num_beam_groups constraints force_words_ids prefill_chunk_size
transformers_version forced_decoder_ids return_legacy_cache generation_kwargs
""".split()
DECIDED = (
    generation.USED,
    generation.SAMPLING,
    generation.SEARCHING,
    generation.CHOOSING,
    generation.IDS,
    generation.REFUSED,
    generation.NOTICED,
    generation.WITHOUT_EFFECT,
)


@pytest.mark.parametrize('name', FIELDS)
def test_every_field_is_decided_once(name):
    assert sum(name in table for table in DECIDED) == 1


@pytest.mark.parametrize('name', generation.REFUSED)
def test_what_changes_tokens_and_cannot_be_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f'^{name} .*cannot be used: '):
        document_of({name: 0.5}, encodes=True)
    for off in (None, *generation.REFUSED[name].off):
        assert document_of({name: off}, encodes=True) == ({}, [])


def test_what_nobody_knows_is_named():
    assert document_of({'_from_model_config': True, 'wonders': 3, 'num_return_sequences': 2}, True)[1] == [
        'num_return_sequences 2: a text has one output here, unless a call asks for more',
        'wonders: not known, and not used',
    ]


SETTINGS = {
    'penalty': ({'repetition_penalty': 1.7, 'use_cache': True}, {'rules': {'repetition_penalty': 1.7}}),
    'off': ({'repetition_penalty': 1, 'top_k': 50, 'num_beams': 1, 'do_sample': False, 'temperature': 0.6}, {}),
    'drawn': ({'do_sample': True}, {'choice': {'class': 'sampled', 'top_k': 50}}),
    'all of them': ({'do_sample': True, 'top_k': 0, 'top_p': 0.9}, {'choice': {'class': 'sampled', 'top_p': 0.9}}),
    'beams': (
        {'num_beams': 4, 'renormalize_logits': True},
        {'choice': {'class': 'beam', 'size': 4, 'renormalize_logits': True}},
    ),
    'no beams': ({'length_penalty': 2.0, 'early_stopping': True}, {}),
    'stops': ({'stop_strings': 'END'}, {'limits': {'stop_strings': ['END']}}),
}


@pytest.mark.parametrize('settings, document', SETTINGS.values(), ids=SETTINGS)
def test_settings_make_a_document_and_the_document_the_settings(settings, document):
    assert document_of(settings, encodes=True) == (document, [])
    assert document_of(published_of(document), encodes=True) == (document, [])
    codec.from_json(document)


def test_lengths_count_the_prompt_of_a_model_that_only_decodes():
    lengths = {'max_length': 50, 'min_length': 20}
    assert document_of(lengths, encodes=False)[0] == {'limits': {'max_length': 50}, 'rules': {'min_length': 20}}
    assert document_of(lengths, encodes=True)[0] == {'limits': {'max_new_tokens': 49}, 'rules': {'min_new_tokens': 19}}
    both = {**lengths, 'max_new_tokens': 7, 'min_new_tokens': 3}
    assert document_of(both, encodes=False)[0] == {'limits': {'max_new_tokens': 7}, 'rules': {'min_new_tokens': 3}}


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'do_sample': True, 'num_beams': 2}, 'do_sample with num_beams'),
        ({'stop_strings': ['a'], 'num_beams': 2}, 'stop_strings with num_beams'),
        ({'forced_eos_token_id': [1, 2]}, 'forced_eos_token_id'),
    ],
)
def test_combinations_that_nothing_here_decodes_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        document_of(settings, encodes=True)


@pytest.mark.parametrize(
    'settings', [{'max_time': 3.5}, {'stop_strings': ['a'], 'num_beams': 2}, {'forced_eos_token_id': [1, 2]}], ids=str
)
def test_a_refusal_names_the_flag_that_reads_over_it_and_a_notice_says_so(settings):
    with pytest.raises(ValueError) as error:
        document_of(settings, encodes=True)
    (name,) = re.findall(r'import with --ignore_attributes (\w+)$', str(error.value))
    document, (notice,) = document_of({**settings, 'repetition_penalty': 1.5}, encodes=True, ignored=[name, 'another'])
    assert notice == f'{name} {settings[name]}: read over, as was asked'
    others = {each: value for each, value in settings.items() if each != name}
    assert document == document_of({**others, 'repetition_penalty': 1.5}, encodes=True)[0]


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'suppress_tokens': [-1]}, r'suppress_tokens is \[-1\]; expected a list of ids'),
        ({'bad_words_ids': [3]}, r'bad_words_ids is \[3\]; expected a list of sequences'),
        ({'sequence_bias': [[3], 1.0]}, 'sequence_bias is'),
        ({'exponential_decay_length_penalty': [3]}, 'expected a start and a factor'),
        ({'repetition_penalty': 0.0}, 'repetition_penalty is 0.0; expected a positive number'),
        ({'min_length': -1}, 'min_length is -1'),
    ],
)
def test_rules_of_another_form_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Rules(**settings)


def test_ids_that_the_vocabulary_lacks_are_refused():
    with pytest.raises(ValueError, match='bad_words_ids holds 300; the vocabulary has 259 ids'):
        Rules(bad_words_ids=((3, 300),)).check(259)
    Rules(suppress_tokens=(300,)).check(259)  # which cannot be said anyway
