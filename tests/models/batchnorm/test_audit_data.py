"""What an audit says of data: few rows condemn nobody, and no network of a user's own makes it fall over."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normfold.contract.audit.findings import Audit
from normfold.models.batchnorm.audit import Subject, audit_network
from normfold.models.batchnorm.audit_data import FEWEST_ROWS_TO_JUDGE
from normfold.models.batchnorm.dropout_order import dropout_before_norms

ENOUGH = FEWEST_ROWS_TO_JUDGE


def norm_of_its_own_data(channels: int = 64) -> nn.BatchNorm1d:
    """Return a layer whose statistics are those of what `torch.randn` draws, though not 0 and 1 to the last digit."""
    norm = nn.BatchNorm1d(channels).eval()
    norm.get_buffer("running_mean").fill_(1e-3)
    return norm


def codes(audit: Audit) -> list[str]:
    return [finding.code for finding in audit.findings]


@pytest.mark.parametrize("count", [1, 6, 8, 12, 20, 30, 64, ENOUGH - 1, ENOUGH, 300])
def test_rows_of_a_layers_own_statistics_are_never_stale(count: int) -> None:
    for seed in range(50):
        torch.manual_seed(seed)
        rows = torch.randn(count, 64)
        audit = audit_network(Subject(norm_of_its_own_data(), rows[:2], rows))
        assert codes(audit) == []
        assert len(audit.notes) == (count < ENOUGH)


@pytest.mark.parametrize("channels", [1, 4])
def test_one_channel_of_a_narrow_layer_is_not_many(channels: int) -> None:
    for seed in range(100):
        torch.manual_seed(seed)
        norm = norm_of_its_own_data(channels)
        norm.get_buffer("running_mean").fill_(1.0)  # an exponential's mean and standard deviation
        rows = torch.empty(ENOUGH, channels).exponential_()
        assert "statistics-stale" not in codes(audit_network(Subject(norm, rows[:2], rows)))


def test_a_stale_layer_is_named_with_enough_rows_and_noted_with_fewer() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(norm_of_its_own_data(), nn.Linear(64, 64), nn.BatchNorm1d(64)).eval()
    rows = torch.randn(ENOUGH, 64)
    network[2].running_mean += 3.0
    enough = audit_network(Subject(network, rows[:2], rows))
    assert {(found.code, found.layer) for found in enough.findings} >= {("statistics-stale", "2")}
    assert ("statistics-stale", "0") not in {(found.code, found.layer) for found in enough.findings}
    fewer = audit_network(Subject(network, rows[:2], rows[1:]))
    assert codes(fewer) == []
    assert list(fewer.drifts) == ["0", "2"]
    assert fewer.notes == (
        "Whether statistics are stale, and train and eval mode agree, was not judged: that takes 128 rows, and the "
        "data have 127.",
    )


def test_half_a_threshold_in_two_channels_of_four_is_stale() -> None:
    torch.manual_seed(0)
    norm = norm_of_its_own_data(4)
    norm.get_buffer("running_mean")[:2] += 0.8
    rows = torch.randn(400, 4)
    assert "statistics-stale" in codes(audit_network(Subject(norm, rows[:2], rows)))


def test_few_rows_say_nothing_of_the_statistics_behind_a_dropout() -> None:
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
def test_what_can_be_compared_of_an_answer_is(kind: str) -> None:
    torch.manual_seed(0)
    rows = torch.randn(200, 8)
    sound = audit_network(Subject(Net(COMPARABLE[kind]), rows[:2], rows))
    assert (sound.findings, sound.notes) == ((), ())
    assert codes(audit_network(Subject(Net(COMPARABLE[kind], 3.0), rows[:2], rows))) == [
        "statistics-stale",
        "train-eval-disagree",
    ]


@pytest.mark.parametrize("kind", NOT_COMPARABLE)
def test_an_answer_of_no_rows_is_a_note_and_the_rest_is_audited(kind: str) -> None:
    torch.manual_seed(0)
    rows = torch.randn(200, 8)
    audit = audit_network(Subject(Net(NOT_COMPARABLE[kind], 3.0), rows[:2], rows))
    assert codes(audit) == ["statistics-stale"]
    assert audit.notes == (
        "Train and eval mode were not compared: the network gives no floating-point output of one row a sample.",
    )


def test_dropout_is_followed_to_a_norm_that_is_called_by_keyword() -> None:
    class Behind(Net):
        def forward(self, x: Tensor) -> Any:
            return super().forward(nn.functional.dropout(x, 0.4, self.training))

    assert dropout_before_norms(Behind(lambda y: y).eval(), torch.randn(2, 8)) == {"norm": 0.4}


class Twice(nn.Module):
    """One norm called twice, and one never."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.spare = norm_of_its_own_data(8), norm_of_its_own_data(8)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.shared(x) + self.shared(-x)
        return result


def test_a_norm_that_runs_twice_is_judged_and_one_that_never_does_is_a_note() -> None:
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
def test_every_kind_of_norm_is_audited(norm: nn.Module) -> None:
    torch.manual_seed(0)
    rows = 2 * torch.randn(200, 8) + 5
    tracked = getattr(norm, "track_running_stats", True)
    audit = audit_network(Subject(nn.Sequential(norm), rows[:2], rows))
    assert codes(audit)[:2] == ["train-mode", "statistics-unset" if tracked else "no-statistics"]
    assert ("train-eval-disagree" in codes(audit)) == tracked
    assert audit.notes == ()


def test_a_norm_without_epsilon_and_a_channel_without_variance_is_audited() -> None:
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
def test_a_lazy_norm_that_never_ran_is_a_note(affine: bool) -> None:
    class Unused(Net):
        def __init__(self) -> None:
            super().__init__(lambda y: y)
            self.lazy = nn.LazyBatchNorm1d(affine=affine)

    rows = torch.randn(200, 8)
    audit = audit_network(Subject(Unused(), rows[:2], rows))
    assert audit.notes[0] == "BatchNorm 'lazy' is lazy and was not called, so it has no parameters to look at."
    assert [layer.name for layer in audit.layers] == ["norm"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_data_go_in_in_the_type_of_the_network(dtype: torch.dtype) -> None:
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


def test_a_network_that_fails_on_a_batch_is_a_note_each() -> None:
    rows = torch.randn(200, 8)
    audit = audit_network(Subject(OfTwoRows(lambda y: y), rows[:2], rows))
    assert codes(audit) == []
    assert [note.partition(":")[0] for note in audit.notes] == [
        "Statistics were not compared with data",
        "Train and eval mode were not compared",
    ]
    assert all("shape '[2, 8]' is invalid" in note for note in audit.notes)


def test_a_network_that_takes_no_gradients_is_a_note() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audit = audit_network(Subject(WithoutGradients(lambda y: y * nn.Parameter(y)), torch.randn(2, 8)))
    (note,) = audit.notes
    assert note.startswith("Dropout before BatchNorm was not looked for: Can't call numpy() on Tensor")
