"""Trees of arrays on disk, through orbax: write, read; and the fingerprint of a tree.

A tree is a nested dict with arrays as leaves. It is stored in parts, folders 0, 1, …, each an ocdbt database of orbax's
(about ten files whatever the number of tensors, compressed): orbax copies all that it is given, so a part is little beside
a large model. Beside them `write` puts `checksums.json`. Orbax notices a damaged file only halfway through reading it, and
reports that from many threads at once; checking the files first turns every truncated copy and every flipped bit into one
line.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from calm_jax.checkpoints.aliases import plain
from calm_jax.files import read_json, write_json

CHECKSUMS = 'checksums.json'
PART_BYTES = 64 << 20  # of a part, but where one array is larger


def flatten(tree: Mapping, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields (path, leaf) of a nested dict in the order of its sorted paths; a path is a tuple of strings."""
    for name in sorted(tree):
        path = (*prefix, str(name))
        if isinstance(tree[name], dict):
            yield from flatten(tree[name], path)
        else:
            yield path, tree[name]


def fingerprint(tree: Mapping) -> str:
    """sha256 (hex) over the path, dtype, shape and bytes of every leaf; the order of dict entries does not matter."""
    digest = hashlib.sha256()
    for path, leaf in flatten(tree):
        array = np.asarray(leaf)
        digest.update(json.dumps([path, array.dtype.name, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def cast(array: npt.ArrayLike, dtype: npt.DTypeLike | None, name: str) -> np.ndarray:
    """`array` as numpy of `dtype` when it holds floating-point numbers; integers and booleans keep theirs.

    Raises ValueError where a finite number that `dtype` cannot hold would become infinite (float16 ends at 65504).
    """
    array = np.asarray(array)
    if dtype is None or not jnp.issubdtype(array.dtype, jnp.floating) or array.dtype == jnp.dtype(dtype):
        return array
    with np.errstate(over='ignore'):
        narrow = array.astype(jnp.dtype(dtype))
    if jnp.finfo(dtype).max < jnp.finfo(array.dtype).max and not np.array_equal(np.isinf(narrow), np.isinf(array)):
        raise ValueError(
            f'{name}: the largest magnitude {np.abs(array.astype(np.float64)).max():.3g} does not fit '
            f'{jnp.dtype(dtype).name}; use float32 or bfloat16'
        )
    return narrow


def write(
    directory: str | os.PathLike, tree: Mapping, dtype: npt.DTypeLike | None = None, watch: Callable[[list], Iterable] = iter
) -> None:
    """Writes `tree` to the new `directory`, its floating-point leaves as `dtype` when one is given.

    Not atomic by itself: write inside `atomic.new_directory`. Arrays are stored without their sharding, so that a
    checkpoint written on eight devices loads on one. `watch` passes the leaves on, as a progress bar does.
    """
    import orbax.checkpoint as ocp  # Takes seconds to import, and most commands never write a tree.

    directory = pathlib.Path(directory).absolute()
    with plain(directory) as named, _checkpointer(ocp) as checkpointer:
        for number, part in enumerate(_parts(watch(list(flatten(tree))), dtype)):
            checkpointer.save(named / str(number), args=ocp.args.StandardSave(part))
            # It names the folder that was written to, which is gone by the time that anybody reads it.
            (directory / str(number) / 'commit_success.txt').unlink(missing_ok=True)
            del part
    sums = {file.relative_to(directory).as_posix(): _checksum(file) for file in sorted(directory.rglob('*')) if file.is_file()}
    write_json(directory / CHECKSUMS, sums)


def read(directory: str | os.PathLike, dtype: npt.DTypeLike | None = None) -> dict:
    """The tree in `directory` as jax arrays on the first device, floating-point leaves cast to `dtype` if given.

    The cast happens array by array while reading; the tree is never held twice.

    Raises FileNotFoundError where no tree was written there; ValueError where its files are damaged.
    """
    import orbax.checkpoint as ocp

    directory = pathlib.Path(directory).absolute()
    parts = {name.partition('/')[0] for name in _verify(directory)}
    numbers = range(len(parts))
    if not parts or parts != {str(number) for number in numbers}:
        raise unreadable(directory, ValueError('not stored in parts 0, 1, …, or by another version'))
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def target(leaf):
        floating = dtype is not None and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype) if floating else leaf.dtype, sharding=sharding)

    tree = {}
    try:
        with plain(directory) as named, _checkpointer(ocp) as checkpointer:
            for number in numbers:
                part = named / str(number)
                stored = checkpointer.metadata(part).item_metadata.tree
                _merge(checkpointer.restore(part, args=ocp.args.StandardRestore(_map_dict(target, stored))), tree)
    except Exception as error:  # Orbax and tensorstore raise a dozen unrelated types here.
        raise unreadable(directory, error) from None
    return tree


def differences(expected: Mapping[str, tuple], found: Mapping[str, tuple], most: int = 4) -> str:
    """What is wrong with the shapes `found` where `expected` are wanted, '' if nothing; both are {name: shape}."""
    problems = [f'{name} is missing' for name in expected if name not in found]
    problems += [f'{name} is unexpected' for name in found if name not in expected]
    problems += [
        f'{name} has shape {found[name]}, expected {shape}'
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    more = [f'and {len(problems) - most} more'] if len(problems) > most else []
    return '; '.join(problems[:most] + more)


def unreadable(directory: str | os.PathLike, error: Exception) -> ValueError:
    """The one-line error for a tree that orbax cannot read."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ValueError(
        f'{directory}: the stored arrays cannot be read, the checkpoint is incomplete or damaged '
        f'({reason[:200]}); copy it again or use another'
    )


def put(tree: dict, path: Sequence[str], leaf: Any) -> None:
    """Puts a leaf into a nested dict, under a path of names."""
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = leaf


def _checkpointer(ocp):
    """Orbax for this process alone: of several that train together one may write, and none waits for the others."""
    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f'process_{process}'
    )
    return ocp.Checkpointer(ocp.StandardCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone)


def _parts(leaves, dtype):
    """Yields nested dicts of arrays on the host, of `PART_BYTES` or one array more each."""
    host, part, size = jax.local_devices(backend='cpu')[0], {}, 0
    for path, leaf in leaves:
        array = cast(jax.device_get(leaf), dtype, '/'.join(path))
        size += array.nbytes
        # Orbax copies a device's array once and numpy's twice; numpy's may be of a type that devices have not, and a device's
        # must be known to all of several processes.
        fits = jax.process_count() == 1 and jax.dtypes.canonicalize_dtype(array.dtype) == array.dtype
        put(part, path, jax.device_put(array, host) if fits else array)
        del array
        if size >= PART_BYTES:
            yield part
            part, size = {}, 0
    if part:
        yield part


def _merge(part, tree):
    """Puts the leaves of a part where they belong in the tree."""
    for path, leaf in flatten(part):
        put(tree, path, leaf)


def _verify(directory):
    """Compares every file with `checksums.json`, and returns their names; raises for the first that differs."""
    if not directory.is_dir():
        raise FileNotFoundError(f'{directory}: no such directory; expected stored arrays')
    try:
        sums = read_json(directory / CHECKSUMS)
        sums = {name: (int(entry['bytes']), str(entry['sha256'])) for name, entry in sums.items()}
    except FileNotFoundError:
        raise FileNotFoundError(
            f'{directory}: holds no {CHECKSUMS}, so the checkpoint is incomplete or was not written by calm_jax; copy it again'
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(f'{directory}: {CHECKSUMS} is damaged; copy the checkpoint again') from None
    for name, (size, digest) in sums.items():
        file = directory / name
        if not file.is_file():
            raise ValueError(f'{directory}: the file {name} is missing, the checkpoint is incomplete; copy it again')
        if file.stat().st_size != size:
            raise ValueError(
                f'{directory}: the file {name} has {file.stat().st_size} bytes, expected {size}; '
                'the checkpoint is incomplete or damaged, copy it again'
            )
        if _checksum(file)['sha256'] != digest:
            raise ValueError(
                f'{directory}: the contents of {name} do not match {CHECKSUMS}; the checkpoint is damaged, copy it again'
            )
    return list(sums)


def _checksum(file):
    with open(file, 'rb') as stream:
        return {'bytes': file.stat().st_size, 'sha256': hashlib.file_digest(stream, 'sha256').hexdigest()}


def _map_dict(function, tree):
    """`jax.tree.map` over nested mappings only: orbax's metadata leaves are themselves containers to some versions."""
    if hasattr(tree, 'items'):
        return {str(name): _map_dict(function, value) for name, value in tree.items()}
    return function(tree)
