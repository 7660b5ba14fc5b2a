"""Make the stubs of the .proto files: `make grpc-stubs` writes NAME_pb2.py and NAME_pb2.pyi beside each NAME.proto.

The usual output of protoc registers its messages in protobuf's default pool, where those of tritonclient and KServe,
which have the same names, cannot be added any more; and it needs a protobuf at least as new as protoc. So the module
holds the descriptor alone, in a pool of its own. The stub file with the types is protoc's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "service" / "grpc" / "protocol"
SOURCE = FOLDER / "inference.proto"
MODEL_CONFIG = ROOT / "export" / "triton" / "model_config.proto"

_ABOUT = {SOURCE.name: "the Open Inference Protocol", MODEL_CONFIG.name: "Triton's model configuration"}

_MODULE = '''"""Messages of {about}; `make grpc-stubs` makes this file of {source}."""

from google.protobuf import descriptor_pool, message_factory

POOL = descriptor_pool.DescriptorPool()
DESCRIPTOR = POOL.AddSerializedFile(
{serialized}
)

_message = DESCRIPTOR.message_types_by_name

{messages}
'''

_LINE_BYTES = 24


def make_stubs(source: Path = SOURCE) -> dict[str, str]:
    """Return the text of the module and of its stub file by name.

    Args:
        source: a .proto file that imports no other.

    Raises:
        subprocess.CalledProcessError: protoc rejects the file.
    """
    name = f"{source.stem}_pb2"
    with tempfile.TemporaryDirectory() as folder:
        descriptor = Path(folder, "descriptor")
        options = [f"--proto_path={source.parent}", f"--descriptor_set_out={descriptor}", f"--pyi_out={folder}"]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options, source.name], check=True)
        (file,) = FileDescriptorSet.FromString(descriptor.read_bytes()).file
        types = Path(folder, f"{name}.pyi").read_text()
    data = file.SerializeToString(deterministic=True)
    lines = [f"    {data[at : at + _LINE_BYTES]!r}" for at in range(0, len(data), _LINE_BYTES)]
    messages = [f'{one.name} = message_factory.GetMessageClass(_message["{one.name}"])' for one in file.message_type]
    about = _ABOUT[source.name]
    module = _MODULE.format(about=about, source=source.name, serialized="\n".join(lines), messages="\n".join(messages))
    pool = "DESCRIPTOR: _descriptor.FileDescriptor\n"
    types = types.replace(pool, f"POOL: _descriptor_pool.DescriptorPool\n{pool}", 1)
    imports = "from google.protobuf import descriptor as _descriptor\n"
    types = types.replace(imports, f"{imports}from google.protobuf import descriptor_pool as _descriptor_pool\n", 1)
    return {f"{name}.py": module, f"{name}.pyi": types}


def main() -> None:
    """Write both files beside each source."""
    for source in (SOURCE, MODEL_CONFIG):
        for name, text in make_stubs(source).items():
            (source.parent / name).write_text(text)


if __name__ == "__main__":
    main()
