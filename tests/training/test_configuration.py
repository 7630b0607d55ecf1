import ast
import functools
import inspect

import gin
import jax
import pytest

from calm_jax.commands import configuration, gin_state
from calm_jax.models.config import TransformerConfig
from calm_jax.training import losses
from calm_jax.training.jobs import PairedText
from calm_jax.training.multi_exit import multi_exit_stage
from calm_jax.training.train_loop import LoopOptions

REQUIRED = ["MODEL_DIR='a'", "TRAIN_DATA='b'", "SOURCE='{en}'", "TARGET='{fr}'", "TOKENIZER='c'"]

model = functools.partial(
    TransformerConfig, vocab_size=8, emb_dim=4, num_heads=1, head_dim=4, mlp_dim=4, num_encoder_layers=1, num_decoder_layers=1
)


def error(kind, files, bindings):
    """The message of the error that reading gives, which is one line."""
    with pytest.raises(kind) as raised:
        configuration.read(files, bindings)
    assert '\n' not in str(raised.value)
    return str(raised.value)


def test_required_macros_are_named_together():
    message = error(ValueError, ['runs/train.gin'], REQUIRED[1:3])
    assert message.startswith('MODEL_DIR, TARGET, TOKENIZER are required: add --gin.MODEL_DIR=...')


def test_one_required_macro_is_named_alone():
    assert error(ValueError, ['runs/train.gin'], REQUIRED[1:]).startswith('MODEL_DIR is required')


@pytest.mark.parametrize(
    'binding, hint',
    [
        ('BATCHSIZE=3', 'did you mean BATCH_SIZE?'),
        ("Optimiser.name='adamw'", 'did you mean Optimizer?'),
        ('Optimizer.warmup_step=1', 'Optimizer has no warmup_step; did you mean warmup_steps?'),
        ('EXIT_WEIGHTS=@unifrom', 'nothing is called unifrom; did you mean uniform?'),
        ('Exit.measure=@SoftmaxGapp()', 'nothing is called SoftmaxGapp; did you mean SoftmaxGap?'),
        ('EXIT_WEIGHTS=%SEEDS', '%SEEDS has no value; did you mean SEED?'),
        ('SOURCE={en}', 'a string needs quotes that survive the shell: --gin.SOURCE="\'{en}\'"'),
    ],
)
def test_a_wrong_binding_gets_the_near_match(binding, hint):
    assert hint in error(ValueError, ['runs/train.gin'], [*REQUIRED, binding])


def test_a_missing_file_and_a_missing_include_are_named(tmp_path):
    assert 'gin file not found: runs/trian.gin' in error(FileNotFoundError, ['runs/trian.gin'], [])
    (tmp_path / 'mine.gin').write_text("include 'models/tinny.gin'\n")
    assert 'models/tinny.gin' in error(FileNotFoundError, [str(tmp_path / 'mine.gin')], [])


def test_a_module_that_cannot_be_imported_is_named_with_its_file(tmp_path):
    (tmp_path / 'mine.gin').write_text("include 'runs/train.gin'\nimport no_such_module.deep\n")
    (tmp_path / 'outer.gin').write_text(f"include '{tmp_path}/mine.gin'\n")
    for file in ('mine.gin', 'outer.gin'):
        message = error(ValueError, [str(tmp_path / file)], [])
        assert message.startswith(f'{tmp_path}/mine.gin: import no_such_module.deep failed (')


def test_an_unknown_name_in_a_file_is_found_with_its_line(tmp_path):
    (tmp_path / 'mine.gin').write_text("include 'runs/train.gin'\nLoopOptions.stepps = 3\n")
    message = error(ValueError, [str(tmp_path / 'mine.gin')], [])
    assert 'mine.gin' in message and 'line 2' in message and 'did you mean steps?' in message


def test_a_folder_of_the_same_name_where_one_works_hides_no_file_of_the_library(tmp_path, monkeypatch):
    (tmp_path / 'runs').mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as in a notebook, where the folder is a package without a file
    assert configuration.read(['runs/train.gin', 'models/tiny.gin'], REQUIRED)


