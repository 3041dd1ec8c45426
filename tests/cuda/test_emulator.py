"""The emulator finds the mistakes that it is there to find."""

import subprocess

import pytest

import emulator

FINDINGS = {
    "barrier that some return without": "some threads wait at a barrier that others have returned without",
    "barrier in one branch, shuffle in the other": "threads wait for others that never come",
    "different barriers": "threads wait at different kinds of barriers",
    "shuffle that some lanes miss": "threads wait for others that never come",
    "mask without oneself": "a lane meets others with a mask that leaves it out",
    "mask of lanes that do not exist": "a mask names lanes that do not exist",
    "different masks": "lanes meet at different operations or with different masks",
    "null pointer": "an address outside all memory",
    "nothing": "fine",
    "neighbours without a barrier": "wrong",
    "neighbours with a barrier": "fine",
    "counting without atomics": "wrong",
    "counting with atomics": "fine",
    "shared memory at first": "a5a5a5a5",
}


def test_mistakes():
    flags = ["-std=c++17", "-O1", "-g", "-include", emulator.HERE / "emulator.h"]
    try:
        program = emulator.compile_once(
            ["g++", *flags, emulator.HERE / "mistakes.cpp", emulator.HERE / "emulator.cpp"], "mistakes"
        )
    except emulator.Unavailable as error:
        pytest.skip(str(error))
    done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert said.keys() == FINDINGS.keys()
    for name, finding in FINDINGS.items():
        assert said[name].endswith(finding), (name, said[name])
