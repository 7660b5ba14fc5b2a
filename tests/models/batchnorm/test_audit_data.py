"""Audit on data: few rows give no findings, and a network that fails or returns odd outputs gives notes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normfold.contract.audit.findings import Audit
from normfold.models.batchnorm.audit import Subject, audit_network
from normfold.models.batchnorm.audit_data import MIN_ROWS
from normfold.models.batchnorm.dropout_order import dropout_before_batchnorms

ENOUGH = MIN_ROWS


def norm_of_its_own_data(channels: int = 64) -> nn.BatchNorm1d:
    """Return a layer whose statistics are those of what `torch.randn` draws, though not 0 and 1 to the last digit."""
    norm = nn.BatchNorm1d(channels).eval()
    norm.get_buffer("running_mean").fill_(1e-3)
    return norm


def codes(audit: Audit) -> list[str]:
    return [finding.code for finding in audit.findings]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 6, 8, 12, 20, 30, 64, ENOUGH - 1, ENOUGH, 300])
def test_rows_with_the_layers_statistics_are_not_stale(count: int) -> None:
    for seed in range(50):
        torch.manual_seed(seed)
        rows = torch.randn(count, 64)
        audit = audit_network(Subject(norm_of_its_own_data(), rows[:2], rows))
        assert codes(audit) == []
        assert len(audit.notes) == (count < ENOUGH)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 4])
def test_one_channel_over_the_lower_thresholds_is_not_stale(channels: int) -> None:
    for seed in range(100):
        torch.manual_seed(seed)
        norm = norm_of_its_own_data(channels)
        norm.get_buffer("running_mean").fill_(1.0)  # an exponential's mean and standard deviation
        rows = torch.empty(ENOUGH, channels).exponential_()
        assert "statistics-stale" not in codes(audit_network(Subject(norm, rows[:2], rows)))


def test_stale_layer_is_a_finding_with_enough_rows_and_a_note_with_fewer() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(norm_of_its_own_data(), nn.Linear(64, 64), nn.BatchNorm1d(64)).eval()
    rows = torch.randn(ENOUGH, 64)
    network[2].running_mean += 3.0
    enough = audit_network(Subject(network, rows[:2], rows))
    assert {(found.code, found.layer) for found in enough.findings} >= {("statistics-stale", "2")}
    assert ("statistics-stale", "0") not in {(found.code, found.layer) for found in enough.findings}
    fewer = audit_network(Subject(network, rows[:2], rows[1:]))
    assert codes(fewer) == []
    assert list(fewer.differences) == ["0", "2"]
    assert fewer.notes == (
        "Statistics were not checked for staleness, and train and eval mode were not compared: this needs 128 rows, "
        "and the data have 127.",
    )


def test_two_channels_of_four_over_the_lower_thresholds_are_stale() -> None:
    torch.manual_seed(0)
    norm = norm_of_its_own_data(4)
    norm.get_buffer("running_mean")[:2] += 0.8
    rows = torch.randn(400, 4)
    assert "statistics-stale" in codes(audit_network(Subject(norm, rows[:2], rows)))


def test_few_rows_do_not_lower_the_severity_of_a_dropout() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Dropout(0.5), norm_of_its_own_data()).eval()
    rows = torch.randn(20, 64)
    (found,) = audit_network(Subject(network, rows[:2], rows)).findings
    assert (found.code, found.severity.value) == ("dropout-before", "warning")


@dataclass
class Answer:
    """What some networks give."""

    logits: Tensor
    loss: Tensor | None = None


class Net(nn.Module):
    """A network whose BatchNorm is trained on what it gets here, or far off, and that answers in its own way."""

    def __init__(self, answer: Any, shift: float = 0.0) -> None:
        super().__init__()
        self.norm, self.answer = norm_of_its_own_data(8), answer
        self.norm.get_buffer("running_mean").add_(shift)

    def forward(self, x: Tensor) -> Any:
        return self.answer(self.norm(input=x))


COMPARABLE = {
    "with a scalar loss": lambda y: (y, y.mean()),
    "dict": lambda y: {"logits": y, "loss": y.mean(), "none": None},
    "dataclass": lambda y: Answer(y, y.mean()),
    "nested": lambda y: [{"a": Answer(y)}, (y.argmax(1),)],
}
NOT_COMPARABLE = {
    "argmax alone": lambda y: y.argmax(1),
    "transposed": lambda y: y.T,
    "scalar": lambda y: y.mean(),
    "None": lambda _: None,
    "dataclass of None": lambda y: Answer(y.mean()),
}


@pytest.mark.parametrize("kind", COMPARABLE)
def test_floating_point_outputs_with_a_row_per_sample_are_compared(kind: str) -> None:
    torch.manual_seed(0)
    rows = torch.randn(200, 8)
    sound = audit_network(Subject(Net(COMPARABLE[kind]), rows[:2], rows))
    assert (sound.findings, sound.notes) == ((), ())
    assert codes(audit_network(Subject(Net(COMPARABLE[kind], 3.0), rows[:2], rows))) == [
        "statistics-stale",
        "train-eval-disagree",
    ]


@pytest.mark.parametrize("kind", NOT_COMPARABLE)
def test_output_without_a_row_per_sample_is_a_note_and_the_rest_is_audited(kind: str) -> None:
    torch.manual_seed(0)
    rows = torch.randn(200, 8)
    audit = audit_network(Subject(Net(NOT_COMPARABLE[kind], 3.0), rows[:2], rows))
    assert codes(audit) == ["statistics-stale"]
    assert audit.notes == (
        "Train and eval mode were not compared: the network returns no floating-point output with a row per sample.",
    )


def test_dropout_is_followed_to_a_batchnorm_that_is_called_by_keyword() -> None:
    class Behind(Net):
        def forward(self, x: Tensor) -> Any:
            return super().forward(nn.functional.dropout(x, 0.4, self.training))

    assert dropout_before_batchnorms(Behind(lambda y: y).eval(), torch.randn(2, 8)) == {"norm": 0.4}


class Twice(nn.Module):
    """One norm called twice, and one never."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.spare = norm_of_its_own_data(8), norm_of_its_own_data(8)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.shared(x) + self.shared(-x)
        return result


