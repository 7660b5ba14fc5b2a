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
    """A user's module in the current folder, under a name that no other test has imported."""
    name = f"nets_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


def make(name: str, **options: Any) -> nn.Module:
    return build(Architecture(name=name, options=options, input_shape=(5,), classes=3))


@pytest.mark.parametrize("name", FACTORIES)
def test_every_network_of_ours_takes_dropout_and_is_told_shape_and_classes(name: str) -> None:
    options = list_options(FACTORIES[name])
    assert options is not None
    assert {"input_shape", "classes", "dropout"} <= set(options)
    with pytest.raises(ArchitectureError, match=f"'{name}' has no option 'drop'; its options are: .*dropout"):
        make(name, drop=0.1)


def test_a_preset_is_a_network_whose_options_may_still_be_given() -> None:
    architecture = Architecture(name="mobilenet_v2", options={"stem_stride": 1}, input_shape=(3, 8, 8), classes=4)
    with torch.device("meta"):
        network = build(architecture)
    assert network.stem.weight_layer.stride == (1, 1)
    assert network.classifier.weight.shape == (4, 1280)


@pytest.mark.parametrize("name", [name for name in FACTORIES if name != "mlp"])
def test_rows_are_refused_by_networks_for_other_samples(name: str) -> None:
    with pytest.raises(ArchitectureError, match=r"takes samples of shape \(channels, .*got \[5\]"):
        make(name)


def test_own_factory_is_given_shape_classes_and_options(own_module: str) -> None:
    network = make(f"{own_module}:linear", bias=False)
    assert network.weight.shape == (3, 5)
    assert network.bias is None


def test_own_factory_that_names_neither_is_given_neither(own_module: str) -> None:
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
def test_factory_that_fails_is_one_sentence(own_module: str, factory: str, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        make(f"{own_module}:{factory}")


def test_classes_are_an_option_where_no_data_tell_them(own_module: str) -> None:
    def architecture(**options: Any) -> Architecture:
        return Architecture(name=f"{own_module}:needs", options=options, input_shape=(5,))

    assert build(architecture(width=5, classes=4)).weight.shape == (4, 5)
    with pytest.raises(ArchitectureError, match="needs 'classes'; give --arg classes=VALUE"):
        build(architecture(width=5))
    with pytest.raises(ArchitectureError, match="has no option 'depth'; its options are: width, classes"):
        build(architecture(depth=5))
    with pytest.raises(ArchitectureError, match="needs 'width'; give --arg width=VALUE"):
        make(f"{own_module}:needs")
    with pytest.raises(ArchitectureError, match="'input_shape' follows from"):
        build(architecture(input_shape=[5]))


def test_module_missing_from_its_package_is_not_said_to_import_itself(own_module: str, tmp_path: Path) -> None:
    package = f"{own_module}_package"
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("")
    for module in (f"{package}.nope", f"{package}.nope.deeper", f"{own_module}.nope"):
        with pytest.raises(ArchitectureError, match=f"There is no module '{module}', neither installed nor in"):
            make(f"{module}:net")


def test_module_that_is_a_script_and_leaves_is_one_sentence(own_module: str, tmp_path: Path) -> None:
    (tmp_path / f"{own_module}_d.py").write_text("raise SystemExit(0)")
    with pytest.raises(ArchitectureError, match="cannot be imported: SystemExit: 0$"):
        make(f"{own_module}_d:net")


@pytest.mark.parametrize("package", ["contract", "models", "export", "service", "cli"])
def test_module_named_like_our_package_is_called_a_collision(package: str) -> None:
    for module in (package, f"{package}.nets"):
        with pytest.raises(
            ArchitectureError, match=f"collides with Normfold's own package '{package}'.*'my_{package}'"
        ):
            make(f"{module}:net")


def test_module_that_imports_its_own_models_package_hears_of_the_collision(own_module: str, tmp_path: Path) -> None:
    (tmp_path / f"{own_module}_b.py").write_text("import models.my_layers")
    with pytest.raises(ArchitectureError, match="imports 'models.my_layers', which is not there, which collides"):
        make(f"{own_module}_b:net")


def test_module_that_breaks_while_imported_is_one_sentence(own_module: str, tmp_path: Path) -> None:
    (tmp_path / f"{own_module}_c.py").write_text("1 / 0")
    with pytest.raises(ArchitectureError, match="cannot be imported: ZeroDivisionError: division by zero$"):
        make(f"{own_module}_c:net")


def test_unknown_names_list_what_there_is(own_module: str) -> None:
    with pytest.raises(ArchitectureError, match=f"Unknown architecture 'vgg'; there are {', '.join(FACTORIES)}"):
        make("vgg")
    with pytest.raises(ArchitectureError, match="There is no module 'absent_module'"):
        make("absent_module:net")
    with pytest.raises(ArchitectureError, match="has no option 'width'; its options are: widths, activation, dropout"):
        make("mlp", width=3)
    with pytest.raises(ArchitectureError, match="has no option 'width'; its options are: bias"):
        make(f"{own_module}:linear", width=3)
    with pytest.raises(ArchitectureError, match="'classes' follows from the data"):
        make("mlp", classes=3)


def test_option_values_are_json_or_else_strings() -> None:
    pairs = ["widths=[8, 16]", "dropout=0.5", "zero_init=false", "stem=small", "name=a=b"]
    expected = {"widths": [8, 16], "dropout": 0.5, "zero_init": False, "stem": "small", "name": "a=b"}
    assert parse_options(pairs) == expected


@pytest.mark.parametrize("text", ["NaN", "[1, -Infinity]", "1e999", "[" * 100_000])
def test_option_that_a_run_could_not_record_is_refused(text: str) -> None:
    with pytest.raises(ArchitectureError, match="Option 'dropout' (holds NaN or infinity|is nested too deeply)"):
        parse_options([f"dropout={text}"])


@pytest.mark.parametrize("pairs", [["widths"], ["=3"], ["a-b=3"], ["a=1", "a=2"]])
def test_malformed_options_are_refused(pairs: list[str]) -> None:
    with pytest.raises(ArchitectureError):
        parse_options(pairs)


def test_architecture_goes_to_json_and_back() -> None:
    architecture = Architecture(name="mlp", options={"widths": [3]}, input_shape=(5,), classes=2)
    again = Architecture.model_validate_json(architecture.model_dump_json())
    assert again == architecture
    assert build(again)(torch.zeros(2, 5)).shape == (2, 2)
