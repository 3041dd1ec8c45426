"""Builds the C extension lzpenalty._core, the C library with its header (lzpenalty/lib, lzpenalty/include), and source
archives that can be built again to the byte; everything else is declared in pyproject.toml.

Environment switches, for developers:
    LZPENALTY_SANITIZE=address,undefined   build with these sanitizers of the compiler
    LZPENALTY_COVERAGE=1                   build for gcov
    LZPENALTY_WERROR=1                     make warnings errors
"""

import gzip
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
from glob import glob

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

# Not c11, in which GCC computes float as double on s390x.
compile_args = ["-g0", "-std=gnu11", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra"]
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
    compile_args += ["--coverage", "-fprofile-update=atomic", "-O0", "-g"]
    link_args += ["--coverage"]
if os.environ.get("LZPENALTY_EMULATED"):  # levels that the processor lacks, as functions: tests/native/emulated.h
    compile_args += ["-DCPU_EMULATED", "-Itests/native"]
    compile_args += ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mlzcnt", "-mpopcnt"]
if os.environ.get("LZPENALTY_WERROR"):
    compile_args += ["-Werror"]


KERNELS = sorted(path for folder in ("cpu", "lz", "cache", "text") for path in glob(f"csrc/{folder}/*.c"))
INTERFACE = sorted(glob("csrc/api/*.c"))
SAMPLER = sorted(glob("csrc/llama_cpp/*.c"))
BINDING = sorted(glob("csrc/python/*.c") + glob("csrc/cuda/**/*.c", recursive=True))


class BuildExt(build_ext):
    """The extension; of the same kernels the archive that C programs link, beside its header; and llama.cpp's sampler."""

    def build_extension(self, ext):
        super().build_extension(ext)
        package = os.path.dirname(self.get_ext_fullpath(ext.name))
        header, archive = os.path.join(package, "include", "lzpenalty.h"), os.path.join(package, "lib", "liblzpenalty.a")
        library = os.path.join(package, "lib", "llama_sampler_lz.so")
        changed = max(map(os.path.getmtime, [__file__, *KERNELS, *INTERFACE, *SAMPLER, *ext.depends]))
        if all(os.path.exists(path) and os.path.getmtime(path) > changed for path in (archive, library)):
            return
        for path in (header, archive):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        shutil.copy("csrc/include/lzpenalty.h", header)
        objects = self.compiler.object_filenames(KERNELS, output_dir=self.build_temp)
        missing = [source for source, made in zip(KERNELS, objects, strict=True) if not os.path.exists(made)]
        self.compiler.compile(missing, self.build_temp, extra_postargs=compile_args)
        objects += self.compiler.compile(INTERFACE, self.build_temp, extra_postargs=compile_args)
        merged = self.merge(objects)
        self.compiler.create_static_lib([merged], "lzpenalty", os.path.dirname(archive))
        sampler = self.compiler.compile(
            SAMPLER, self.build_temp, include_dirs=["csrc/abi", "csrc/include"], extra_postargs=compile_args
        )
        self.compiler.link_shared_object([*sampler, merged], library, extra_postargs=[*link_args, "-lm"])

    def copy_extensions_to_source(self):
        super().copy_extensions_to_source()
        for folder in ("include", "lib"):
            shutil.copytree(os.path.join(self.build_lib, "lzpenalty", folder), f"lzpenalty/{folder}", dirs_exist_ok=True)

    def merge(self, objects):
        """One object, in which the names of the kernels are nobody else's."""
        merged = os.path.join(self.build_temp, "lzpenalty.o")
        cc = os.environ.get("CC") or sysconfig.get_config_var("CC")
        subprocess.run([*shlex.split(cc), "-r", "-nostdlib", *objects, "-o", merged], check=True)
        if objcopy := shutil.which("objcopy"):
            subprocess.run([objcopy, "--localize-hidden", merged], check=True)
        return merged


class Sdist(sdist):
    """An archive that depends on the files' names and contents and on SOURCE_DATE_EPOCH alone. setuptools would write the
    time, and the owners and modes of the checkout."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        date = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))

        def normalized(entry):
            entry.mtime, entry.mode = date, 0o755 if entry.isdir() else 0o644
            entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, "", ""
            return entry

        name = f"{base_name}.tar.gz"
        os.makedirs(os.path.dirname(name), exist_ok=True)
        with (
            open(name, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=date) as compressed,
            tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            archive.add(base_dir, filter=normalized)
        return name


setup(
    cmdclass={"build_ext": BuildExt, "sdist": Sdist},
    ext_modules=[
        Extension(
            "lzpenalty._core",
            sources=KERNELS + BINDING,
            depends=sorted(glob("csrc/**/*.h", recursive=True)) + ["csrc/lz/options.def"],
            include_dirs=[numpy.get_include()],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
    ],
)
