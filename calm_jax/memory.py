"""What a decode holds in memory, and what there is."""

from pathlib import Path

import jax
import jax.numpy as jnp

from calm_jax.models.config import TransformerConfig

GIB = 2**30


def cache_bytes(config: TransformerConfig, width: int, new_tokens: int) -> int:
    """Bytes of the keys, values and exit states that a sequence holds, of a source or prompt `width` wide."""
    positions = width + new_tokens  # of prompt and tokens on one ring, or of source and tokens apart
    one = 2 * config.num_decoder_layers * config.kv_heads * config.head_dim + config.emb_dim
    return positions * one * jnp.dtype(config.dtype).itemsize


def check_memory(config: TransformerConfig, rows: int, beams: int, width: int, new_tokens: int) -> None:
    """Raises ValueError where what so many rows hold, of so many beams each, is more than the memory that is free."""
    free, one = free_bytes(), beams * cache_bytes(config, width, new_tokens)
    if free is None or rows * one <= free:
        return
    fits = int(free / one)
    advice = f'pass a batch size of at most {fits}' if fits else 'lower the limits: not even one row fits'
    raise ValueError(
        f'{rows} rows hold {rows * one / GIB:.1f} GiB of keys and values, and {free / GIB:.1f} GiB are free; {advice}'
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
