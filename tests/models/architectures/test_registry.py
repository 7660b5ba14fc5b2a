from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from normfold.models.architectures.registry import FACTORIES, Architecture, build, list_options, parse_options
from normfold.models.errors import ArchitectureError

NETS = """
from torch import nn

def linear(input_shape, classes, bias=True):
    return nn.Linear(input_shape[0], classes, bias=bias)

def fixed(**options):
    assert not options, options
    return nn.Linear(2, 2)

def needs(width, classes):
    return nn.Linear(width, classes)

def breaks():
    raise RuntimeError("no weights\\nat all")

def nothing():
    return 3

number = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a user's module in the current folder, which no other test has imported."""
    name = f"nets_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


def make(name: str, **options: Any) -> nn.Module:
    return build(Architecture(name=name, options=options, input_shape=(5,), classes=3))


@pytest.mark.parametrize("name", FACTORIES)
def test_registered_factories_accept_dropout_input_shape_and_classes(name: str) -> None:
    options = list_options(FACTORIES[name])
    assert options is not None
    assert {"input_shape", "classes", "dropout"} <= set(options)
    with pytest.raises(ArchitectureError, match=f"'{name}' has no option 'drop'; its options are: .*dropout"):
        make(name, drop=0.1)


@pytest.mark.slow
def test_preset_accepts_options_that_replace_its_own() -> None:
    architecture = Architecture(name="mobilenet_v2", options={"stem_stride": 1}, input_shape=(3, 8, 8), classes=4)
    with torch.device("meta"):
        network = build(architecture)
    assert network.stem.weight_layer.stride == (1, 1)
    assert network.classifier.weight.shape == (4, 1280)


@pytest.mark.parametrize("name", [name for name in FACTORIES if name != "mlp"])
def test_architectures_for_images_and_sequences_refuse_table_rows(name: str) -> None:
    with pytest.raises(ArchitectureError, match=r"takes samples of shape \(channels, .*got \[5\]"):
        make(name)


def test_user_factory_gets_shape_classes_and_options(own_module: str) -> None:
    network = make(f"{own_module}:linear", bias=False)
    assert network.weight.shape == (3, 5)
    assert network.bias is None


def test_user_factory_without_shape_and_classes_in_its_signature_gets_neither(own_module: str) -> None:
    assert make(f"{own_module}:fixed").weight.shape == (2, 2)


def test_current_folder_is_searched_last(own_module: str, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('shadowed')")
    make(f"{own_module}:linear")
    assert sys.path[-1] == str(tmp_path)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("breaks", "could not be built: RuntimeError: no weights$"),
        ("nothing", "returned int, not a torch.nn.Module"),
        ("number", "has no function 'number'"),
        ("absent", "has no function 'absent'"),
    ],
)
def test_failing_factory_is_reported_in_one_sentence(own_module: str, factory: str, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        make(f"{own_module}:{factory}")


def test_classes_are_an_option_without_data_to_derive_them_from(own_module: str) -> None:
    def architecture(**options: Any) -> Architecture:
        return Architecture(name=f"{own_module}:needs", options=options, input_shape=(5,))

    assert build(architecture(width=5, classes=4)).weight.shape == (4, 5)
    with pytest.raises(ArchitectureError, match="needs 'classes'; give --arg classes=VALUE"):
        build(architecture(width=5))
    with pytest.raises(ArchitectureError, match="has no option 'depth'; its options are: width, classes"):
        build(architecture(depth=5))
    with pytest.raises(ArchitectureError, match="needs 'width'; give --arg width=VALUE"):
        make(f"{own_module}:needs")
    with pytest.raises(ArchitectureError, match="'input_shape' is derived from"):
        build(architecture(input_shape=[5]))


def test_module_missing_from_its_package_is_named_as_missing(own_module: str, tmp_path: Path) -> None:
    package = f"{own_module}_package"
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("")
    for module in (f"{package}.nope", f"{package}.nope.deeper", f"{own_module}.nope"):
        with pytest.raises(ArchitectureError, match=f"There is no module '{module}', neither installed nor in"):
            make(f"{module}:net")


def test_module_that_exits_while_imported_is_reported_in_one_sentence(own_module: str, tmp_path: Path) -> None:
    (tmp_path / f"{own_module}_d.py").write_text("raise SystemExit(0)")
    with pytest.raises(ArchitectureError, match="cannot be imported: SystemExit: 0$"):
        make(f"{own_module}_d:net")


@pytest.mark.parametrize("package", ["contract", "models", "export", "service", "cli", "display"])
def test_user_module_may_be_named_like_a_subpackage_of_normfold(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{package}.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    # A clone's own folders are found first where it is on the path, as in these tests; an installed wheel has none.
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not Path(entry, package).is_dir()])
    monkeypatch.delitem(sys.modules, package, raising=False)
    try:
        assert make(f"{package}:linear").weight.shape == (3, 5)
    finally:
        sys.modules.pop(package, None)