def test_batchnorm_called_twice_is_compared_and_one_never_called_is_a_note() -> None:
    torch.manual_seed(0)
    rows = torch.randn(200, 8)
    network = Twice()
    network.shared.get_buffer("running_mean").add_(3.0)
    audit = audit_network(Subject(network, rows[:2], rows))
    assert ("statistics-stale", "shared") in [(found.code, found.layer) for found in audit.findings]
    assert audit.notes == (
        "BatchNorm 'spare' is not called in inference, so its statistics were not compared with data.",
    )


@pytest.mark.parametrize(
    "norm",
    [
        nn.LazyBatchNorm1d(),
        nn.LazyBatchNorm1d(affine=False),
        nn.SyncBatchNorm(8),
        nn.BatchNorm1d(8, affine=False),
        nn.BatchNorm1d(8, momentum=None),
        nn.BatchNorm1d(8, bias=False),
        nn.BatchNorm1d(8, track_running_stats=False),
    ],
    ids=repr,
)
def test_all_batchnorm_classes_are_audited(norm: nn.Module) -> None:
    torch.manual_seed(0)
    rows = 2 * torch.randn(200, 8) + 5
    tracked = getattr(norm, "track_running_stats", True)
    audit = audit_network(Subject(nn.Sequential(norm), rows[:2], rows))
    assert codes(audit)[:2] == ["train-mode", "statistics-unset" if tracked else "no-statistics"]
    assert ("train-eval-disagree" in codes(audit)) == tracked
    assert audit.notes == ()


def test_batchnorm_with_epsilon_0_and_a_constant_channel_is_audited() -> None:
    rows = torch.randn(200, 8)
    rows[:, 0] = 0.0
    norm = nn.BatchNorm1d(8, eps=0.0).eval()
    norm.get_buffer("running_mean").fill_(1e-3)
    audit = audit_network(Subject(nn.Sequential(norm), rows[:2], rows))
    assert codes(audit) == ["epsilon-unusual", "statistics-stale"]
    assert audit.notes == (
        "Train and eval mode were not compared: batch_norm eps must be positive during training, but got 0.0.",
    )


@pytest.mark.parametrize("affine", [True, False])
def test_lazy_batchnorm_that_was_never_called_is_a_note(affine: bool) -> None:
    class Unused(Net):
        def __init__(self) -> None:
            super().__init__(lambda y: y)
            self.lazy = nn.LazyBatchNorm1d(affine=affine)

    rows = torch.randn(200, 8)
    audit = audit_network(Subject(Unused(), rows[:2], rows))
    assert audit.notes[0] == "BatchNorm 'lazy' is lazy and was not called, so it has no parameters to check."
    assert [layer.name for layer in audit.layers] == ["norm"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_data_are_converted_to_the_dtype_of_the_network(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows = torch.randn(200, 8)
    network = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).to(dtype)
    network[1].running_mean += 3.0
    audit = audit_network(Subject(network.eval(), rows[:2], rows))
    assert codes(audit) == ["statistics-stale", "train-eval-disagree"]
    assert audit.notes == ()


class OfTwoRows(Net):
    """Takes batches of two rows alone."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x.reshape(2, 8))


class WithoutGradients(Net):
    """Leaves torch where no gradient is asked for."""

    def forward(self, x: Tensor) -> Any:
        return torch.from_numpy(super().forward(nn.functional.dropout(x, 0.5, self.training)).numpy())


def test_network_that_fails_on_a_batch_is_a_note_for_each_comparison() -> None:
    rows = torch.randn(200, 8)
    audit = audit_network(Subject(OfTwoRows(lambda y: y), rows[:2], rows))
    assert codes(audit) == []
    assert [note.partition(":")[0] for note in audit.notes] == [
        "Statistics were not compared with data",
        "Train and eval mode were not compared",
    ]
    assert all("shape '[2, 8]' is invalid" in note for note in audit.notes)


def test_network_without_gradients_is_a_note() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audit = audit_network(Subject(WithoutGradients(lambda y: y * nn.Parameter(y)), torch.randn(2, 8)))
    (note,) = audit.notes
    assert note.startswith("Dropout before BatchNorm was not checked: Can't call numpy() on Tensor")
