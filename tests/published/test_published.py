"""Every popular published checkpoint is read as the reference implementation reads it: tiny ones of the same form give the same
logits, and end and start where they do. What is said of the published ones has a source, or is said to be unknown.

`scripts/make_published_fixtures.py` made the reference; neither torch nor transformers is needed here, but torch where the form
is that of its own files.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib

import jax
import numpy as np
import pytest

from calm_jax.checkpoints import huggingface, native
from calm_jax.data.tokenizers.settings import ROLES, read_settings
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import generate
from calm_jax.models.transformer import Transformer
from tests.published import build, facts
from tests.published.digests import DIGESTS

REFERENCE = np.load(pathlib.Path(__file__).with_name('reference.npz'))
NAMES = {build.slug(each): each for each in facts.ALL}
GROWS = 'LLaMA-2-with-a-rotation-that-grows-as-adapted-to-longer-texts'


@functools.partial(jax.jit, static_argnums=0)
def logits_of(config, params, source, mask, target):
    """Logits [B, T, V] of the whole model; target: None for one that only continues its prompt."""
    module = Transformer(config)

    def call(*args, **settings):
        return module.apply({'params': params}, *args, **settings)

    if target is None:
        states = call(None, None, source, mask, method='decode')
    else:
        states = call(call(source, mask, method='encode'), mask, target, method='decode')
    return call(states[-1], method='unembed')


def test_there_are_many_and_the_reference_knows_each():
    assert len(facts.ALL) == len(NAMES) >= 40
    assert set(REFERENCE) == {f'{name}/{part}' for name in NAMES for part in ('logits', 'ids')} | {f'{GROWS}/said'}


def parts_of(entry):
    """{file: (what is said of it, the name of its source)}; None: there is no such file, or none is known."""
    config, generation, _, tokenizer = entry.evidence
    named = {'config.json': (entry.config, config), 'generation_config.json': (entry.generation, generation)}
    return named | {file: (content, tokenizer) for file, content in entry.tokenizer.items()}


def digests_of(content):
    """SHA-256 of what is said, written as published files are: by name or in the order given, in lines or in one, with an end
    of line or without; and in some files one line stands where someone put it."""
    sorted_ = dict(sorted(content.items()))
    moved = dict(sorted_)
    for name, before in (('forced_bos_token_id', 'forced_eos_token_id'), ('transformers.js_config', 'transformers_version')):
        if name in moved and before in moved:
            rest = [pair for pair in moved.items() if pair[0] != name]
            at = [each for each, _ in rest].index(before) + 1
            moved = dict([*rest[:at], (name, moved[name]), *rest[at:]])
    for order in (sorted_, content, moved):
        for indent in (2, None):
            for end in ('', '\n'):
                yield hashlib.sha256((json.dumps(order, indent=indent) + end).encode()).hexdigest()


def test_every_part_of_every_entry_has_a_source_or_is_unknown():
    for entry in facts.ALL:
        assert set(entry.evidence) <= set(facts.SOURCES), entry.name
        for file, (content, source) in parts_of(entry).items():
            if source == 'inventory':
                assert content is None, (entry.name, file)
        if entry.evidence.tokenizer not in ('unknown', 'inventory'):
            assert entry.tokenizer, entry.name
    some = [source for entry in facts.ALL for source in entry.evidence[:2]]
    assert {'digest', 'copy', 'unknown'} <= set(some) and some.count('unknown') < len(some) / 2


def test_what_has_the_digest_of_the_published_file_says_so_and_nothing_else_does():
    for entry in facts.ALL:
        for file, (content, source) in parts_of(entry).items():
            published = DIGESTS.get(entry.name, {}).get(file)
            assert (source == 'digest') == (published is not None), (entry.name, file)
            if published is not None:
                assert published in digests_of(content), (entry.name, file)
    assert set(DIGESTS) <= {entry.name for entry in facts.ALL}


@pytest.mark.parametrize('name', [name for name, entry in NAMES.items() if entry.tokenizer])
def test_the_settings_of_a_published_tokenizer_name_its_tokens(name, tmp_path):
    for file, content in NAMES[name].tokenizer.items():
        (tmp_path / file).write_text(json.dumps(content))
    settings = read_settings(tmp_path, 'GPT2Tokenizer')
    named = {role: value for content in NAMES[name].tokenizer.values() for role, value in content.items() if role in ROLES}
    for role, value in named.items():
        assert settings.token(role) == (value['content'] if isinstance(value, dict) else value)


def test_a_class_of_tokenizers_keeps_its_later_name(tmp_path):
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps({'tokenizer_class': 'LLaMATokenizer'}))
    assert read_settings(tmp_path).class_name == 'LlamaTokenizer'


@pytest.mark.parametrize('name', NAMES)
def test_a_checkpoint_of_this_form_is_read_as_the_reference_reads_it(name, tmp_path):
    form = NAMES[name]
    if form.tensors.files.startswith('bin'):
        pytest.importorskip('torch', reason='the form is that of files of torch')
    build.build(form, tmp_path / 'model')
    config, params, tokenizer, *_ = huggingface.read(tmp_path / 'model')
    start, *ends = REFERENCE[f'{name}/ids']
    assert set(config.eos_ids) == set(ends)
    if start >= 0:
        assert config.decoder_start_id == start
    source, mask, target = build.inputs(config.decoder_only)
    # Ids change no logit, and a program for each would take most of the time.
    alike = dataclasses.replace(config, pad_id=0, eos_id=1, other_eos_ids=(), decoder_start_id=0, dropout_rate=0.0)
    logits = logits_of(alike, params, source, mask, None if config.decoder_only else target)
    there = mask if config.decoder_only else np.ones(target.shape, bool)
    np.testing.assert_allclose(logits[there], REFERENCE[f'{name}/logits'][there], atol=1e-4)


def test_a_rotation_that_grows_turns_each_token_by_the_text_that_it_was_read_with(tmp_path):
    build.build(NAMES[GROWS], tmp_path / 'model')
    config, params, *_ = huggingface.read(tmp_path / 'model')
    prompts, mask, tokens = build.inputs(decoder_only=True)
    lengths = mask.sum(axis=1).tolist()
    assert min(lengths) < config.rotary_scaling[1] < max(lengths)  # one is past it as a prompt, the other as it goes on
    decoding = Decoding(Limits(max_new_tokens=tokens.shape[1]))
    trace = generate(config, params, prompts, mask, decoding, forced=tokens, log_probabilities=True)
    np.testing.assert_array_equal(trace.tokens, tokens)
    np.testing.assert_allclose(trace.log_probabilities, REFERENCE[f'{GROWS}/said'], atol=1e-4)


@pytest.mark.parametrize(
    'name',
    (
        'HuggingFaceTB-SmolLM2-135M-Instruct',
        'facebook-mbart-large-50',
        'google-pegasus-cnn_dailymail',
        GROWS,
        'google-madlad400-3b-mt',
    ),
)
def test_what_is_read_is_published_and_read_again(name, tmp_path):
    if NAMES[name].tensors.files.startswith('bin'):
        pytest.importorskip('torch', reason='the form is that of files of torch')
    build.build(NAMES[name], tmp_path / 'model')
    checkpoint = huggingface.read(tmp_path / 'model')
    huggingface.write(tmp_path / 'again', checkpoint)
    again = huggingface.read(tmp_path / 'again')
    assert again.config == checkpoint.config
    assert native.fingerprint(again.params) == native.fingerprint(checkpoint.params)
