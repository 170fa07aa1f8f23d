"""Build the C extension; all other metadata is in pyproject.toml."""

import os
from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "stream._tarhash",
            sources=sorted(glob("native/*.c")),
            depends=sorted(glob("native/*.h")),
            libraries=["crypto"],
            define_macros=[
                ("_GNU_SOURCE", "1"),
                ("_FILE_OFFSET_BITS", "64"),
                ("Py_LIMITED_API", "0x030B0000"),
                ("PY_SSIZE_T_CLEAN", "1"),
            ],
            extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"]
            + os.environ.get("STREAM_IMAGE_CFLAGS", "").split(),
            extra_link_args=os.environ.get("STREAM_IMAGE_CFLAGS", "").split(),
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
