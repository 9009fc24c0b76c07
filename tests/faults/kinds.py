"""Faults by kind: what is done to a file, or in the middle of a write."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import resource
import shutil
import signal
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from homotopy_deq.sealed import digest, seal
from homotopy_deq.training import load_checkpoint, save_checkpoint

from .stores import Store

HARM = "harm"  # a file that exists once something was executed
DEEP = b"[" * 200_000
VALUES: tuple[Any, ...] = (
    float("nan"), float("inf"), -1, 0, 10**9, 10**30, "../../x", "", None, True, [], {}, [[]] * 3,
    "__import__('os').system('true')", 10**5, 1e-320, json.loads("[" * 400 + "]" * 400),
)  # fmt: skip


class Harm:
    """What a pickle of it does when it is opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.marker,)


def truncated(data: bytes, random: Random, folder: Path) -> bytes:
    return data[: random.randrange(len(data))]


def flipped(data: bytes, random: Random, folder: Path) -> bytes:
    changed = bytearray(data)
    changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


def zeroed(data: bytes, random: Random, folder: Path) -> bytes:
    """As after a power cut: a block that was never written."""
    at = random.randrange(len(data))
    return data[:at] + bytes(len(data[at : at + 512])) + data[at + 512 :]


def grown(data: bytes, random: Random, folder: Path) -> bytes:
    return data + random.randbytes(random.randrange(1, 4000))


def noise(data: bytes, random: Random, folder: Path) -> bytes:
    return random.randbytes(random.randrange(4000))


def pickled(data: bytes, random: Random, folder: Path) -> bytes:
    return pickle.dumps(Harm(folder / HARM), protocol=random.randrange(6))


def nested(data: bytes, random: Random, folder: Path) -> bytes:
    text = random.choice([DEEP, b'{"a":' * 100_000, DEEP + b"]" * len(DEEP), b"9" * 10_000])
    if random.random() < 0.5:  # as the header of a safetensors file
        return len(text).to_bytes(8, "little") + text
    return text


def endless(data: bytes, random: Random, folder: Path) -> bytes:
    return random.choice([b"\n", b"{}\n", b'{"epoch": 1}\n', b"[], "]) * 300_000