def test_a_model_alone_says_nothing_to_run():
    assert 'nothing says what to run' in error(ValueError, ['models/tiny.gin'], [])


def test_a_missing_model_is_one_line_when_the_job_starts(tmp_path, tokenizer, jsonl):
    tokenizer.save(tmp_path / 'tokenizer')
    job = configuration.read(
        ['runs/train.gin'],
        [f"MODEL_DIR='{tmp_path}/m'", f"TRAIN_DATA='{jsonl}'", *REQUIRED[2:4], f"TOKENIZER='{tmp_path}/tokenizer'"],
    ).job
    with pytest.raises(ValueError, match='TransformerConfig lacks emb_dim, .*--gin_file=models/small8.gin'):
        job()


def test_messages_of_the_library_stay_as_they_are(tmp_path):
    job = configuration.read(['models/tiny.gin', 'runs/train.gin'], REQUIRED).job
    with pytest.raises(FileNotFoundError) as raised:
        job(model_dir=tmp_path)
    assert 'configurable' not in str(raised.value) and '\n' not in str(raised.value)


@pytest.mark.parametrize(
    'size, expected',
    [('tiny', (2, 2, 64, 2, 32, 128)), ('small8', (8, 8, 512, 6, 64, 1024)), ('base', (12, 12, 768, 12, 64, 2048))],
)
def test_sizes_are_those_of_the_paper(size, expected):
    state = configuration.read([f'models/{size}.gin', 'runs/train.gin'], REQUIRED).state
    with gin_state.apart(state):
        config = gin.get_configurable('TransformerConfig')(vocab_size=32128)
    assert type(config) is TransformerConfig
    assert (
        config.num_encoder_layers,
        config.num_decoder_layers,
        config.emb_dim,
        config.num_heads,
        config.head_dim,
        config.mlp_dim,
    ) == expected
    assert config.mlp_activations == ('gelu', 'linear')


@pytest.mark.parametrize(
    'file', ['runs/classifier.gin', 'runs/finetune.gin', 'runs/multi30k.gin', 'runs/multi30k_finetune.gin']
)
def test_every_run_file_reads_with_its_required_macros(file):
    begun = 'classifier' in file or 'finetune' in file
    bindings = [
        binding
        for binding in [*REQUIRED, "CHECKPOINT='d'"]
        if ('TOKENIZER' not in binding if begun else 'CHECKPOINT' not in binding)
    ]
    resolved = configuration.read([file], bindings).text
    assert "MODEL_DIR = 'a'" in resolved and 'REQUIRED' not in resolved


@pytest.mark.parametrize(
    'name, batch, steps, warmup, rate',
    [
        ('cnndm', {'batch_size': None, 'batch_tokens': 2048, 'accumulate': 4}, 50_000, 500, 3e-5),
        ('squad', {'batch_size': 3, 'batch_tokens': None, 'accumulate': 2}, 5_430, 326, 1.5e-5),
        ('mnli', {'batch_size': 128, 'batch_tokens': None, 'accumulate': 1}, 30_968, 1_858, 5e-6),
        ('rte', {'batch_size': 32, 'batch_tokens': None, 'accumulate': 1}, 1_018, 61, 1e-5),
        ('sst2', {'batch_size': 128, 'batch_tokens': None, 'accumulate': 1}, 5_233, 314, 5e-6),
    ],
)
def test_recipes_have_the_numbers_of_switchable_decision(name, batch, steps, warmup, rate):
    # Zhang et al. 2024, §4.2, A.3 and Table 15.
    read = configuration.read([f'runs/policy_{name}.gin'], [*REQUIRED[:4], "CHECKPOINT='d'"])
    with gin_state.apart(read.state):
        options = gin.get_configurable('LoopOptions')()
        with gin.config_scope('backbone'):
            backbone = gin.get_configurable('Optimizer')().of(options.steps)
        data = gin.get_bindings('PairedText')
    found = {'batch_size': data['batch_size'], 'batch_tokens': data['batch_tokens'], 'accumulate': options.accumulate}
    assert (found, options.steps) == (batch, steps)
    assert (backbone.name, backbone.learning_rate, backbone.warmup, backbone.total_steps) == ('adamw', rate, warmup, steps)
    assert (backbone.decay, backbone.weight_decay) == ('linear', 0.01)