def test_module_without_the_factory_is_named_with_its_file() -> None:
    with pytest.raises(ArchitectureError, match=r"Module 'json' \(.*json.__init__.py\) has no function 'net'"):
        make("json:net")
    with pytest.raises(ArchitectureError, match=r"Module 'sys' \(without a file\) has no function 'net'"):
        make("sys:net")


def test_missing_import_of_a_user_module_is_named(own_module: str, tmp_path: Path) -> None:
    (tmp_path / f"{own_module}_b.py").write_text("import models.my_layers")
    with pytest.raises(ArchitectureError, match="imports 'models.my_layers', which is not installed"):
        make(f"{own_module}_b:net")


def test_module_that_raises_while_imported_is_reported_in_one_sentence(own_module: str, tmp_path: Path) -> None:
    (tmp_path / f"{own_module}_c.py").write_text("1 / 0")
    with pytest.raises(ArchitectureError, match="cannot be imported: ZeroDivisionError: division by zero$"):
        make(f"{own_module}_c:net")


def test_unknown_names_are_reported_with_the_known_ones(own_module: str) -> None:
    with pytest.raises(ArchitectureError, match=f"Unknown architecture 'vgg'; choose from {', '.join(FACTORIES)}"):
        make("vgg")
    with pytest.raises(ArchitectureError, match="There is no module 'absent_module'"):
        make("absent_module:net")
    with pytest.raises(ArchitectureError, match="has no option 'width'; its options are: widths, activation, dropout"):
        make("mlp", width=3)
    with pytest.raises(ArchitectureError, match="has no option 'width'; its options are: bias"):
        make(f"{own_module}:linear", width=3)
    with pytest.raises(ArchitectureError, match="'classes' is derived from the data"):
        make("mlp", classes=3)


def test_option_values_are_parsed_as_json_or_kept_as_strings() -> None:
    pairs = ["widths=[8, 16]", "dropout=0.5", "zero_init=false", "stem=small", "name=a=b"]
    expected = {"widths": [8, 16], "dropout": 0.5, "zero_init": False, "stem": "small", "name": "a=b"}
    assert parse_options(pairs) == expected


@pytest.mark.parametrize("text", ["NaN", "[1, -Infinity]", "1e999", "[" * 100_000])
def test_option_that_json_cannot_record_is_refused(text: str) -> None:
    with pytest.raises(ArchitectureError, match="Option 'dropout' (holds NaN or infinity|is nested too deeply)"):
        parse_options([f"dropout={text}"])


@pytest.mark.parametrize("pairs", [["widths"], ["=3"], ["a-b=3"], ["a=1", "a=2"]])
def test_malformed_options_are_refused(pairs: list[str]) -> None:
    with pytest.raises(ArchitectureError):
        parse_options(pairs)


def test_architecture_survives_json() -> None:
    architecture = Architecture(name="mlp", options={"widths": [3]}, input_shape=(5,), classes=2)
    again = Architecture.model_validate_json(architecture.model_dump_json())
    assert again == architecture
    assert build(again)(torch.zeros(2, 5)).shape == (2, 2)