DAMAGE: dict[str, Callable[[bytes, Random, Path], bytes]] = {
    "cut short": truncated,
    "a bit flipped": flipped,
    "a block of zeros": zeroed,
    "bytes added": grown,
    "random bytes": noise,
    "a pickle in its place": pickled,
    "nested without end": nested,
    "lines without end": endless,
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the place of everything in a value of JSON."""
    found = [path] if path else []
    entries: Any = ()
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list):
        entries = enumerate(value)
    return found + [place for key, each in entries for place in places(each, (*path, key))]


def altered(body: Any, random: Random) -> Any:
    """Return a value of JSON with something else, or nothing, at one place in it."""
    body = json.loads(json.dumps(body))
    *way, last = random.choice(places(body))
    at = body
    for key in way:
        at = at[key]
    if random.random() < 0.2:
        del at[last]
    else:
        at[last] = random.choice(VALUES)
    return body


def numbers(value: Any) -> list[float]:
    """List the floating-point numbers in a value of JSON."""
    if isinstance(value, float):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [number for part in parts for number in numbers(part)]


def hostile(store: Store, folder: Path, random: Random) -> str:
    """Say something else in a file, with the checksum that goes with it; return what."""
    name = random.choice(store.files)
    file = folder / name
    if file.suffix == ".safetensors":
        stored = load_checkpoint(file)
        meta = altered(stored.meta, random)
        save_checkpoint(file, replace(stored, meta=meta))
        if (copy := folder / "config.json").exists():
            copy.write_text(json.dumps(meta), encoding="utf-8")
        return f"header of {name}"
    lines = file.read_bytes().splitlines()
    k = random.randrange(len(lines))
    try:
        body = json.loads(lines[k])
    except ValueError:  # one object on several lines, or no JSON
        k, lines = 0, [file.read_bytes()]
        try:
            body = json.loads(lines[0])
        except ValueError:
            return ""
    signed = body.pop("sha256", None)
    by_bytes = signed is not None and signed != digest(body)
    body = altered(body, random)
    if by_bytes and all(math.isfinite(x) for x in numbers(body)):  # a NaN cannot be sealed
        lines[k] = seal(body).rstrip(b"\n")
    else:
        lines[k] = json.dumps(body | ({"sha256": digest(body)} if signed else {})).encode()
    file.write_bytes(b"\n".join(lines) + b"\n")
    return f"line {k + 1} of {name}"


def hostile_zip(file: Path, random: Random, folder: Path) -> str:
    """Add a member that no zip file of images has; return what."""
    with zipfile.ZipFile(file) as archive:
        picture = archive.read("train/cat/0000.png")
    kind = random.choice(["upwards", "absolute", "bomb", "huge", "lie", "encrypted", "method",
                          "link", "twice", "pixels"])  # fmt: skip
    info = zipfile.ZipInfo("train/cat/more.png")
    with zipfile.ZipFile(file, "a") as archive:
        if kind == "upwards":
            info.filename = "../" * random.randrange(1, 5) + f"train/cat/{HARM}.png"
        elif kind == "absolute":
            info.filename = f"{folder}/{HARM}.png"
        elif kind == "link":
            info.external_attr = 0o120777 << 16
            picture = b"/etc/passwd"
        elif kind == "twice":
            info.filename = "train/cat/0000.png"
        elif kind == "pixels":  # a header of 60,000 x 60,000, where Pillow reads the size
            picture = picture[:16] + (60_000).to_bytes(4, "big") * 2 + picture[24:]
        elif kind == "bomb":
            picture = bytes(2**28 + 1)
            info.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(info, picture, compresslevel=1)
        last = archive.filelist[-1]  # what the directory at the end will say
        if kind == "huge":
            last.file_size = 2**40
        elif kind == "lie":
            last.file_size = 10
        elif kind == "encrypted":
            last.flag_bits |= 1
        elif kind == "method":
            last.compress_type = 77
    return kind


class Full:
    """Let the k-th sync or rename of a file fail, as on a full or a broken disk."""

    def __init__(self, at: int, code: int) -> None:
        self.at, self.code, self.calls = at, code, 0

    def __enter__(self) -> Full:
        self.kept = os.fsync, os.replace

        def failing(call: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*args: Any) -> Any:
                self.calls += 1
                if self.calls == self.at:
                    raise OSError(self.code, os.strerror(self.code))
                return call(*args)

            return counted

        os.fsync, os.replace = map(failing, self.kept)
        return self

    def __exit__(self, *why: object) -> None:
        os.fsync, os.replace = self.kept


def syncs(change: Callable[[Path], None], folder: Path) -> int:
    """Count the syncs and renames of a change, made to a copy of a folder."""
    scratch = folder.with_name(folder.name + "-scratch")
    shutil.copytree(folder, scratch)
    with Full(0, errno.ENOSPC) as counter:
        change(scratch)
    shutil.rmtree(scratch)
    return counter.calls


def forked(action: Callable[[], None]) -> int:
    """Do something in a process of its own, and return its status as `os.waitpid` has it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def killed(change: Callable[[Path], None], folder: Path, random: Random) -> str:
    """Kill a change with -9 before or after one of its syncs, or amid the bytes of a file."""
    if random.random() < 0.5:
        at, after = random.randrange(1, syncs(change, folder) + 1), random.random() < 0.5

        def die() -> None:
            calls = 0

            def counted(call: Callable[..., Any]) -> Callable[..., Any]:
                def inner(*args: Any) -> Any:
                    nonlocal calls
                    calls += 1
                    if calls == at and not after:
                        os.kill(os.getpid(), signal.SIGKILL)
                    found = call(*args)
                    if calls == at:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return found

                return inner

            os.fsync, os.replace = counted(os.fsync), counted(os.replace)
            change(folder)

        forked(die)
        return f"{'after' if after else 'before'} sync {at}"
    size = random.randrange(3000)

    def torn() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        change(folder)

    forked(torn)
    return f"at byte {size}"


def full(change: Callable[[Path], None], folder: Path, random: Random) -> str:
    """Let the disk be full from some byte or some sync on; raises what the change raises."""
    if random.random() < 0.5:
        code = random.choice([errno.ENOSPC, errno.EIO, errno.EDQUOT])
        with Full(random.randrange(1, syncs(change, folder) + 1), code):
            change(folder)
        return os.strerror(code)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (random.randrange(2000), before[1]))
    try:
        change(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return "it fitted"