def test_both_stages_share_data_and_loop_and_have_their_own_loss_and_rate():
    first = configuration.bindings(configuration.read(['runs/train.gin'], REQUIRED).text)
    second = configuration.bindings(configuration.read(['runs/classifier.gin'], [*REQUIRED[:4], "CHECKPOINT='d'"]).text)
    own = {name: (first.get(name), second.get(name)) for name in {**first, **second} if first.get(name) != second.get(name)}
    assert {name: values for name, values in own.items() if None not in values} == {
        'TRAIN_STEPS': ('500000', '10000'),
        'OPTIMIZER': ("'adafactor'", "'adamw'"),
        'LEARNING_RATE': ('0.001', '0.01'),
        'WARMUP_STEPS': ('1000', '100'),
        'DECAY': ("'constant'", "'linear'"),
        'BEST_METRIC': ("'nll'", "'loss'"),
        'job.run': ('@train_model', '@train_exit_classifier'),
    }
    assert {name for name, (one, _) in own.items() if one is None} == {'ADAPTED', 'CHECKPOINT', 'OBJECTIVE'} | {
        f'train_exit_classifier.{name}'
        for name in ('model_dir', 'data', 'checkpoint', 'optimizer', 'options', 'objective', 'adapted')
    }
    # Every option of the loop and of the data is in reach of a macro, but for how many checkpoints stay.
    for owner, without in ((LoopOptions, {'keep'}), (PairedText, set())):
        named = {name.split('.')[1] for name in first if name.startswith(f'{owner.__name__}.')}
        assert named == set(inspect.signature(owner).parameters) - without


def test_the_resolved_configuration_reads_back_to_itself(tmp_path):
    resolved = configuration.read(
        ['models/tiny.gin', 'runs/train.gin'], [*REQUIRED, 'EXIT_WEIGHTS=@uniform', 'Optimizer.b1=0.5']
    ).text
    (tmp_path / 'config.gin').write_text(resolved)
    again = configuration.read([str(tmp_path / 'config.gin')], [])
    assert again.text == resolved
    with gin_state.apart(again.state):
        assert gin.get_bindings('train_model')['exit_weights'](2).tolist() == losses.uniform(2).tolist()


def test_later_files_and_bindings_win(tmp_path):
    (tmp_path / 'mine.gin').write_text('SEED = 5\nBATCH_SIZE = 7\n')
    macros = configuration.read(['runs/train.gin', str(tmp_path / 'mine.gin')], [*REQUIRED, 'BATCH_SIZE=9']).macros
    assert (macros['SEED'], macros['BATCH_SIZE']) == (5, 9)


def test_files_are_searched_for_where_the_user_says(tmp_path):
    (tmp_path / 'mine.gin').write_text("include 'runs/train.gin'\nSEED = 11\n")
    assert configuration.read(['mine.gin'], REQUIRED, [str(tmp_path)]).macros['SEED'] == 11


def test_the_user_s_folders_come_before_the_library_s_and_are_forgotten_afterwards(tmp_path):
    for name in ('first', 'second'):
        (tmp_path / name / 'models').mkdir(parents=True)
        (tmp_path / name / 'models' / 'tiny.gin').write_text(f"EVAL_DATA = '{tmp_path / name}'\n")
    folders = [str(tmp_path / name) for name in ('first', 'second')]
    for searched in (folders, folders[::-1]):
        read = configuration.read(['runs/train.gin', 'models/tiny.gin'], REQUIRED, searched)
        assert read.macros['EVAL_DATA'] == searched[0]
    assert configuration.read(['runs/train.gin', 'models/tiny.gin'], REQUIRED).macros['EVAL_DATA'] is None


