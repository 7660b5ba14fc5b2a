"""`normfold.audit`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normfold._shared.argument_checks import FLAG, PATH, TEXT, Kind, check, check_optional
from normfold._shared.overwrite import is_same_file
from normfold._shared.packages import require_packages
from normfold._shared.paths import AnyPath, optional_path
from normfold._shared.progress import Progress, progress_callback
from normfold._shared.sources.network import build_network
from normfold._shared.sources.resolve import files_of, require_torch_source, resolved
from normfold._shared.sources.source import Source, check_arguments, parse_shape
from normfold.errors import ArgumentError

if TYPE_CHECKING:
    from torch import nn

    from normfold.contract.audit.findings import Audit, Finding
    from normfold.contract.progress import ProgressCallback


@dataclass(frozen=True, repr=False)
class AuditResult:
    """The result of `audit`: findings about the BatchNorm layers of a network.

    Attributes:
        source: the audited source, as given.
        audit: the layers, findings and drifts, the worst findings first.
    """

    source: str
    audit: Audit

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings, the worst first."""
        return self.audit.findings

    def at_least(self, severity: str) -> tuple[Finding, ...]:
        """Return the findings of at least this severity: info, warning or error."""
        from normfold.contract.audit.findings import Severity

        check(Kind("info, warning or error", lambda given: given in list(Severity)), severity=severity)
        return self.audit.at_least(Severity(severity))

    def to_html(self) -> str:
        """Return the self-contained page of `normfold audit --html`."""
        from normfold.display.pages.audit_page import audit_page

        return audit_page(self.source, self.audit)

    def __repr__(self) -> str:
        from normfold.display.terminal.audit import verdict

        return f"AuditResult({self.source!r}: {verdict(self.audit)})"

    def _repr_html_(self) -> str:
        from normfold.display.pages.notebook import embed

        return embed(self.to_html())


def audit(
    source: AnyPath | nn.Module,
    *,
    data: str | None = None,
    weights: AnyPath | None = None,
    weights_key: str | None = None,
    strip_prefix: str | None = None,
    partial: bool = False,
    input_shape: str | Sequence[int] | None = None,
    arguments: Mapping[str, Any] | Sequence[str] = (),
    html: AnyPath | None = None,
    progress: Progress = False,
) -> AuditResult:
    """Find problems of BatchNorm layers in a trained network, a bundle, an ONNX file or your own network.

    Checks for statistics that were never set or differ from the data's, variance near zero, dead channels, NaN, an
    unusual epsilon, train mode, dropout before BatchNorm, and small batches. The source is not changed.

    Example:
        >>> import normfold
        >>> normfold.audit("runs/digits").findings
        ()

    Args:
        source: a run folder, a bundle, an ONNX file, a torch network, or module:factory, a function that returns one.
            Of a bundle it is the unfolded model.
        data: compare the statistics with these: digits, npz:PATH, csv:PATH, parquet:PATH, images:DIR or masks:DIR; a
            run folder's are its training data.
        weights: of a factory's network: .safetensors, or a state dict or checkpoint of torch.save. No code in it runs.
        weights_key: of the state dict in that file, such as "state_dict_ema", if it holds several.
        strip_prefix: before the network's names in that file; found by itself if all names have it.
        partial: load of that file what fits; warns of the rest.
        input_shape: of one sample of your own network, without the axis of rows: (3, 224, 224).
        arguments: of the factory, by name; or as texts NAME=VALUE.
        html: path of a page with histograms of gain and drift; written atomically.
        progress: True shows each step on standard error; a function is called with each step, in words.

    Raises:
        MissingPackageError: the extra `export` (ONNX files) or `train` (all else) is not installed.
        ArgumentError: there is no such source, or an argument cannot be used, or an argument does not apply to it.
        ModelFileError, WeightsError, ArchitectureError: the network cannot be loaded.
        RepositoryError, DamagedVersionError: the bundle is not there, or not what was exported.
        DataError: the data cannot be read, or have another shape.
        WriteError: the page cannot be written.
    """
    check_optional(TEXT, data=data, weights_key=weights_key, strip_prefix=strip_prefix)
    check(FLAG, partial=partial)
    check_optional(PATH, weights=weights, html=html)
    given = Source.of(
        source,
        weights=optional_path(weights),
        weights_key=weights_key,
        strip_prefix=strip_prefix,
        partial=partial,
        input_shape=input_shape,
        arguments=arguments,
    )
    check_arguments(given)
    page = optional_path(html)
    if page is not None and any(is_same_file(page, file) for file in files_of(given)):
        raise ArgumentError(f"`html` {str(html)!r} is the model itself; give the page another name.")
    with progress_callback(progress) as progress:
        has_file = given.is_onnx or given.bundle is not None
        found = _audit_onnx(given, data, progress) if has_file else _audit_torch(given, data, progress)
    result = AuditResult(given.text, dataclasses.replace(found, findings=_worst_first(found)))
    if page is not None:
        from normfold.contract.atomic_write import atomic_path

        with atomic_path(page) as path:
            path.write_text(result.to_html(), encoding="utf-8")
    return result


def _worst_first(found: Audit) -> tuple[Finding, ...]:
    from normfold.contract.audit.findings import Severity

    return tuple(sorted(found.findings, key=lambda finding: -list(Severity).index(finding.severity)))


def _audit_onnx(given: Source, data: str | None, progress: ProgressCallback) -> Audit:
    if data is not None:
        raise ArgumentError(f"`data` is for a run folder or module:factory; {given.kind} is audited without data.")
    require_packages("onnx", "onnx_ir", extra="export", needed_for="normfold audit")
    from normfold.export.files.audit_file import audit_onnx

    with resolved(given, progress) as unfolded:
        return audit_onnx(unfolded.path)


def _audit_torch(given: Source, data: str | None, progress: ProgressCallback) -> Audit:
    require_torch_source(given)
    require_packages("torch", "sklearn", "safetensors", extra="train", needed_for="normfold audit of a torch network")
    from normfold.models.batchnorm.audit import audit_network
    from normfold.models.batchnorm.audit_subject import load_given_data, subject_of_network, subject_of_run

    progress("reading the data")
    if given.is_run:
        subject, no_rows_reason = subject_of_run(Path(given.text), data)
    else:
        dataset = None if data is None else load_given_data(data)
        if dataset is not None and given.input_shape is not None:
            raise ArgumentError("`input_shape` and `data` both give the shape of a sample; give one of them.")
        if dataset is None and given.input_shape is None:
            raise ArgumentError(f"{given.kind.capitalize()} needs `input_shape`, the shape of one sample, or `data`.")
        shape = dataset.input_shape if dataset is not None else parse_shape(given.input_shape or "")
        network = build_network(given, shape, None if dataset is None else len(dataset.labels))
        subject, no_rows_reason = subject_of_network(network, shape, dataset), "no data were given."
    found = audit_network(subject, progress)
    if subject.rows is not None:
        return found
    return dataclasses.replace(found, notes=(*found.notes, f"Statistics were not compared with data: {no_rows_reason}"))
