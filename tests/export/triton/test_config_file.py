"""config.pbtxt: every form of the text format, fields that are not described, and what is no configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from tritonclient.grpc import model_config_pb2 as triton

from normfold.export.errors import TritonError
from normfold.export.triton import model_config_pb2
from normfold.export.triton.config_file import TritonConfig, config_text, read_config
from normfold.export.triton.model_config_pb2 import ModelConfig
from normfold.export.triton.text_fields import blank_out, find_unknown_fields
from scripts.grpc_stubs import MODEL_CONFIG, make_stubs

PARTS = {
    'name: "a"': "",
    "max_batch_size: 8;": "",
    "max_batch_size: 0x10": "",
    "input [ { name: 'x' dims: [ 1, 2 ] }, { name: 'y' dims: -1 dims: 3 } ]": "",
    "input < name: 'x' data_type: TYPE_FP32 reshape { shape: [ ] } >": "",
    "input { name: 'x' data_type: 11 optional: true }": "",
    "input: { name: 'x' 'y' \"z\" }": "",
    'version_policy: { specific { versions: [1, 3] } } # "not closed { [': "",
    "dynamic_batching { }": "",
    "input { name: 'x' format: FORMAT_NCHW, dims: 1 }": "input.format",
    "input [ { name: 'x' }, { format: FORMAT_NCHW is_shape_tensor: true } ]": "input.format input.is_shape_tensor",
    "model_warmup [ { name: 'w' inputs { key: 'x' value: { dims: [1] zero_data: true } } } ]": "model_warmup",
    'parameters { key: "a }" value: { string_value: "b\\"]" \'{\' } } parameters { key: "c" }': "parameters",
    "optimization { graph < level: 1 > cuda { graphs: true } }\nmax_batch_size: 8": "optimization",
    "instance_group [ { count: 1 kind: KIND_GPU gpus: [ 0, 1 ] } ]": "instance_group.gpus",
    "of_a_later_release: [ 1.5e3, -2, inf ] max_batch_size: 8": "of_a_later_release",
    "dynamic_batching { priority_queue_policy { key: 1 value { } } max_queue_delay_microseconds: 5 }": (
        "dynamic_batching.priority_queue_policy"
    ),
}
"""Texts, and the paths of their fields that are not described."""


def read(folder: Path, text: str | bytes) -> TritonConfig:
    path = folder / "config.pbtxt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_config(path)


@pytest.mark.parametrize("text", PARTS)
def test_config_is_what_protobuf_reads_and_names_the_other_fields(tmp_path: Path, text: str) -> None:
    config = read(tmp_path, text)

    assert " ".join(config.unread) == PARTS[text]
    if not config.unread:
        assert config.message == text_format.Parse(text, ModelConfig())
    if text.startswith(("input.", "of_a_later", "optimization")):
        assert config.message.max_batch_size == 8


@pytest.mark.parametrize("text", [text for text in PARTS if "later" not in text])
def test_config_without_its_unknown_fields_is_part_of_what_triton_reads(tmp_path: Path, text: str) -> None:
    ours = read(tmp_path, text).message.SerializeToString(deterministic=True)

    theirs = triton.ModelConfig()
    theirs.MergeFromString(text_format.Parse(text, triton.ModelConfig()).SerializeToString())
    known = ModelConfig.FromString(theirs.SerializeToString())
    known.DiscardUnknownFields()
    assert known.SerializeToString(deterministic=True) == ours


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('max_batch_size: "8"', "1:17 .*Couldn't parse integer"),
        ("max_batch_size: 1 max_batch_size: 2", "should not have multiple"),
        ("optimization { }\n\ninput { data_type: TYPE_FP31 }", "3:20 .*TYPE_FP31"),
        ("optimization {\n graph { }", "line 2: 'optimization' is not closed by '}'"),
        ("optimization { } }", "line 1: '}' is not the name of a field"),
        ("parameters [ { }", "'parameters' is not closed by ']'"),
        ("max_batch_size: 8 } input { }", "'}' is not the name of a field"),
        ("dynamic_batching { } ensemble_scheduling { }", "oneof"),
        ("name", "Expected"),
        (b"name: '\xff'", "is not UTF-8 text"),
        ("{ " * 100_000, "is not the name of a field"),
        ("input { " * 100_000, "nested too deeply"),
    ],
)
def test_config_that_is_none_is_named_with_its_line(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(TritonError, match=says) as raised:
        read(tmp_path, text)
    assert "config.pbtxt" in str(raised.value)


def test_config_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbfmax_batch_size: 8").message.max_batch_size == 8


def test_config_text_is_read_back(tmp_path: Path) -> None:
    message = text_format.Parse(
        " ".join(text for text in PARTS if not PARTS[text] and "size" not in text), ModelConfig()
    )
    assert read(tmp_path, config_text(message)).message == message


def test_unknown_fields_leave_lines_where_they_were() -> None:
    text = "optimization {\n}\nmax_batch_size: 8 b: 1\nc: 'x' 'y'\nname: 'a'"
    fields = find_unknown_fields(text, ModelConfig.DESCRIPTOR)
    assert [text[one.start : one.end] for one in fields] == ["optimization {\n}", "b: 1", "c: 'x' 'y'"]
    assert blank_out(text, fields).split() == ["max_batch_size:", "8", "name:", "'a'"]
    assert [len(line) for line in blank_out(text, fields).splitlines()] == [len(line) for line in text.splitlines()]


def test_model_config_stubs_are_those_of_the_proto_file() -> None:
    for name, text in make_stubs(MODEL_CONFIG).items():
        assert (MODEL_CONFIG.parent / name).read_text() == text, f"{name} is old; make grpc-stubs"


def facts(field: FieldDescriptor) -> tuple[object, ...]:
    refers_to = field.message_type or field.enum_type
    oneof = field.containing_oneof and field.containing_oneof.name
    return field.number, field.type, field.is_repeated, refers_to and refers_to.full_name, oneof


def nested(message: Descriptor) -> list[Descriptor]:
    return [message, *(found for inner in message.nested_types for found in nested(inner))]


def test_model_config_has_the_facts_of_tritons() -> None:
    theirs = {
        message.full_name: message.fields_by_name
        for outer in triton.DESCRIPTOR.message_types_by_name.values()
        for message in nested(outer)
    }
    ours = [found for one in model_config_pb2.DESCRIPTOR.message_types_by_name.values() for found in nested(one)]
    assert len(ours) > 10
    for message in ours:
        known = theirs[message.full_name]
        assert {one.name: facts(one) for one in message.fields} == {
            one.name: facts(known[one.name]) for one in message.fields
        }
    for outer, name in (
        ("ModelInput", "data_type"),
        ("ModelInstanceGroup", "kind"),
        ("ModelQueuePolicy", "timeout_action"),
    ):
        own, known_enum = (
            module.DESCRIPTOR.message_types_by_name[outer].fields_by_name[name].enum_type
            for module in (model_config_pb2, triton)
        )
        assert own is not None
        assert {one.name: one.number for one in own.values} == {one.name: one.number for one in known_enum.values}