def test_bindings_are_found_however_gin_wraps_them(tmp_path):
    paths = [f'{tmp_path}/{"long" * 20}/{number}' for number in range(3)]
    read = configuration.read(['models/tiny.gin', 'runs/train.gin'], [*REQUIRED, f'TRAIN_DATA={paths}', 'SEED=7'])
    found = configuration.bindings(read.text)
    assert ast.literal_eval(found['TRAIN_DATA']) == paths and found['SEED'] == '7'
    assert found['LoopOptions.seed'] == '%SEED' and found['job.run'] == '@train_model'


@pytest.mark.parametrize(
    'binding, message',
    [
        ("TRAIN_STEPS='a'", "TRAIN_STEPS is 'a'; expected a whole number"),
        ('BATCH_SIZE=1.5', 'BATCH_SIZE is 1.5; expected a whole number or None'),
        ("BATCH_TOKENS='a'", "BATCH_TOKENS is 'a'; expected a whole number or None"),
        ('ACCUMULATE=None', 'ACCUMULATE is None; expected a whole number'),
        ('PATIENCE=0.5', 'PATIENCE is 0.5; expected a whole number'),
        ("LEARNING_RATE='a'", "LEARNING_RATE is 'a'; expected a number"),
        ("BEST_IS_HIGHER='no'", "BEST_IS_HIGHER is 'no'; expected True or False"),
        ("Limits.max_new_tokens='a'", "Limits.max_new_tokens is 'a'; expected a whole number or None"),
        ("Exit.threshold='a'", "Exit.threshold is 'a'; expected a number"),
        ('TransformerConfig.dtype=3', 'TransformerConfig.dtype is 3; expected a text'),
        ('TransformerConfig.mlp_activations=3', 'TransformerConfig.mlp_activations is 3; expected a list of texts'),
        ("OPTIMIZER='sgd'", "OPTIMIZER is 'sgd'; expected 'adafactor' or 'adamw'"),
        ('TRAIN_DATA=None', 'TRAIN_DATA is None; expected a text or a list of texts'),
        ('TRAIN_DATA=[%SOURCE, 5]', "TRAIN_DATA is ['{en}', 5]; expected a text or a list of texts"),
        ('EVAL_DATA=5', 'EVAL_DATA is 5; expected a text or a list of texts or None'),
        ('TOKENIZER=5', 'TOKENIZER is 5; expected a path or None'),
        ('MODEL_DIR=5', 'MODEL_DIR is 5; expected a path'),
        ('SEED=@uniform', 'SEED is @uniform; expected a whole number'),
        ('SEED=%SEED', 'SEED stands for itself; add --gin.SEED=...'),
        ('LoopOptions.keep=%gin.REQUIRED', 'LoopOptions.keep is required: add --gin.LoopOptions.keep=...'),
        ("EXIT_WEIGHTS='uniform'", "EXIT_WEIGHTS is 'uniform'; expected @proportional_to_layer or @uniform or @last_only"),
        ('EXIT_WEIGHTS=@geometric', 'EXIT_WEIGHTS is @geometric; expected @proportional_to_layer or @uniform or @last_only'),
        ('EXIT_WEIGHTS=@uniform()', 'EXIT_WEIGHTS is @uniform(); expected @proportional_to_layer or @uniform or @last_only'),
        ('train_model.config=@Limits', 'train_model.config is @Limits; expected @TransformerConfig or None'),
        ('train_model.data=@Optimizer()', 'train_model.data is @Optimizer(); expected @PairedText()'),
        (
            'job.run=5',
            'job.run is 5; expected @train_model or @train_exit_classifier or @train_adapters or @train_policy or '
            '@train_controllers or @train_task or @search_plan or @train_prompt_controller',
        ),
    ],
)
def test_a_value_of_the_wrong_type_is_named_as_the_user_wrote_it(binding, message):
    assert error(ValueError, ['models/tiny.gin', 'runs/train.gin'], [*REQUIRED, binding]) == message


@pytest.mark.parametrize('value', ["'independent'", '@uniform', 'None'])
def test_an_objective_is_a_function_of_logits_and_agreement(value):
    message = error(ValueError, ['runs/classifier.gin'], [*REQUIRED[:4], "CHECKPOINT='d'", f'OBJECTIVE={value}'])
    assert message == f'OBJECTIVE is {value}; expected @independent or @geometric'


