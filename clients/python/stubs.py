"""Generates the stubs from the protos and makes them importable."""

import pathlib
import sys
import tempfile

import grpc_tools
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROTOS = [f"elephantasm/events/v1/{name}.proto" for name in ("resources", "changes", "events", "purges", "sessions", "spirits", "access")]


def generate() -> tempfile.TemporaryDirectory:
    """Generates the stubs; they can be imported as long as the returned directory exists."""
    out = tempfile.TemporaryDirectory(prefix="elephantasm-stubs-")
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    arguments = [f"-I{path}" for path in (ROOT / "proto", ROOT / "third_party", well_known)]
    arguments += [f"--python_out={out.name}", f"--grpc_python_out={out.name}"]
    if protoc.main(["protoc", *arguments, *PROTOS]) != 0:
        raise SystemExit("protoc failed")
    # Without this file the package of the same name on PyPI, where it is installed, would hide the stubs.
    (pathlib.Path(out.name) / "elephantasm/__init__.py").touch()
    sys.path.insert(0, out.name)
    return out
