"""Published model families. Each file maps one family's published configuration and weights to ours, and back:

    MODEL_TYPES                          the values of "model_type" it reads; it writes the first
    PREFIX, BUFFERS                      what names of tensors may lack in front, and a pattern of names that are no weights
    TOKENIZER                            the class that reads vocabularies which name none
    config_from_published(published, tensors)   config.json as a dict, the names in the files → TransformerConfig; refuses
                                         what it does not know, by name
    published_from_config(config)        the reverse; refuses a model that the family does not have
    weight_map(config)                   every parameter once: an iterator of `weights.Weight`

A new family is a new file and its place in `FAMILIES`.
"""

from collections.abc import Iterable
from types import ModuleType
from typing import Any

from calm_jax.models.config import TransformerConfig
from calm_jax.models.families import bart, gpt2, llama, opt, t5

FAMILIES = (t5, bart, gpt2, opt, llama)

# What published configurations of every family carry and no forward pass reads: where a file comes from, how it is stored,
# what the reference implementation returns, and preferences for decoding, which here belong to the command.
_BOOKKEEPING = frozenset(
    (
        'architectures',
        'transformers_version',
        '_name_or_path',
        '_commit_hash',
        'tokenizer_class',
        'torch_dtype',
        'dtype',
        'task_specific_params',
        'finetuning_task',
        'problem_type',
        'id2label',
        'label2id',
        'use_cache',
        'return_dict',
        'output_hidden_states',
        'output_attentions',
        'torchscript',
        'gradient_checkpointing',
        'chunk_size_feed_forward',
        '_attn_implementation',
        '_attn_implementation_autoset',
        'max_length',
        'min_length',
        'max_new_tokens',
        'min_new_tokens',
        'do_sample',
        'num_beams',
        'num_return_sequences',
        'early_stopping',
        'temperature',
        'top_k',
        'top_p',
        'length_penalty',
        'repetition_penalty',
        'no_repeat_ngram_size',
    )
)


def family_of(published: dict[str, Any]) -> ModuleType:
    """The module that reads a published configuration (a dict).

    Raises ValueError where none does.
    """
    for family in FAMILIES:
        if published.get('model_type') in family.MODEL_TYPES:
            return family
    known = ', '.join(name for family in FAMILIES for name in family.MODEL_TYPES)
    raise ValueError(f'model_type is {published.get("model_type")!r}; expected one of {known}')


def config_from_published(published: dict[str, Any], tensors: Iterable[str] = ()) -> TransformerConfig:
    """TransformerConfig of a published configuration (a dict) of any known family; tensors: the names in its files.

    Attributes that no forward pass reads are dropped first, and those that are null or empty: published files list
    features that a model does not have.

    Raises ValueError where the family is unknown, or one of its attributes is.
    """
    family = family_of(published)
    return family.config_from_published(
        {
            name: value
            for name, value in published.items()
            if name not in _BOOKKEEPING and value is not None and value != {} and value != []
        },
        tensors,
    )


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
