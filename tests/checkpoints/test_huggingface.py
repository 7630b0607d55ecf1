"""Published directories: what is read, what is refused, what is written. The models are those of tests/fixtures/parity."""

import json
import logging
import shutil
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

import calm_jax as calm
from calm_jax.checkpoints import huggingface, native
from calm_jax.data.tokenizers import ByteTokenizer, load_tokenizer
from calm_jax.models.families.weights import Weight

STORED = {'gated_gelu': 'float32', 'odd_shapes': 'float16', 'plain_relu': 'bfloat16'}


@pytest.fixture
def copy(published, tmp_path):
    """A published model in one file, to break."""
    shutil.copytree(published / 'plain_relu', tmp_path / 'copy')
    return tmp_path / 'copy'


def rewrite(directory, change):
    """Lets `change` edit the dict of tensors in place."""
    tensors = safetensors_numpy.load_file(directory / 'model.safetensors')
    change(tensors)
    safetensors_numpy.save_file(tensors, directory / 'model.safetensors')


def edit(path, **changes):
    fields = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize('name', STORED)
def test_parameters_come_as_stored_or_as_asked_for(published, name):
    as_stored, single = huggingface.read(published / name, dtype=None), huggingface.read(published / name)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(as_stored.params)} == {STORED[name]}
    assert native.fingerprint(single.params) == native.fingerprint(jax.tree.map(jnp.float32, as_stored.params))
    assert single.tokenizer.encode('the lazy dog') and single.heads is None


@pytest.mark.parametrize('name', STORED)
def test_what_is_written_is_read_back_bit_by_bit(published, tmp_path, name):
    checkpoint = huggingface.read(published / name, dtype=None)
    huggingface.write(tmp_path / 'model', checkpoint)
    again = huggingface.read(tmp_path / 'model', dtype=None)
    assert again.config == checkpoint.config
    assert native.fingerprint(again.params) == native.fingerprint(checkpoint.params)
    assert again.tokenizer.fingerprint() == checkpoint.tokenizer.fingerprint()
    if (published / name / 'model.safetensors').exists():  # The tensors are the published ones, under their own names.
        ours = safetensors_numpy.load_file(tmp_path / 'model' / 'model.safetensors')
        theirs = safetensors_numpy.load_file(published / name / 'model.safetensors')
        assert native.fingerprint(ours) == native.fingerprint(theirs)


def test_weights_are_converted_while_writing_when_asked(published, tmp_path):
    checkpoint = huggingface.read(published / 'plain_relu')
    huggingface.write(tmp_path / 'model', checkpoint, dtype='bfloat16')
    again = huggingface.read(tmp_path / 'model', dtype=None)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(again.params)} == {'bfloat16'}
    assert json.loads((tmp_path / 'model' / 'config.json').read_text())['torch_dtype'] == 'bfloat16'


def test_the_default_token_limit_goes_both_ways(published, tmp_path):
    checkpoint = huggingface.read(published / 'plain_relu')._replace(
        generation={'limits': {'max_source_length': 4, 'max_new_tokens': 9}}
    )
    huggingface.write(tmp_path / 'model', checkpoint)
    assert huggingface.read(tmp_path / 'model').generation == {'limits': {'max_new_tokens': 9}}


def test_writing_holds_one_tensor_more_than_the_model(tmp_path):
    params = {f'kernel_{i}': jnp.ones((256, 512)) for i in range(16)}  # 512 kB each
    weights = [Weight(f'{name}.weight', name, True) for name in params]
    tracemalloc.start()
    huggingface._write_weights(tmp_path / 'model.safetensors', weights, params, 'bfloat16')
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * params['kernel_0'].nbytes
    assert safetensors_numpy.load_file(tmp_path / 'model.safetensors')['kernel_3.weight'].shape == (512, 256)


def test_missing_extra_and_misshaped_tensors_are_all_named_in_one_line(copy):
    def change(tensors):
        del tensors['decoder.final_layer_norm.weight']
        tensors['adapter.weight'] = np.zeros(3, np.float32)
        tensors['encoder.final_layer_norm.weight'] = np.zeros(17, np.float32)

    rewrite(copy, change)
    with pytest.raises(
        ValueError,
        match=r'decoder.final_layer_norm.weight is missing; adapter.weight is unexpected; '
        r'encoder.final_layer_norm.weight has shape \(17,\), expected \(16,\)$',
    ) as error:
        huggingface.read(copy)
    assert '\n' not in str(error.value)


def test_the_embedding_may_be_stored_under_its_other_names_when_they_agree(copy):
    expected = native.fingerprint(huggingface.read(copy).params)
    rewrite(copy, lambda tensors: tensors.update({'encoder.embed_tokens.weight': tensors['shared.weight']}))
    assert native.fingerprint(huggingface.read(copy).params) == expected
    rewrite(copy, lambda tensors: tensors.pop('shared.weight'))
    assert native.fingerprint(huggingface.read(copy).params) == expected
    rewrite(copy, lambda tensors: tensors.update({'decoder.embed_tokens.weight': 2 * tensors['encoder.embed_tokens.weight']}))
    with pytest.raises(ValueError, match='decoder.embed_tokens.weight and encoder.embed_tokens.weight differ'):
        huggingface.read(copy)


