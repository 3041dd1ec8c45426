"""Runs a program that a model wrote, with as little as the system lets us take away. A script; it imports nothing of ours.

    python -I sandbox.py FOLDER SECONDS BYTES [FUNCTION]

FOLDER holds solution.py and is the only place that it can write to. Without FUNCTION the program reads standard input and
writes standard output. With it, standard input is a JSON list of arguments, and what the function, or the method of a class
Solution, returns is written as JSON.

Always: limits on processor time, memory, the size of files and the number of processes, and no core dumps. On Linux, where
the kernel and the rights of the user allow it: no network and no processes that outlive this one (namespaces), no writing
outside of the folder (Landlock), and, for root, another user, who may still read. What can't be had is left out without a
word: this makes accidents harmless, it is no prison for an attacker.
"""

import contextlib
import ctypes
import json
import os
import resource
import runpy
import signal
import sys

NEW_USER, NEW_PID, NEW_NET = 0x10000000, 0x20000000, 0x40000000  # of unshare(2)
NO_NEW_PRIVILEGES, KEEP_CAPABILITIES, PARENT_DEATH = 38, 8, 1  # of prctl(2)
READ_ANYTHING = 1 << 2  # CAP_DAC_READ_SEARCH
NOBODY = 65534
PROCESSES = 64
FILE_BYTES = 16 << 20
# What LeetCode's starter code takes for granted.
PREAMBLE = """
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from operator import *
from random import *
from string import *
from typing import *
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string, sys
"""


def own_processes() -> int:
    """Threads that the user of this process runs; the limit on processes counts these as well."""
    count, me = 0, os.getuid()
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        with contextlib.suppress(OSError):
            if name.isdecimal() and os.stat(f"/proc/{name}").st_uid == me:
                count += len(os.listdir(f"/proc/{name}/task"))
    return count


def limit(kind: int, value: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (value,) * 2 if hard == resource.RLIM_INFINITY else (min(value, hard),) * 2)


def become_nobody(libc) -> None:
    """Root's limits on processes don't count. The interpreter may lie where only root can read, as it may from here on."""
    with contextlib.suppress(OSError):
        libc.prctl(KEEP_CAPABILITIES, 1, 0, 0, 0)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        version = (ctypes.c_uint32 * 2)(0x20080522, 0)
        libc.capset(version, (ctypes.c_uint32 * 6)(READ_ANYTHING, READ_ANYTHING))


def stay_in(folder: str, libc) -> None:
    """Landlock: reading is free, writing only below the folder. A kernel before 5.13 has none."""
    create, add, restrict = 444, 445, 446
    version = libc.syscall(create, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return
    writing = 0b1_1111_1111_0010  # all rights of version 1 but to execute, to read a file, and to read a directory
    if version >= 2:
        writing |= 1 << 13  # to move a file between directories
    if version >= 3:
        writing |= 1 << 14  # to truncate
    writing &= ~(1 << 3)
    rights = ctypes.c_uint64(writing)
    rules = libc.syscall(create, ctypes.byref(rights), ctypes.c_size_t(8), ctypes.c_uint32(0))
    if rules < 0:
        return

    class Beneath(ctypes.Structure):
        _pack_ = 1
        _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]

    place = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    null = os.open(os.devnull, os.O_PATH)
    libc.syscall(add, rules, ctypes.c_int(1), ctypes.byref(Beneath(writing, place)), ctypes.c_uint32(0))
    libc.syscall(add, rules, ctypes.c_int(1), ctypes.byref(Beneath(writing & (1 << 1 | 1 << 14), null)), ctypes.c_uint32(0))
    libc.syscall(restrict, rules, ctypes.c_uint32(0))
    for descriptor in (rules, place, null):
        os.close(descriptor)


def follow(libc) -> None:
    """Goes on in a child, which ends with its parent; the parent ends as the child does."""
    if child := os.fork():
        status = os.waitpid(child, 0)[1]
        os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
    libc.prctl(PARENT_DEATH, signal.SIGKILL)


def confine(folder: str, seconds: int, memory: int) -> None:
    """What this process and its children may do from here on. In a new process where namespaces are to be had."""
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if libc:
        root = os.geteuid() == 0
        if libc.unshare((0 if root else NEW_USER) | NEW_PID | NEW_NET) == 0:
            follow(libc)  # the child is the first process of the new space: when it goes, the kernel ends all others in it
            follow(libc)  # but signals don't reach it; its own child is like others
        if root:
            become_nobody(libc)
            libc.prctl(PARENT_DEATH, signal.SIGKILL)  # which a change of user takes back
        libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        stay_in(folder, libc)
        limit(resource.RLIMIT_NPROC, own_processes() + PROCESSES)
    limit(resource.RLIMIT_CPU, seconds)
    limit(resource.RLIMIT_AS, memory)
    limit(resource.RLIMIT_FSIZE, FILE_BYTES)
    limit(resource.RLIMIT_CORE, 0)


def call(path: str, name: str):
    """What the function returns, with what the program prints thrown away."""
    arguments = json.load(sys.stdin)
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        space = {"__name__": "solution"}
        exec(compile(PREAMBLE, "preamble", "exec"), space)
        with open(path, encoding="utf-8") as file:
            exec(compile(file.read(), path, "exec"), space)
        function = getattr(space["Solution"](), name) if "Solution" in space else space[name]
        return function(*arguments)


def main(folder: str, seconds: str, memory: str, function: str | None = None) -> None:
    os.chdir(folder)
    confine(folder, int(seconds), int(memory))
    sys.setrecursionlimit(100_000)
    path = os.path.join(folder, "solution.py")
    if function is None:
        sys.argv = [path]
        runpy.run_path(path, run_name="__main__")
    else:
        print(json.dumps(call(path, function)))
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
