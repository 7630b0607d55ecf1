"""The checkpoints of a training run: numbered steps in one directory, of which a few are kept.

    with Manager('runs/a/state', keep=2) as manager:
        if manager.latest_step() is not None:
            state = manager.restore(state)
        ...
        manager.save(step, state)

Any pytree of arrays can be saved (parameters, an optax state, keys as `jax.random.key_data`, plain numbers). Saving copies
the arrays to the host and writes in the background; a step is visible under its number only once it is complete, and
what an interrupted save left behind is removed before the next one. Leaving the `with` block waits for the last save.
"""

import contextlib
import os
import pathlib
from typing import Any

import jax

from calm_jax.checkpoints import trees
from calm_jax.checkpoints.aliases import plain


class Manager:
    """Saves and restores the steps of one training run through orbax.

    directory: created when missing. keep: how many of the latest steps stay on disk.

    Raises ValueError where `keep` is less than 1; FileExistsError where `directory` is a file.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 2):
        import orbax.checkpoint as ocp

        if keep < 1:
            raise ValueError(f'keep is {keep}; a training run keeps at least 1 checkpoint')
        self.directory = pathlib.Path(directory).absolute()
        if self.directory.exists() and not self.directory.is_dir():
            raise FileExistsError(f'{self.directory}: exists and is not a directory; choose another one')
        self._ocp = ocp
        self._alias = contextlib.ExitStack()
        self._manager = ocp.CheckpointManager(
            self._alias.enter_context(plain(self.directory)),
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(cleanup_tmp_directories=True, max_to_keep=keep),
        )

    def save(self, step: int, tree: Any) -> None:
        """Starts writing `tree` as `step`; a step that exists is replaced.

        The arrays may be donated or changed as soon as this returns.
        """
        self.wait()
        if step in self._manager.all_steps():
            self._manager.delete(step)
        self._manager.save(step, args=self._ocp.args.StandardSave(tree), force=True)

    def latest_step(self) -> int | None:
        """The last complete step, or None."""
        self.wait()
        return self._manager.latest_step()

    def restore(self, like: Any, step: int | None = None) -> Any:
        """The tree saved as `step` (default: the latest), with the structure, dtypes and shardings of `like`.

        Raises FileNotFoundError where there is no such step; ValueError where it is damaged, or does not have the structure
        of `like`.
        """
        self.wait()
        steps = sorted(self._manager.all_steps())
        wanted = self._manager.latest_step() if step is None else step
        if wanted not in steps:
            found = f'steps {", ".join(map(str, steps))}' if steps else 'no checkpoint'
            raise FileNotFoundError(
                f'{self.directory}: found {found}, expected {"at least one" if step is None else f"step {step}"}'
            )
        where = self.directory / str(wanted)
        try:
            stored = _shapes(self._manager.item_metadata(wanted).tree)
        except Exception as error:  # Orbax and tensorstore raise a dozen unrelated types here.
            raise trees.unreadable(where, error) from None
        if problems := trees.differences(_shapes(like), stored):
            raise ValueError(
                f'{where}: holds the state of another model or optimizer: {problems}; use a new directory or the old settings'
            )
        try:
            return self._manager.restore(wanted, args=self._ocp.args.StandardRestore(jax.tree.map(_abstract, like)))
        except Exception as error:
            raise trees.unreadable(where, error) from None

    def wait(self) -> None:
        """Returns when everything saved so far is complete on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then releases orbax's threads."""
        self.wait()
        self._manager.close()
        self._alias.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def _shapes(tree):
    """{'opt/0/mu/kernel': shape}: orbax stores named tuples as dicts and empty states as nothing."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator='/'): tuple(getattr(leaf, 'shape', ())) for path, leaf in leaves}


def _abstract(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding) if isinstance(leaf, jax.Array) else leaf
