"""Builds the CPU kernels: one plain shared library, without torch and without Python's C API.

It is optional: where no C++17 compiler is found the install goes on, and `bitstack.kernels.which()`
says that the slow torch reference runs. No -march: each variant sets its own target, and the
machine it runs on decides (bitstack/kernels/cpu/variants.cpp).
"""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

_SOURCE = Path("bitstack/kernels/cpu")
_UNIX = ["-O3", "-std=c++17", "-pthread", "-fvisibility=hidden", "-g0"]
_UNIX += ["-fno-math-errno", "-fno-trapping-math"]
# GCC takes the deliberately undefined values inside its own AVX-512 headers for mistakes.
_UNIX += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]


class BuildLibrary(build_ext):
    """A shared library loaded by ctypes: no module initialiser to export."""

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return list(ext.export_symbols)

    def build_extensions(self) -> None:
        for extension in self.extensions:
            if self.compiler.compiler_type == "msvc":
                extension.extra_compile_args = ["/O2", "/std:c++17", "/EHsc"]
        super().build_extensions()


setup(
    cmdclass={"build_ext": BuildLibrary},
    ext_modules=[
        Extension(
            "bitstack.kernels._cpu",
            sources=sorted(path.as_posix() for path in _SOURCE.glob("*.cpp")),
            depends=sorted(path.as_posix() for path in _SOURCE.glob("*.[hi]*")),
            extra_compile_args=_UNIX,
            extra_link_args=["-pthread"],
            language="c++",
            optional=True,
        )
    ],
)
