"""Training checkpoints: arrays and the data cursor of one step in one folder, written by Orbax."""

import contextlib
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax

from ariel_jax.errors import CheckpointError


class Checkpoints:
    """The last few checkpoints of a run in a folder, each `FOLDER/STEP`.

    Guarantees:
        A checkpoint appears under its name only when it is complete; one that could not be written
        leaves the earlier ones as they were. Only of one beyond `keep`, which a save removes when
        the newer ones are complete, a part may stay when that is cut short. With `private`, no other
        user may enter the folder, and checkpoints are files that only this user may read.
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep: int = 2, private: bool = False):
        import orbax.checkpoint as ocp

        # Orbax logs every save, and failures that this class raises as its own error.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self.folder = pathlib.Path(folder).absolute()
        self._ocp = ocp
        self._failures = 0
        self._private = private
        with self._explained("open"):
            self.folder.mkdir(parents=True, exist_ok=True)
            if private:
                self.folder.chmod(0o700)
            # Orbax would do it in the background, and refuse every save if it fails.
            if jax.process_index() == 0:
                self._remove_unfinished("*")
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=keep,
                    enable_async_checkpointing=False,
                    create=False,
                    cleanup_tmp_directories=False,
                    temporary_path_class=self._temporary_paths(),
                ),
                item_names=("state", "cursor"),
            )

    @contextlib.contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:  # Orbax and tensorstore raise whatever their layers raise
            raise CheckpointError(
                f"cannot {doing} the checkpoints in {self.folder}: {error}. Earlier checkpoints "
                "are unchanged. The folder must be writable and have room for the parameters and "
                "the optimiser's state; free some space or choose another folder."
            ) from error

    def _temporary_paths(self) -> Any:
        """Orbax's way to name a folder in the making, with another name after each failed save.

        What a failed save started in the background still writes into the folder that it made, and
        a second try in a folder of the same name would meet those files.
        """
        atomicity, owner = self._ocp.path.atomicity, self

        class OfOneTry(atomicity.AtomicRenameTemporaryPath):
            @classmethod
            def from_final(cls, final_path: Any, **options: Any) -> Any:
                name = f"{final_path.name}{atomicity.TMP_DIR_SUFFIX}-{owner._failures}"
                return cls(final_path.parent / name, final_path, **options)

        return OfOneTry

    def _remove_unfinished(self, step: int | str) -> None:
        for left in self.folder.glob(f"{step}{self._ocp.path.atomicity.TMP_DIR_SUFFIX}*"):
            shutil.rmtree(left, ignore_errors=True)

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, cursor: dict[str, Any]) -> None:
        """Writes a checkpoint and removes the oldest beyond `keep`.

        Args:
            step: steps made so far; nothing happens if this step is stored already.
            state: a pytree of arrays.
            cursor: JSON values.

        Raises:
            CheckpointError: it could not be written, or an older one not removed; the message says
                which.
        """
        if step in self._manager.all_steps():
            return
        args = self._ocp.args
        try:
            with self._explained("write"):
                self._manager.save(
                    step,
                    args=args.Composite(
                        state=args.StandardSave(state), cursor=args.JsonSave(cursor)
                    ),
                )
                self._manager.wait_until_finished()
                if self._private:
                    _make_private(self.folder / str(step))
        except CheckpointError as error:
            self._failures += 1
            # Its writers may still be at work; what they leave now goes when the folder is opened.
            self._remove_unfinished(step)
            if (self.folder / str(step)).exists():
                with self._explained("read"):
                    self._manager.reload()  # else Orbax takes what is left of the old one for gone
                raise CheckpointError(
                    f"the checkpoint of step {step} in {self.folder} is complete, but an older one "
                    f"could not be removed: {error.__cause__}. A later save removes it; check the "
                    "disk and the permissions of the folder."
                ) from error
            raise

    def restore(self, state: Any, *, step: int | None = None) -> tuple[int, Any, dict[str, Any]]:
        """The newest checkpoint, or that of a step.

        Args:
            state: a pytree of arrays of the stored shapes and dtypes; the result has its structure
                and is placed as it is.
            step: which; None for the newest.

        Returns:
            (step, state, cursor).

        Raises:
            CheckpointError: there is none, or it does not fit `state`.
        """
        step = self.latest() if step is None else step
        if step is None:
            raise CheckpointError(
                f"there is no complete checkpoint in {self.folder}; name the folder of an earlier "
                "run, or start without resuming."
            )
        args = self._ocp.args
        abstract = jax.tree.map(_abstract, state)
        with self._explained("read"):
            stored = self._manager.restore(
                step,
                args=args.Composite(
                    state=args.StandardRestore(abstract), cursor=args.JsonRestore()
                ),
            )
        return step, stored["state"], dict(stored["cursor"])

    def close(self) -> None:
        """Releases what Orbax holds."""
        self._manager.close()


def _make_private(top: pathlib.Path) -> None:
    top.chmod(0o700)
    for path in top.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
