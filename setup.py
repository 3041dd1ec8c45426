"""Builds the C extension lzpenalty._core; everything else is declared in pyproject.toml.

Environment switches, for developers:
    LZPENALTY_SANITIZE=address,undefined   build with these sanitizers of the compiler
    LZPENALTY_COVERAGE=1                   build for gcov
    LZPENALTY_WERROR=1                     make warnings errors
"""

import os
import sys
from glob import glob

import numpy
from setuptools import Extension, setup

compile_args = ["-std=c11", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra"]
link_args = [] if os.name == "nt" else ["-pthread"]
if sys.platform == "linux":
    link_args += ["-ldl"]  # a library of its own before glibc 2.34
if os.name == "nt":
    compile_args = ["/std:c11", "/experimental:c11atomics", "/O2", "/fp:precise"]
if sanitizers := os.environ.get("LZPENALTY_SANITIZE"):
    flags = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1"]
    compile_args += flags
    link_args += flags
if os.environ.get("LZPENALTY_COVERAGE"):
    compile_args += ["--coverage", "-O0", "-g"]
    link_args += ["--coverage"]
if os.environ.get("LZPENALTY_WERROR"):
    compile_args += ["-Werror"]

setup(
    ext_modules=[
        Extension(
            "lzpenalty._core",
            sources=sorted(glob("csrc/**/*.c", recursive=True)),
            depends=sorted(glob("csrc/**/*.h", recursive=True)),
            include_dirs=[numpy.get_include()],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
    ]
)
