"""Arguments of the public API that cannot be used: one sentence each, which names the argument in back quotes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import normfold
from normfold._shared.argument_checks import FLAG, PATH, TENSORS, check, check_optional, whole_number
from normfold.errors import ArgumentError, DataError, NoRepositoryError, RunFolderError, SettingsError, WeightsError

api: Any = normfold
"""The package without its types, to give it arguments of other types."""

WITH_PATHS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "fold": (normfold.fold, ("source", "target")),
    "inspect": (normfold.inspect, ("model",)),
    "verify": (normfold.verify, ("original", "folded")),
    "adapt": (normfold.adapt, ("repository", "samples")),
    "export": (normfold.export, ("source", "repository")),
    "audit": (normfold.audit, ("source",)),
    "unfold": (normfold.unfold, ("source",)),
    "quantize": (normfold.quantize, ("source",)),
    "repair": (normfold.repair, ("source", "target")),
    "train": (normfold.train, ("out",)),
    "load_repository": (normfold.load_repository, ("repository",)),
    "create_app": (normfold.create_app, ("repository",)),
}
"""Functions, and those of their arguments that are paths."""

OF_THE_ENVIRONMENT = ("load_repository", "create_app")
"""Functions that take the repository of the environment where it is None."""

OTHERS = {"adapt": {"name": "digits"}}
"""Arguments without a default that are no paths."""


PATHS = [(function, argument) for function, (_, arguments) in WITH_PATHS.items() for argument in arguments]

NO_PATHS = (3, None, "", "a\0b", np.zeros(2), {}, b"model.onnx", onnx.ModelProto())


@pytest.mark.parametrize("value", NO_PATHS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(("function", "argument"), PATHS)
def test_path_of_another_type_is_an_argument_error(function: str, argument: str, value: object) -> None:
    if value is None and (function in OF_THE_ENVIRONMENT or argument == "folded"):
        return
    call, paths = WITH_PATHS[function]
    given = {**dict.fromkeys(paths, "none.onnx"), **OTHERS.get(function, {}), argument: value}
    with pytest.raises(ArgumentError, match=f"^`{argument}` must be .*, not ") as caught:
        call(**given)
    assert ("onnx.save" in str(caught.value)) is isinstance(value, onnx.ModelProto)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: api.adapt("r", "m", "s", version="1"), "`version` must be a whole number of at least 1, not"),
        (lambda: api.export("a.onnx", version="x"), "`version` must be a whole number of at least 1, not 'x'."),
        (lambda: api.unfold("digits", version=True), "`version` must be a whole number of at least 1, not True"),
        (lambda: api.verify("a", "b", seeds=0), "`seeds` must be a whole number of at least 4, not 0."),
        (lambda: api.verify("a", "b", seeds="4"), "`seeds` must be a whole number of at least 4, not '4'."),
        (lambda: api.verify("a", "b", card=3), "`card` must be a path, not 3."),
        (lambda: api.fold("a", "b", verify="no"), "`verify` must be True or False, not 'no'."),
        (lambda: api.fold("a", "b", merge=1), "`merge` must be True or False, not 1."),
        (lambda: api.inspect("a", time="x"), "`time` must be True or False, not 'x'."),
        (lambda: api.adapt("r", "m", "s", dry_run="no"), "`dry_run` must be True or False, not 'no'."),
        (lambda: api.adapt("r", "m", "s", as_tensors="no"), "`as_tensors` must be True or False, not 'no'."),
        (lambda: api.adapt("r", "m", "s", prior=-1), "`prior` must be a number of at least 0, not -1."),
        (lambda: api.adapt("r", "", "s"), "`name` must be a string that is not empty, not ''."),
        (lambda: api.quantize("a", "b", precision=8), "`precision` must be a string that is not empty, not 8."),
        (lambda: api.quantize("a", precision=np.zeros(2)), "`precision` must be a string that is not empty, not an ob"),
        (lambda: api.quantize("a", precision="float32"), "`precision` 'float32' is not int8 or float16."),
        (lambda: api.quantize("a", ranges=("samples",)), "`ranges` must be a string that is not empty, not an object"),
        (lambda: api.quantize("a", ranges="data"), "`ranges` 'data' is not statistics, recorded or samples."),
        (lambda: api.quantize("a.onnx", 3), "`target` must be a path, not 3."),
        (lambda: api.quantize("a", samples=np.zeros(2)), "`samples` must be a path, not an object of type 'ndarray'."),
        (lambda: api.quantize("a", repository=1), "`repository` must be a path, not 1."),
        (lambda: api.quantize("r/a", repository="r"), "`repository` goes with the name of a model alone; 'r/a' names"),
        (lambda: api.quantize("a", version=0), "`version` must be a whole number of at least 1, not 0."),
        (lambda: api.quantize("a.onnx", "b", card=3), "`card` must be a path, not 3."),
        (lambda: api.quantize("a.onnx", "b", inputs={}), "`inputs` must be a path, not an object of type 'dict'."),
        (lambda: api.quantize("a", max_drop="0.1"), "`max_drop` must be a finite number, not '0.1'."),
        (lambda: api.quantize("a", max_drop=float("nan")), "`max_drop` must be a finite number, not nan."),
        (lambda: api.quantize("a", max_drop=-0.1), "`max_drop` -0.1 is not between 0 and 1."),
        (lambda: api.quantize("a", as_tensors="no"), "`as_tensors` must be True or False, not 'no'."),
        (lambda: api.quantize("a", force="no"), "`force` must be True or False, not 'no'."),
        (lambda: api.quantize("a", float16_io=1), "`float16_io` must be True or False, not 1."),
        (lambda: api.quantize("a", float16_io=True), "`float16_io` is not for int8."),
        (lambda: api.quantize("a", keep_reference=None), "`keep_reference` must be True or False, not None."),
        (lambda: api.quantize("a", progress="yes"), "`progress` must be True, False or a function, not 'yes'."),
        (lambda: api.export("a.onnx", precision=16), "`precision` must be a string that is not empty, not 16."),
        (lambda: api.export("a.onnx", precision="int4"), "`precision` 'int4' is not float32, int8 or float16."),
        (lambda: api.export("a.onnx", ranges="samples"), "`ranges` goes with `precision` int8 or float16."),
        (lambda: api.export("a.onnx", precision="int8", ranges=1), "`ranges` must be a string that is not empty, not"),
        (lambda: api.repair("a", "b", as_tensors=1), "`as_tensors` must be True or False, not 1."),
        (lambda: api.export("a.onnx", name=3), "`name` must be a string that is not empty, not 3."),
        (lambda: api.export("a.onnx", opset="17"), "`opset` must be a whole number, not '17'."),
        (lambda: api.export("m:f", arguments=3), "`arguments` must be a dict of name to value, or a l"),
        (lambda: api.export("m:f", arguments="a=1"), "`arguments` must be a dict of name to value, or a l"),
        (lambda: api.export("a.onnx", calibration_data=np.ones(2)), "`calibration_data` must be a path, not an"),
        (lambda: api.export(torch.nn.ReLU(), input_shape=3), "`input_shape` must be a shape, such as (3,"),
        (lambda: api.export(torch.nn.ReLU), "`source` must be a run folder, a bundle, an .onnx file, a"),
        (lambda: api.audit("a.onnx", data=(1, 2)), "`data` must be a string that is not empty, not an"),
        (lambda: api.fold("a", "b", progress="yes"), "`progress` must be True, False or a function, not 'yes'."),
        (lambda: api.train("r", epochs="3"), "`epochs` must be a whole number, not '3'."),
        (lambda: api.train("r", lr="0.1"), "`lr` must be a finite number, not '0.1'."),
        (lambda: api.train("r", resume="no"), "`resume` must be True or False, not 'no'."),
        (
            lambda: api.train("r", data=(np.zeros(9), np.zeros(9))),
            "`data` must be 'digits', 'npz:PATH' with arrays x and y, 'csv:PATH', 'parquet:PATH', 'images:DIR' or "
            "'masks:DIR', not an object of type 'tuple'.",
        ),
        (lambda: api.Client(8000), "`url` must be a string, such as 'http://127.0.0.1:8000', not 8000."),
        (lambda: api.Client("http://[::1"), "`url` is 'http://[::1'; it must be of http or https"),
        (lambda: api.Client("http://127.0.0.1:x"), "`url` is 'http://127.0.0.1:x'; it must be of http or https"),
        (lambda: api.Client(timeout_s="1"), "`timeout_s` must be a number above 0, not '1'."),
        (lambda: api.Client(ssl_context=True), "`ssl_context` must be an ssl.SSLContext, not True."),
        (lambda: api.Client().infer("m", np.zeros(2)), "`inputs` must be a dict of name to array, not an object"),
        (lambda: api.Client().infer("m", {"a": [[1], [1, 2]]}), "Input 'a' of `inputs` is not an array: "),
        (lambda: api.Client().infer("m", {}, outputs="y"), "`outputs` must be a list of names, not 'y'."),
        (lambda: api.Client().infer("m", {}, version="1"), "`version` must be a whole number of at least 1, not"),
        (lambda: api.Client().predict("m", 3), "`rows` must be an array or a list, one raw input for each"),
        (lambda: api.Client().predict(3, []), "`model` must be a string that is not empty, not 3."),
        (lambda: api.Client().classify("m", b"", top=0), "`top` must be a whole number of at least 1, not 0."),
        (lambda: api.Client().classify("m", ""), "`image` must be a path, not ''."),
    ],
)  # fmt: skip
def test_argument_that_cannot_be_used_is_an_argument_error(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ArgumentError, match="^" + re.escape(message)) as caught:
        call()
    assert str(caught.value).count("\n") == 0


def test_check_accepts_what_can_be_used() -> None:
    check(PATH, a="x", b=Path("x"))
    check(FLAG, a=True, b=np.False_)
    check(whole_number(1), a=1, b=np.int64(2))
    check(TENSORS, a={}, b={"input": 3})
    check_optional(PATH, a=None)


def test_verify_takes_as_few_seeds_as_the_command() -> None:
    with pytest.raises(normfold.InputError, match="none.onnx"):
        normfold.verify("none.onnx", "none.onnx", seeds=4)


def test_folder_that_is_no_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("adir").mkdir()
    for call in (normfold.export, normfold.audit):
        with pytest.raises(WeightsError, match="^'adir' is not a run folder; normfold train makes run folders.$"):
            call("adir")


def test_error_of_the_api_names_arguments(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(RunFolderError, match="holds a run already; resume it with `resume`, or give another `out`.$"):
        normfold.train(tmp_path / "run")
    with pytest.raises(NoRepositoryError, match="There is no folder '.*'; name the repository with `repository`.$"):
        normfold.adapt(tmp_path / "nope", "digits", "s.npz")


def test_data_of_no_known_kind_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="^Unknown data 'x'; give digits, npz:PATH, csv"):
        normfold.train(tmp_path / "run", data="x")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"foo": 1}, "^There is no setting `foo`.$"),
        ({"prot": 1}, r"^There is no setting `prot`; did you mean `port`\?$"),
        ({"port": "abc"}, "^`port` is wrong: Input should be a valid integer"),
    ],
)
@pytest.mark.parametrize("call", [normfold.create_app, normfold.load_repository])
def test_wrong_setting_is_named_as_an_argument(
    tmp_path: Path, call: Callable[..., Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        call(tmp_path, **settings)
