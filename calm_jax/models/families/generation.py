"""Published generation settings: every field that transformers 4 and 5 give `GenerationConfig`, and what becomes of it here.

A field is used, in a document of `calm_jax.decoding.codec`; or changes no token; or is refused by name, because it changes
tokens in a way that nothing here has. Fields that nobody knows are named in a notice: the reference passes them over too. They
stand in `generation_config.json`, and in config.json alone of old models that have no such file.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple


class Used(NamedTuple):
    """Where a field stands in our document, and the value that leaves it off."""

    part: str
    option: str
    off: Any = None


class Refused(NamedTuple):
    """off: values that change nothing. reason: why another cannot be used."""

    off: tuple
    reason: str


USED = {
    'max_new_tokens': Used('limits', 'max_new_tokens'),
    'max_length': Used('limits', 'max_length'),
    'stop_strings': Used('limits', 'stop_strings', []),
    'sequence_bias': Used('rules', 'sequence_bias', []),
    'encoder_repetition_penalty': Used('rules', 'encoder_repetition_penalty', 1.0),
    'repetition_penalty': Used('rules', 'repetition_penalty', 1.0),
    'no_repeat_ngram_size': Used('rules', 'no_repeat_ngram_size', 0),
    'encoder_no_repeat_ngram_size': Used('rules', 'encoder_no_repeat_ngram_size', 0),
    'bad_words_ids': Used('rules', 'bad_words_ids', []),
    'min_length': Used('rules', 'min_length', 0),
    'min_new_tokens': Used('rules', 'min_new_tokens', 0),
    'forced_bos_token_id': Used('rules', 'forced_first_id'),
    'forced_eos_token_id': Used('rules', 'forced_last_id'),
    'remove_invalid_values': Used('rules', 'remove_invalid_values', False),
    'exponential_decay_length_penalty': Used('rules', 'exponential_decay_length_penalty', []),
    'suppress_tokens': Used('rules', 'suppress_tokens', []),
    'begin_suppress_tokens': Used('rules', 'begin_suppress_tokens', []),
}
# Read where tokens are drawn: do_sample. What is left out, or null, is as the reference has it then.
SAMPLING = {
    'temperature': Used('choice', 'temperature', 1.0),
    'top_h': Used('choice', 'top_h'),
    'top_k': Used('choice', 'top_k', 0),
    'top_p': Used('choice', 'top_p', 1.0),
    'min_p': Used('choice', 'min_p', 0.0),
    'typical_p': Used('choice', 'typical_p', 1.0),
    'epsilon_cutoff': Used('choice', 'epsilon_cutoff', 0.0),
    'eta_cutoff': Used('choice', 'eta_cutoff', 0.0),
}
TOP_K = 50  # where do_sample stands alone
# Read where beams are searched: num_beams above 1.
SEARCHING = {
    'num_beams': Used('choice', 'size', 1),
    'length_penalty': Used('choice', 'length_penalty', 1.0),
    'early_stopping': Used('choice', 'early_stopping', False),
    'renormalize_logits': Used('choice', 'renormalize_logits', False),
}
CHOOSING = ('do_sample',)
# Of the model: `families.config_from_published` reads them.
IDS = ('decoder_start_token_id', 'bos_token_id', 'eos_token_id', 'pad_token_id')
REFUSED = {
    'max_time': Refused((), 'what is said would depend on a clock'),
    'guidance_scale': Refused((1, 1.0), 'there is no classifier-free guidance'),
    'watermarking_config': Refused(({},), 'there are no watermarks'),
    'token_healing': Refused((False,), 'the ends of prompts are not healed'),
    'penalty_alpha': Refused((0, 0.0), 'there is no contrastive search'),
    'dola_layers': Refused(([],), 'there is no decoding by contrasting layers'),
    'num_beam_groups': Refused((1,), 'there is no search of groups of beams'),
    'diversity_penalty': Refused((0, 0.0), 'there is no search of groups of beams'),
    'constraints': Refused(([],), 'there is no constrained search'),
    'force_words_ids': Refused(([],), 'there is no constrained search'),
    'forced_decoder_ids': Refused(([],), 'only the first and the last token are forced here'),
}
# How it is computed, stored or handed back, and not what is said. Drafts that a model accepts or not are its own tokens.
WITHOUT_EFFECT = frozenset(
    (
        'use_cache',
        'cache_implementation',
        'cache_config',
        'max_cache_len',
        'return_legacy_cache',
        'low_memory',
        'prefill_chunk_size',
        'compile_config',
        'disable_compile',
        'continuous_batching_config',
        'use_mtp',
        'output_attentions',
        'output_hidden_states',
        'output_scores',
        'output_logits',
        'return_dict_in_generate',
        'is_assistant',
        'num_assistant_tokens',
        'num_assistant_tokens_schedule',
        'assistant_confidence_threshold',
        'assistant_early_exit',
        'assistant_lookbehind',
        'assistant_ensemble_weight',
        'target_lookbehind',
        'prompt_lookup_num_tokens',
        'max_matching_ngram_size',
        'speculation_type',
        'generation_kwargs',
        'transformers_version',
    )
)
NOTICED = {'num_return_sequences': (1, 'a text has one output here, unless a call asks for more')}
# BART's of 2020. transformers 4 forced the start of a text as the first token then, where no other was forced; 5 does not.
FORCED_START = 'force_bos_token_to_be_generated'
# What config.json may hold of all this, and no family reads.
IN_CONFIG = frozenset((*USED, *SAMPLING, *SEARCHING, *CHOOSING, *REFUSED, *NOTICED, *WITHOUT_EFFECT, FORCED_START))


def settings_of_config(published: Mapping[str, Any]) -> dict[str, Any]:
    """The generation settings of an old model, from its config.json."""
    return {name: published[name] for name in (*IN_CONFIG, *IDS) if published.get(name) is not None}


def document_of(settings: Mapping[str, Any], encodes: bool, ignored: Collection[str] = ()) -> tuple[dict[str, dict], list[str]]:
    """(our decoding defaults, a document; what is worth knowing of what was left out) of published generation settings.

    encodes: whether the model has an encoder. ignored: settings to read over. Raises ValueError for others that change tokens
    in a way nothing here has.
    """
    settings = {name: value for name, value in settings.items() if value is not None}
    over = [f'{name} {settings[name]}: read over, as was asked' for name in settings if name in ignored]
    settings = {name: value for name, value in settings.items() if name not in ignored}
    for name, (off, reason) in REFUSED.items():
        if name in settings and settings[name] not in off:
            raise ValueError(_refusal(name, reason, settings[name]))
    notices = over + [
        f'{name} {settings[name]}: {words}'
        for name, (off, words) in NOTICED.items()
        if name in settings and settings[name] != off
    ]
    known = {*USED, *SAMPLING, *SEARCHING, *CHOOSING, *REFUSED, *NOTICED, *IDS, *WITHOUT_EFFECT, FORCED_START}
    if settings.get(FORCED_START) and 'forced_bos_token_id' not in settings:
        notices.append(f'{FORCED_START}: not used, as by transformers 5; --forced_first_id does what transformers 4 did')
    if unknown := sorted(name for name in settings if name not in known and not name.startswith('_')):
        notices.append(f'{", ".join(unknown)}: not known, and not used')
    used, more = _lengths(_listed(settings), encodes)
    document: dict[str, dict] = {'limits': {}, 'choice': {}, 'rules': {}}
    for name, (part, option, off) in USED.items():
        if name in used and used[name] != off:
            document[part][option] = used[name]
    document['choice'] = _choice(settings)
    if document['choice'].get('class') == 'beam' and 'stop_strings' in document['limits']:
        raise ValueError(_refusal('stop_strings', 'a search of beams does not stop at texts here', 'with num_beams'))
    return {part: options for part, options in document.items() if options}, notices + more


def published_of(document: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The published settings of a document of decoding defaults."""
    choice = document.get('choice', {})
    names = {**USED, **{'sampled': SAMPLING, 'beam': SEARCHING}.get(choice.get('class', ''), {})}
    settings = {name: document[part][option] for name, (part, option, _) in names.items() if option in document.get(part, {})}
    if choice.get('class') == 'sampled':
        settings = {'do_sample': True, 'top_k': 0, **settings}  # all tokens, where ours says nothing
    return settings