def test_functions_of_the_user_s_own_stand_where_the_library_s_do(tmp_path, monkeypatch):
    (tmp_path / 'own_weights.py').write_text(
        'import gin, numpy\n@gin.configurable\ndef last_two(layers, share): return numpy.eye(layers)[-1] * share\n'
        '@gin.configurable\ndef seed_of_the_day(): return 3\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    read = configuration.read(
        ['models/tiny.gin', 'runs/train.gin'],
        [*REQUIRED, 'import own_weights', 'EXIT_WEIGHTS=@last_two', 'last_two.share=0.5', 'SEED=@seed_of_the_day()'],
    )
    assert 'EXIT_WEIGHTS = @last_two' in read.text


@pytest.mark.parametrize(
    'make, wrong, message',
    [
        (model, {'encoder_attention': 'local', 'attention_scale': True}, "encoder_attention is 'local'; expected full"),
        (LoopOptions, {'steps': 'a'}, "steps is 'a'; expected a whole number"),
        (model, {'emb_dim': 2.5}, 'TransformerConfig.emb_dim is 2.5; expected a whole number'),
        (model, {'dtype': 'flaot32'}, "dtype is 'flaot32'; expected one of float32, bfloat16, float16, float64"),
        (model, {'dropout_rate': 1.0}, 'dropout_rate is 1.0; expected at least 0 and less than 1'),
        (
            model,
            {'mlp_activations': ('gelu', 'swish')},
            "unknown activation 'swish'; known: gelu, gelu_exact, relu, silu, linear",
        ),
        (model, {'mlp_activations': 'gelu'}, "mlp_activations is 'gelu'; expected a list of texts"),
        (model, {'mlp_activations': ()}, 'mlp_activations is empty; expected a list of texts'),
        (model, {'norm_epsilon': float('nan')}, 'norm_epsilon is nan; expected 0 or more'),
        (model, {'head_dim': 0}, 'head_dim is 0; expected a positive number'),
        (model, {'relative_attention_num_buckets': 3}, 'relative_attention_num_buckets is 3; expected 4 or more'),
        (
            model,
            {'relative_attention_max_distance': 16},
            'relative_attention_max_distance is 16; expected more than 16, half of the 32 buckets',
        ),
        (LoopOptions, {'steps': 1, 'seed': -1}, 'seed is -1; expected a whole number from 0 to 4294967295'),
        (LoopOptions, {'steps': 1, 'seed': 10**20}, 'seed is 100000000000000000000; expected a whole number from 0'),
        (LoopOptions, {'steps': 1, 'max_minutes': float('nan')}, 'max_minutes is nan; it must be 0 or more'),
        (
            PairedText,
            {'train': 'a', 'source': 'en', 'target': 'fr', 'seed': 2**32},
            'seed is 4294967296; expected a whole number',
        ),
        (losses.check_extras, {'label_smoothing': 1.0, 'z_loss': 0.0}, 'label_smoothing is 1.0'),
        (losses.check_extras, {'label_smoothing': 0.0, 'z_loss': -1.0}, 'z_loss is -1.0; expected 0 or more'),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(make, wrong, message):
    with pytest.raises(ValueError, match=message) as raised:
        make(**wrong)
    assert '\n' not in str(raised.value)


def test_the_largest_seed_is_one_and_the_smallest_model_s_buckets_are_distances():
    options = LoopOptions(steps=1, seed=2**32 - 1)
    assert jax.random.key(options.seed, impl='rbg').shape == ()
    assert model(relative_attention_num_buckets=4, relative_attention_max_distance=3).emb_dim == 4


def test_exit_weights_are_one_number_a_layer():
    with pytest.raises(ValueError, match=r'exit_weights gives \[1.0, 2.0\]; expected 1 numbers, one per decoder layer'):
        multi_exit_stage(model(), {}, None, lambda layers: [1, 2])