def test_a_tensor_of_whole_numbers_is_refused(copy):
    rewrite(copy, lambda tensors: tensors.update({'lm_head.weight': tensors['lm_head.weight'].astype(np.int8)}))
    with pytest.raises(ValueError, match='lm_head.weight is stored as I8; expected one of F32'):
        huggingface.read(copy)


@pytest.mark.parametrize('keep', (0, 5, 100, -1))
def test_a_truncated_file_is_one_line(copy, keep):
    path = copy / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match='model.safetensors: not a complete safetensors file') as error:
        huggingface.read(copy)
    assert '\n' not in str(error.value)


def test_a_missing_shard_is_named(published, tmp_path):
    shutil.copytree(published / 'odd_shapes', tmp_path / 'copy')
    (tmp_path / 'copy' / 'model-00002-of-00005.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match='lists 5 files, 1 of them are not there: model-00002-of-00005'):
        huggingface.read(tmp_path / 'copy')
    (tmp_path / 'copy' / 'model.safetensors.index.json').write_text('{}')
    with pytest.raises(ValueError, match='holds no weight_map'):
        huggingface.read(tmp_path / 'copy')


def test_weights_in_another_library_s_own_format_are_said_so(copy):
    (copy / 'model.safetensors').rename(copy / 'tf_model.h5')
    with pytest.raises(FileNotFoundError, match='found tf_model.h5, .*save it again as safetensors'):
        huggingface.read(copy)
    (copy / 'tf_model.h5').unlink()
    with pytest.raises(FileNotFoundError, match='found no weights; expected model.safetensors'):
        huggingface.read(copy)


def test_an_attribute_that_is_not_understood_is_refused_with_the_file_s_name(copy):
    edit(copy / 'config.json', rope_theta=10000)
    with pytest.raises(ValueError, match='config.json: attributes not understood: rope_theta'):
        huggingface.read(copy)
    edit(copy / 'config.json', model_type='bert')
    with pytest.raises(ValueError, match="config.json: model_type is 'bert'; expected one of t5, mt5"):
        huggingface.read(copy)


def test_the_settings_of_config_json_are_those_where_there_is_no_other_file(copy, caplog):
    edit(copy / 'config.json', repetition_penalty=1.3, task_specific_params={'summarization': {'num_beams': 3}})
    assert huggingface.read(copy).generation == {}
    (copy / 'generation_config.json').unlink()
    edit(copy / 'config.json', force_bos_token_to_be_generated=True, suppress_tokens=[5])
    with caplog.at_level(logging.WARNING, 'calm_jax'):
        assert huggingface.read(copy).generation == {'rules': {'repetition_penalty': 1.3, 'suppress_tokens': [5]}}
    assert 'force_bos_token_to_be_generated: not used' in caplog.text
    edit(copy / 'config.json', repetition_penalty=-1.0)
    with pytest.raises(ValueError, match=r'config\.json: rules\.repetition_penalty is -1'):
        huggingface.read(copy)


def test_token_ids_of_the_generation_settings_win(copy):
    edit(copy / 'generation_config.json', decoder_start_token_id=5)
    assert huggingface.read(copy).config.decoder_start_id == 5
    edit(copy / 'generation_config.json', eos_token_id=[1, 2])
    assert huggingface.read(copy).config.eos_ids == (1, 2)
    edit(copy / 'generation_config.json', eos_token_id=['</s>'])
    with pytest.raises(ValueError, match="eos_token_id is '</s>'; expected a number"):
        huggingface.read(copy)


def test_what_torch_saved_is_read_like_safetensors(copy):
    torch = pytest.importorskip('torch', reason='needs torch')
    expected = native.fingerprint(huggingface.read(copy).params)
    tensors = safetensors_numpy.load_file(copy / 'model.safetensors')
    (copy / 'model.safetensors').unlink()
    for legacy in (False, True):
        # NumPy's bfloat16 is none to torch: its bits are.
        held = {name: torch.from_numpy(array.view(np.int16)).view(torch.bfloat16) for name, array in tensors.items()}
        torch.save(held, copy / 'pytorch_model.bin', _use_new_zipfile_serialization=not legacy)
        assert native.fingerprint(huggingface.read(copy).params) == expected
    path = copy / 'pytorch_model.bin'
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match='pytorch_model.bin: not a complete file of tensors') as error:
        huggingface.read(copy)
    assert '\n' not in str(error.value)


def test_a_model_without_its_tokenizer_is_refused(copy):
    (copy / 'spiece.model').unlink()
    with pytest.raises(FileNotFoundError, match='spiece.model'):
        huggingface.read(copy)