def _refusal(name: str, reason: str, what: Any) -> str:
    return f'{name} {what} cannot be used: {reason}; to decode without it, import with --ignore_attributes {name}'


def _choice(settings: Mapping[str, Any]) -> dict[str, Any]:
    """How a token is chosen; nothing where it is the likeliest."""
    searches, draws = settings.get('num_beams', 1) != 1, settings.get('do_sample', False)
    if searches and draws:
        raise ValueError(_refusal('do_sample', 'a search of beams draws nothing here', 'with num_beams'))
    if not (searches or draws):
        return {}
    read = SEARCHING if searches else SAMPLING
    given = {**settings} if searches else {'top_k': TOP_K, **settings}
    chosen = {option: given[name] for name, (_, option, off) in read.items() if name in given and given[name] != off}
    return {'class': 'beam' if searches else 'sampled', **chosen}


def _listed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with one form of those that have several."""
    made = dict(settings)
    if isinstance(stops := made.get('stop_strings'), str):
        made['stop_strings'] = [stops]
    if isinstance(forced := made.get('forced_eos_token_id'), list):
        if len(forced) != 1:
            raise ValueError(_refusal('forced_eos_token_id', 'one token is forced here', forced))
        made['forced_eos_token_id'] = forced[0]
    return made


def _lengths(settings: dict[str, Any], encodes: bool) -> tuple[dict[str, Any], list[str]]:
    """The settings with lengths as ours have them, where new tokens win over whole lengths; and what is worth knowing."""
    notices = []
    for new, whole in (('max_new_tokens', 'max_length'), ('min_new_tokens', 'min_length')):
        length = settings.pop(whole, None)
        if settings.get(new) is not None or not isinstance(length, int):
            continue
        if not encodes:
            settings[whole] = length  # with the prompt, of which a default knows nothing
        elif length > 1:
            settings[new] = length - 1  # without the start token
    if not encodes and settings.pop('forced_bos_token_id', None) is not None:
        notices.append('forced_bos_token_id: not used, since nothing but a start token is before it, and prompts are longer')
    return settings, notices
