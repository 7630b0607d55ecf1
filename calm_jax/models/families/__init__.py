"""Published model families. Each file maps one family's published configuration and weights to ours, and back:

    MODEL_TYPES                          the values of "model_type" it reads; it writes the first
    PREFIX, OUTSIDE                      what stands before the names of the bare model's tensors, and the names outside it
    BUFFERS                              a pattern of names of tensors that no model reads
    TOKENIZER                            the class that reads vocabularies which name none
    SYNONYMS                             {other name of an attribute: its name}; where both are given the other name's counts
    READ                                 every attribute that its computation depends on
    config_from_published(published, tensors)   config.json as a dict, the tensors in the files by name → TransformerConfig;
                                         refuses what it does not compute, by name
    published_from_config(config)        the reverse; refuses a model that the family does not have
    weight_map(config)                   every parameter once: an iterator of `weights.Weight`

A new family is a new file and its place in `FAMILIES`.
"""

import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from calm_jax.models.config import TransformerConfig
from calm_jax.models.families import bart, generation, gpt2, llama, mbart, opt, t5

FAMILIES = (t5, bart, mbart, gpt2, opt, llama)

# Families that are asked for and not here, by "model_type": what they would need.
_ABSENT = {
    't5gemma': 'T5Gemma',
    'm2m_100': 'NLLB and M2M-100',
    'umt5': 'UMT5',
    'marian': 'Marian',
    'mistral': 'Mistral',
    'qwen2': 'Qwen2',
    'gemma': 'Gemma',
}

# What published configurations of every family carry and no forward pass reads: where a file comes from, how it is stored or
# was trained, what the reference implementation returns, and other programs' settings (the last lines: of a distillation and of
# OPT's conversion; KoboldAI's). Preferences for decoding are read apart (`generation`).
_INERT = frozenset(
    """
    architectures auto_map author license tokenizer_class torch_dtype dtype attn_implementation language languages
    transformers.js_config unsloth_fixed model_max_length tokenizer_model_max_length max_seq_len max_seq_length
    max_sequence_length seq_length tokenizer_padding_side padding_side truncation_side
    task_specific_params finetuning_task problem_type id2label label2id num_labels
    use_cache return_dict use_return_dict output_hidden_states output_attentions output_past output_scores
    return_dict_in_generate torchscript tf_legacy_loss use_bfloat16 xla_device chunk_size_feed_forward
    gradient_checkpointing gradient_checkpointing_use_reentrant use_flash_attention use_flash_attention_2 use_flash_attn
    pretraining_tp tensor_parallel_size sep_token_id prefix save_step seed neftune_noise_alpha
    replacing_rate student_encoder_layers student_decoder_layers output_projection
    adventure antemplate badwordsids dynamicscan formatoptns newlinemode nobreakmodel rep_pen rep_pen_range rep_pen_slope
    sampler_order temp tfs top_a typical welcome
    """.split()
)
# The same by the form of the name: private ones, versions, and what acts in training alone.
_INERT_FORMS = re.compile(
    r'_.*|.*_version|.*(dropout|pdrop|layerdrop)(_rate|_prob)?|init(ializer)?_\w+|summary_\w+|label_smoothing'
)

# What no family has, where it is off.
_OFF = {'tie_encoder_decoder': False, 'add_cross_attention': False}


def family_of(published: dict[str, Any]) -> ModuleType:
    """The module that reads a published configuration (a dict).

    Raises ValueError where none does.
    """
    name = published.get('model_type')
    for family in FAMILIES:
        if name in family.MODEL_TYPES:
            return family
    known = ', '.join(each for family in FAMILIES for each in family.MODEL_TYPES)
    absent = f' ({_ABSENT[name]} is not among the families)' if isinstance(name, str) and name in _ABSENT else ''
    raise ValueError(f'model_type is {name!r}; expected one of {known}{absent}')


def config_from_published(
    published: dict[str, Any], tensors: Mapping[str, Any] | None = None, ignored: Sequence[str] = ()
) -> TransformerConfig:
    """TransformerConfig of a published configuration (a dict) of any known family.

    tensors: {name: tensor} of its files, each with a `shape` and to be `read`. ignored: further attributes to read over.

    Attributes that no forward pass reads are dropped first, and those that are null or empty: published files list
    features that a model does not have.

    Raises ValueError where the family is unknown, or one of its attributes is, or one to ignore changes what is computed, or
    the weights are quantised.
    """
    family = family_of(published)
    if read := sorted(family.READ & set(ignored)):
        raise ValueError(f'attributes that change what is computed cannot be ignored: {", ".join(read)}')
    given = {name: value for name, value in published.items() if value is not None and value != {} and value != []}
    given = {name: value for name, value in given.items() if name not in _OFF or value != _OFF[name]}
    if 'quantization_config' in given:
        raise ValueError('quantization_config: quantised weights are not read; take the model as it was before')
    given = {name: value for name, value in given.items() if name not in family.SYNONYMS} | {
        family.SYNONYMS[name]: value for name, value in given.items() if name in family.SYNONYMS
    }
    attributes = {name: value for name, value in given.items() if name in family.READ}
    unknown = sorted(
        name
        for name in set(given) - family.READ - _INERT - generation.IN_CONFIG - {'model_type', *ignored}
        if name not in family.INERT and not _INERT_FORMS.fullmatch(name)
    )
    if unknown:
        raise ValueError(
            f'attributes not understood: {", ".join(unknown)}; where you know that they change nothing, '
            f'read over them with --ignore_attributes {",".join(unknown)}'
        )
    return family.config_from_published({'model_type': published['model_type'], **attributes}, tensors or {})


def renamed(family: ModuleType, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """{name in the family's weight map: tensor}, each by itself: files may leave the bare model's prefix out, and hold buffers
    that no model reads."""
    names = {}
    for name, tensor in tensors.items():
        bare = name in family.OUTSIDE or name.startswith(family.PREFIX)
        names[name if bare else family.PREFIX + name] = tensor
    return {name: tensor for name, tensor in names.items() if not family.BUFFERS.fullmatch(name)}


def family_for(config: TransformerConfig) -> ModuleType:
    """The first module that can publish a model with `config`.

    Raises ValueError where none can, with each one's reason.
    """
    reasons = []
    for family in FAMILIES:
        try:
            family.published_from_config(config)
        except ValueError as error:
            reasons.append(str(error))
        else:
            return family
    raise ValueError('; '.join(reasons))
