"""Every popular published checkpoint is read as the reference implementation reads it: tiny ones of the same form give the same
logits, and end and start where they do.

`scripts/make_published_fixtures.py` made the reference; neither torch nor transformers is needed here, but torch where the form
is that of its own files.
"""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
import pytest

from calm_jax.checkpoints import huggingface, native
from calm_jax.decoding.decoding import Decoding, Limits
from calm_jax.decoding.generate import generate
from calm_jax.models.transformer import Transformer
from tests.published import build, facts

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


@pytest.mark.parametrize('name', NAMES)
def test_a_checkpoint_of_this_form_is_read_as_the_reference_reads_it(name, tmp_path):
    form = NAMES[name]
    if form.tensors.files.startswith('bin'):
        pytest.importorskip('torch', reason='the form is that of files of torch')
    build.build(form, tmp_path / 'model')
    config, params, tokenizer, _, _ = huggingface.read(tmp_path / 'model')
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
    build.build(NAMES[name], tmp_path / 'model')
    checkpoint = huggingface.read(tmp_path / 'model')
    huggingface.write(tmp_path / 'again', checkpoint)
    again = huggingface.read(tmp_path / 'again')
    assert again.config == checkpoint.config
    assert native.fingerprint(again.params) == native.fingerprint(checkpoint.params)
