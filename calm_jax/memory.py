"""What a decode holds in memory, and what there is."""

from pathlib import Path

import jax
import jax.numpy as jnp

from calm_jax.models.config import TransformerConfig

GIB = 2**30


def cache_bytes(config: TransformerConfig, rows: int, width: int, new_tokens: int) -> int:
    """Bytes of the keys and values that so many rows hold, of sources or prompts `width` wide."""
    positions = width + new_tokens  # of prompt and tokens on one ring, or of source and tokens apart
    one = 2 * config.num_decoder_layers * config.kv_heads * config.head_dim * jnp.dtype(config.dtype).itemsize
    return rows * positions * one


def check_memory(config: TransformerConfig, rows: int, width: int, new_tokens: int) -> None:
    """Raises ValueError where the keys and values of so many rows are more than the memory that is free."""
    free, needed = free_bytes(), cache_bytes(config, rows, width, new_tokens)
    if free is not None and needed > free:
        raise ValueError(
            f'{rows} rows hold {needed / GIB:.1f} GiB of keys and values, and {free / GIB:.1f} GiB are free; '
            f'pass a batch size of at most {max(1, int(rows * free / needed))}'
        )


def free_bytes() -> int | None:
    """Bytes that are free on the device, or in the machine where it is its processor; None where nobody says."""
    stats = jax.devices()[0].memory_stats()
    if stats and 'bytes_limit' in stats:
        return stats['bytes_limit'] - stats.get('bytes_in_use', 0)
    try:
        lines = Path('/proc/meminfo').read_text(encoding='ascii').splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith('MemAvailable:')), None)
