"""The folder of a run: whether it can be written to, and by one run at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from solvers.caller import warn_caller

LOCK = "lock"


def require_writable(path: Path) -> None:
    """Raise OSError unless a folder can be written to, or made; nothing is written to find out."""
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is a file, where {path} needs a folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{there} cannot be written to: choose another folder than {path}.")


def require_room(path: Path, size: int) -> None:
    """Raise OSError unless the disk of a folder has room for so many bytes."""
    free = shutil.disk_usage(path).free
    if free < size:
        raise OSError(
            f"{path} is on a disk with {free / 2**20:,.0f} MiB free, and the run needs "
            f"{size / 2**20:,.0f}: make room, or choose another folder."
        )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of a folder. The system lifts the lock when the process ends.

    Raises:
        FileExistsError: another run is writing to the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+", encoding="ascii", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise FileExistsError(
                f"another run (process {file.read().strip() or 'unknown'}) is writing to "
                f"{folder}: wait for it to end, or choose another folder (--out)."
            ) from None
        except OSError as error:  # some network file systems have no locks
            warn_caller(f"{folder} cannot be locked ({error.strerror}): start no second run in it.")
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Wait while another process or thread writes to a folder so; nothing is left in it.

    Raises:
        OSError: the folder can be neither written to nor made.
    """
    require_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    place = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in an OSError, which a full disk's does not."""
    try:
        yield
    except OSError as error:
        raise type(error)(
            f"{path} could not be written ({error.strerror or error}): make room, or choose "
            "another folder."
        ) from error
