"""Audit of torch networks: planted faults are found under their codes, and sound networks have no findings."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normfold.contract.audit.findings import Audit, Finding, Severity
from normfold.models.architectures.blocks import ConvBatchNorm
from normfold.models.architectures.registry import FACTORIES, Architecture, build
from normfold.models.batchnorm.audit import Subject, audit_network
from normfold.models.batchnorm.audit_subject import load_given_data, subject_of_network, subject_of_run
from normfold.models.batchnorm.dropout_order import dropout_before_batchnorms
from normfold.models.data.data import DataConfig, load_dataset
from normfold.models.errors import ArchitectureError, DataError
from normfold.models.statistics.recalibrate import recalibrate
from normfold.models.training.checkpoint import load_checkpoint, save_checkpoint
from normfold.models.training.train import fit
from tests.support.training import MakeRun

pytestmark = pytest.mark.slow

Change = Callable[[nn.Module], object]


def norm(network: nn.Module) -> Any:
    """Return the second norm of the convnet below."""
    return network.get_submodule("stages.2.norm")


@pytest.fixture(scope="module")
def digits() -> Any:
    return load_dataset(DataConfig())


@pytest.fixture(scope="module")
def trained(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a small convnet that was trained on the digits."""
    from normfold.models.training.checkpoint import make_run_config
    from normfold.models.training.config import TrainConfig

    options = {"widths": [8, 16], "blocks_per_stage": 1}
    config = make_run_config("convnet", options, DataConfig(), digits, TrainConfig(epochs=4))
    return fit(config, digits, tmp_path_factory.mktemp("audit") / "run").folder


def audit_changed(trained: Path, tmp_path: Path, change: Change) -> Audit:
    checkpoint = load_checkpoint(trained)
    change(checkpoint.network)
    save_checkpoint(tmp_path / "changed", checkpoint.network, checkpoint.config)
    subject, why_not = subject_of_run(tmp_path / "changed", None)
    assert why_not is None
    return audit_network(subject)


def of_layer(audit: Audit, layer: str) -> dict[str, Finding]:
    return {finding.code: finding for finding in audit.findings if finding.layer == layer}


@pytest.mark.slow
def test_audit_of_a_network_trained_on_digits_has_no_findings(trained: Path) -> None:
    subject, _ = subject_of_run(trained, None)
    audit = audit_network(subject)
    assert audit.findings == ()
    assert [layer.name for layer in audit.layers] == list(audit.differences) == ["stages.0.norm", "stages.2.norm"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "code", "severity", "figure"),
    [
        (
            lambda n: norm(n).reset_running_stats(),
            "statistics-unset",
            Severity.ERROR,
            "mean 0 and variance 1 in all 16",
        ),
        (
            lambda n: norm(n).running_var[:2].zero_(),
            "variance-near-zero",
            Severity.WARNING,
            "2 of 16 channels: variance down to 0, gain up to",
        ),
        (lambda n: norm(n).weight.data[:3].zero_(), "dead-channels", Severity.INFO, "3 of 16 channels"),
        (lambda n: norm(n).weight.data[:8].mul_(1e-5), "dead-channels", Severity.WARNING, "8 of 16 channels"),
        (lambda n: norm(n).running_mean[:1].fill_(float("nan")), "not-finite", Severity.ERROR, "1 of 16 channels"),
        (lambda n: norm(n).bias.data[:1].fill_(float("inf")), "not-finite", Severity.ERROR, "1 of 16 channels"),
        (lambda n: norm(n).running_var[:1].fill_(-1), "not-finite", Severity.ERROR, "or a variance negative"),
        (lambda n: norm(n).running_var.mul_(9), "statistics-stale", Severity.WARNING, "16 of 16 channels"),
        (
            lambda n: norm(n).running_mean[:1].add_(2 * norm(n).running_var[:1].sqrt()),
            "statistics-stale",
            Severity.WARNING,
            "1 of 16 channels: the data's mean is up to 2",
        ),
    ],
)
def test_audit_finds_a_planted_fault_in_its_layer(
    trained: Path, tmp_path: Path, change: Change, code: str, severity: Severity, figure: str
) -> None:
    audit = audit_changed(trained, tmp_path, change)
    found = of_layer(audit, "stages.2.norm")
    assert code in found
    assert found[code].severity is severity
    assert figure in found[code].measurement
    assert found[code].advice.endswith(".")
    assert not of_layer(audit, "stages.0.norm")


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [1e-8, 0.1])
def test_audit_finds_an_unusual_epsilon(trained: Path, epsilon: float) -> None:
    subject, _ = subject_of_run(trained, None)
    norm(subject.network).eps = epsilon
    found = of_layer(audit_network(subject), "stages.2.norm")
    assert f"epsilon {epsilon:g}" in found["epsilon-unusual"].measurement


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [1e-5, 2e-5, 1e-3])
def test_audit_accepts_the_epsilons_of_frameworks(trained: Path, epsilon: float) -> None:
    subject, _ = subject_of_run(trained, None)
    norm(subject.network).eps = epsilon
    assert not audit_network(subject).findings


