"""Tokenizers: text to ids and back. Each kind is a class that knows the files it is stored in."""

import os
from pathlib import Path

from calm_jax.data.tokenizers import classes
from calm_jax.data.tokenizers.chat import ChatTemplate as ChatTemplate
from calm_jax.data.tokenizers.pipelines import JSON, PAIRS, PIECES
from calm_jax.data.tokenizers.published import PublishedTokenizer as PublishedTokenizer
from calm_jax.data.tokenizers.published import read_published as read_published
from calm_jax.data.tokenizers.sentencepieces import SentencePieceTokenizer as SentencePieceTokenizer
from calm_jax.data.tokenizers.sentencepieces import train_sentencepiece as train_sentencepiece
from calm_jax.data.tokenizers.settings import SETTINGS
from calm_jax.data.tokenizers.tokenizer import Tokenizer as Tokenizer
from calm_jax.data.tokenizers.utf8 import ByteTokenizer as ByteTokenizer
from calm_jax.files import read_json

# Which class a vocabulary without settings is read by, as those files are mostly its.
_CLASSES = {PIECES[1:2]: classes.PIECES, PAIRS: classes.PAIRS, JSON: classes.DESCRIBED}


def load_tokenizer(directory: str | os.PathLike) -> Tokenizer:
    """The tokenizer stored in a folder, its kind told by its files.

    `byte_tokenizer.json` is a `ByteTokenizer`; `spiece.model` without a class in `tokenizer_config.json` a
    `SentencePieceTokenizer`; all else is as published.

    Raises FileNotFoundError for a folder that is not there or holds no tokenizer, listing the files looked for, and
    ValueError for a file that cannot be read as one.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f'{directory} is not a folder: expected one that holds a tokenizer')
    if (directory / ByteTokenizer.FILES[0]).is_file():
        return ByteTokenizer.load(directory)
    settings = directory / SETTINGS
    if settings.is_file() and read_json(settings).get('tokenizer_class'):
        return read_published(directory)
    if (directory / SentencePieceTokenizer.FILES[0]).is_file():
        return SentencePieceTokenizer.load(directory)
    for files, name in _CLASSES.items():
        if all((directory / file).is_file() for file in files):
            return read_published(directory, name)
    kinds = (SentencePieceTokenizer.FILES, ByteTokenizer.FILES, *_CLASSES)
    raise FileNotFoundError(f'no tokenizer in {directory}: looked for {", or ".join(" with ".join(each) for each in kinds)}')