def test_a_byte_level_tokenizer_is_published_as_a_class_name_only(published, tmp_path):
    checkpoint = huggingface.read(published / 'gated_gelu')
    tokenizer = ByteTokenizer(extra_ids=4)
    tokenizer.publish(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['tokenizer_config.json']
    again = load_tokenizer(tmp_path)
    assert [again.encode(text) for text in ('é\n', ' a')] == [tokenizer.encode(text) for text in ('é\n', ' a')]
    assert again.vocab_size == tokenizer.vocab_size and again.decode(again.encode('é 🙂')) == 'é 🙂'
    with pytest.raises(ValueError, match='263 tokens but the model embeds only 128'):
        huggingface.write(tmp_path / 'model', checkpoint._replace(tokenizer=tokenizer))


def test_transformers_loads_an_exported_directory_and_generates_the_same_tokens(published, tmp_path):
    torch = pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    reference = np.load(published / 'gated_gelu' / 'reference.npz')
    huggingface.write(tmp_path / 'model', huggingface.read(published / 'gated_gelu'))
    model, info = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / 'model', output_loading_info=True)
    assert not any(info[name] for name in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    source = torch.tensor(reference['source'], dtype=torch.long)
    generated = model.generate(
        input_ids=source, attention_mask=(source != 0).long(), max_new_tokens=8, min_new_tokens=8, do_sample=False
    )
    # The reference went on after an end-of-sequence; this one puts it off.
    same = np.cumprod(reference['greedy'][:, :8] != 1, axis=1).astype(bool)
    assert same.sum() >= 12
    np.testing.assert_array_equal(generated[:, 1:].numpy()[same], reference['greedy'][:, :8][same])
    ours = huggingface.read(tmp_path / 'model').tokenizer
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / 'model')
    assert theirs('the lazy dog jumps').input_ids == [*ours.encode('the lazy dog jumps'), 1]


def test_a_file_left_from_a_sharded_save_is_read_over_with_a_notice(copy, caplog):
    expected = native.fingerprint(huggingface.read(copy).params)
    index = {'weight_map': {'shared.weight': 'model-00001-of-00003.safetensors'}}
    (copy / 'model.safetensors.index.json').write_text(json.dumps(index))
    with caplog.at_level(logging.WARNING, 'calm_jax'):
        assert native.fingerprint(huggingface.read(copy).params) == expected
    assert 'model.safetensors is read, as transformers does' in caplog.text


def test_a_text_that_spells_out_a_token_beyond_the_embedding_is_refused(copy):
    edit(copy / 'tokenizer_config.json', extra_ids=90)  # 154 tokens, 96 of them embedded
    calm.import_checkpoint(copy, copy.parent / 'native')
    model = calm.load(copy.parent / 'native')
    assert model.encode('the lazy dog')
    with pytest.raises(ValueError, match="holds '.*extra_id_3.*', token 150: the tokenizer has it, but the model embeds 96"):
        model.encode('the <extra_id_3> dog')


@pytest.mark.parametrize('bare', [True, False])
def test_names_may_lack_the_prefix_of_the_bare_model_each_by_itself(published, tmp_path, bare):
    shutil.copytree(published / 'gpt2', tmp_path / 'copy')
    expected = native.fingerprint(huggingface.read(tmp_path / 'copy').params)

    def change(tensors):
        for name in [name for name in tensors if bare or '.h.0.' in name]:
            tensors[name.removeprefix('transformer.')] = tensors.pop(name)
        embedding = tensors.get('wte.weight', tensors.get('transformer.wte.weight'))
        tensors['lm_head.weight'] = embedding.copy()
        tensors['h.1.attn.bias'] = np.ones((1, 1, 4, 4), np.float32)
        tensors['transformer.h.2.attn.masked_bias'] = np.full((), -1e4, np.float32)

    rewrite(tmp_path / 'copy', change)
    read = huggingface.read(tmp_path / 'copy')
    assert native.fingerprint(read.params) == expected and read.config.tied_head


def test_a_published_head_that_differs_is_read_as_one(published, tmp_path):
    shutil.copytree(published / 'gpt2', tmp_path / 'copy')
    rewrite(tmp_path / 'copy', lambda tensors: tensors.update({'lm_head.weight': 2 * tensors['transformer.wte.weight']}))
    read = huggingface.read(tmp_path / 'copy')
    head = read.params['decoder']['logits_dense']['kernel']
    np.testing.assert_array_equal(head, 2 * read.params['token_embedder']['embedding'].T)


def test_a_bias_of_logits_that_files_leave_out_is_zero(published, tmp_path):
    shutil.copytree(published / 'bart', tmp_path / 'copy')
    rewrite(tmp_path / 'copy', lambda tensors: tensors.pop('final_logits_bias'))
    assert not huggingface.read(tmp_path / 'copy').params['decoder']['logits_dense']['bias'].any()