def test_audit_accepts_a_constant_channel_with_a_small_gain(trained: Path, tmp_path: Path) -> None:
    def silence(network: nn.Module) -> None:
        norm(network).running_var[0] = 0
        norm(network).weight.data[0] = 0.01

    assert "variance-near-zero" not in of_layer(audit_changed(trained, tmp_path, silence), "stages.2.norm")


def test_audit_finds_train_and_eval_outputs_that_disagree(trained: Path, tmp_path: Path) -> None:
    audit = audit_changed(trained, tmp_path, lambda n: norm(n).running_var.mul_(30))
    (found,) = [finding for finding in audit.findings if finding.layer is None]
    assert (found.code, found.severity) == ("train-eval-disagree", Severity.WARNING)
    assert "of their standard deviation over a batch of 256 rows" in found.measurement


def test_audit_names_the_layer_whose_input_overflows(trained: Path, tmp_path: Path) -> None:
    audit = audit_changed(
        trained, tmp_path, lambda n: n.get_submodule("stages.2.weight_layer").weight.data.fill_(float("inf"))
    )
    assert set(of_layer(audit, "stages.2.norm")) == {"input-not-finite"}


@pytest.mark.slow
def test_audit_finds_small_training_batches(tmp_path: Path, make_run: MakeRun) -> None:
    config, dataset = make_run(batch_size=8, epochs=6)
    with pytest.warns(UserWarning, match="8 rows"):
        folder = fit(config, dataset, tmp_path / "run").folder
    audit = audit_network(subject_of_run(folder, None)[0])
    assert [(found.code, found.layer, found.severity) for found in audit.findings] == [
        ("small-batch", None, Severity.WARNING)
    ]
    assert "8 rows per training batch" in audit.findings[0].measurement


def plausible(name: str, shape: tuple[int, ...], rows: Tensor) -> nn.Module:
    """Build a network with scales and shifts as after training, and the statistics that go with them."""
    torch.manual_seed(1)
    network = build(Architecture(name=name, input_shape=shape, classes=5))
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, 0.2, 0.6)  # above 0: few rows must not leave a relu off throughout
    recalibrate(network, rows)
    return network


OURS = [name for name, factory in FACTORIES.items() if not isinstance(factory, partial)]
"""Of each kind one; the others are larger ones of the same code."""


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_audit_of_the_registered_architectures_has_no_findings(name: str) -> None:
    torch.manual_seed(0)
    shape = (3, 16) if name == "temporal" else (1, 16, 16)
    rows = torch.randn(130, *shape)
    network = plausible(name, shape, rows)
    assert audit_network(Subject(network, rows[:2], rows, batch_rows=64)).findings == ()


