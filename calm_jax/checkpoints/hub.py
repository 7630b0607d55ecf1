"""Published models by name: ORGANISATION/NAME on the Hugging Face hub, through huggingface_hub where it is installed. What it
has downloaded once it finds again without a network."""

import os
import pathlib
import re

from calm_jax.checkpoints.published_heads import HEADS

_NAME = re.compile(r'[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*')
# All that reading takes. Weights that torch saved are downloaded where there are no others.
_FILES = ['*.json', '*.txt', '*.model', '*.jinja', HEADS]
_WEIGHTS, _PICKLED = ['model.safetensors', 'model-*.safetensors'], ['pytorch_model.bin', 'pytorch_model-*.bin']


def is_name(source: str | os.PathLike) -> bool:
    """Whether this has the form of a published model's name, and nothing on this machine has it."""
    text = os.fspath(source)
    return bool(_NAME.fullmatch(text)) and not pathlib.Path(text).exists() and not pathlib.Path(text).parent.is_dir()


def downloaded(name: str) -> pathlib.Path:
    """The directory of a published model, downloaded if it is not here yet.

    Raises FileNotFoundError where huggingface_hub is not installed, knows no such model or cannot reach it.
    """
    try:
        import huggingface_hub  # pyright: ignore[reportMissingImports]  # optional; nothing else needs it
    except ImportError:
        raise FileNotFoundError(
            f'{name}: no such directory; to download the published model of that name: pip install huggingface_hub'
        ) from None
    try:
        directory = pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=[*_FILES, *_WEIGHTS]))
        if not any(path for pattern in _WEIGHTS for path in directory.glob(pattern)):
            directory = pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=[*_FILES, *_PICKLED]))
    except Exception as error:  # The library, and those that it calls, raise a dozen unrelated types here.
        reason = ' '.join(str(error).split())[:200] or type(error).__name__
        raise FileNotFoundError(f'{name}: no such directory, and it could not be downloaded ({reason})') from None
    return directory