class WithDropout(nn.Module):
    """One norm right behind a dropout, one behind another norm, one that a dropout reaches by a shortcut alone."""

    def __init__(self, p: float = 0.5, functional: bool = False) -> None:
        super().__init__()
        self.p, self.functional = p, functional
        self.layer_dropout = nn.Dropout2d(p)
        self.first, self.second, self.third, self.last = (ConvBatchNorm(2, 2) for _ in range(4))
        self.final_dropout = nn.Dropout(0.9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        dropped = F.dropout(x, p=self.p, training=self.training) if self.functional else self.layer_dropout(x)
        x = self.third(self.second(dropped))
        result: Tensor = self.final_dropout(self.last(x + dropped))
        return result


@pytest.mark.parametrize("functional", [False, True])
def test_dropout_is_followed_to_the_batchnorms_that_it_reaches(functional: bool) -> None:
    network = WithDropout(functional=functional).eval()
    before = copy.deepcopy(network.state_dict())
    x = torch.randn(2, 2, 4, 4)
    assert dropout_before_batchnorms(network, x) == {"second.norm": 0.5, "last.norm": 0.5}
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not network(x).isnan().any()
    assert dropout_before_batchnorms(WithDropout(p=0.0).eval(), x) == {}


def test_dropout_before_a_batchnorm_is_a_warning_unless_its_statistics_match_the_data() -> None:
    torch.manual_seed(0)
    rows = torch.randn(200, 2, 4, 4)
    network = WithDropout()
    for batch in rows.repeat(3, 1, 1, 1).split(50):
        network(batch)
    network.eval()
    blind = audit_network(Subject(copy.deepcopy(network), rows[:2]))
    assert {(found.code, found.layer, found.severity) for found in blind.findings} == {
        ("dropout-before", "second.norm", Severity.WARNING),
        ("dropout-before", "last.norm", Severity.WARNING),
    }
    assert "p = 0.5: variance in training up to 2 times" in blind.findings[0].measurement
    recalibrate(network, rows)
    seen = audit_network(Subject(network, rows[:2], rows))
    assert {(found.code, found.severity) for found in seen.findings} == {("dropout-before", Severity.INFO)}


def test_audit_finds_layers_in_train_mode_and_layers_without_statistics() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        ConvBatchNorm(1, 2), ConvBatchNorm(2, 2), nn.BatchNorm2d(2, track_running_stats=False)
    ).train()
    network(torch.randn(20, 1, 4, 4))
    network[1].eval()
    audit = audit_network(Subject(network, torch.randn(2, 1, 4, 4)))
    assert [(found.code, found.layer) for found in audit.findings] == [
        ("train-mode", "0.norm"),
        ("train-mode", "2"),
        ("no-statistics", "2"),
    ]
    assert [layer.name for layer in audit.layers] == ["0.norm", "1.norm"]


def test_batchnorm_without_affine_has_scale_1() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3, affine=False))
    network(torch.randn(20, 3, 4, 4))
    (layer,) = audit_network(Subject(network.eval(), torch.randn(2, 3, 4, 4))).layers
    np.testing.assert_array_equal(layer.scale, np.ones(3))
    np.testing.assert_allclose(layer.gain, 1 / np.sqrt(layer.running_var + 1e-5))


def test_network_that_does_not_take_the_example_is_reported_in_one_sentence() -> None:
    with pytest.raises(ArchitectureError, match=r"does not take samples of shape \[2, 4, 4\]"):
        audit_network(Subject(nn.Sequential(ConvBatchNorm(1, 2)), torch.zeros(2, 2, 4, 4)))


def test_other_data_are_standardised_as_in_training(trained: Path, digits: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "same.npz", x=digits.x, y=digits.y, value_max=16.0)
    np.savez(tmp_path / "brighter.npz", x=np.minimum(digits.x + 8, 16), y=digits.y, value_max=16.0)
    np.savez(tmp_path / "larger.npz", x=np.repeat(digits.x, 2, axis=2), y=digits.y)
    same, _ = subject_of_run(trained, f"npz:{tmp_path}/same.npz")
    assert same.rows is not None
    assert torch.equal(same.rows, torch.from_numpy(digits.tensors(np.arange(len(digits.x)))))
    assert not audit_network(same).findings
    brighter, _ = subject_of_run(trained, f"npz:{tmp_path}/brighter.npz")
    assert "statistics-stale" in {found.code for found in audit_network(brighter).findings}
    with pytest.raises(DataError, match=r"samples of shape \[1, 16, 8\]; the network takes \[1, 8, 8\]"):
        subject_of_run(trained, f"npz:{tmp_path}/larger.npz")


def test_network_without_a_run_folder_is_audited_with_data() -> None:
    dataset = load_given_data("digits")
    network = nn.Sequential(ConvBatchNorm(1, 2), nn.Flatten(), nn.Linear(128, 10)).eval()
    subject = subject_of_network(network, dataset.input_shape, dataset)
    assert subject.rows is not None
    assert len(subject.rows) == 1797
    assert {found.code for found in audit_network(subject).findings} >= {"statistics-unset"}
