"""Reference pages of the documentation, generated from the code.

docs/conf.py replaces each line `<!-- generated: NAME -->` of a page by the Markdown that `GENERATORS[NAME]` returns, so
that nothing which the code states is typed a second time.
"""

from __future__ import annotations

from collections.abc import Callable

from scripts.docs_reference.commands import commands
from scripts.docs_reference.python_api import python_api
from scripts.docs_reference.schemas import manifest, reason_codes, source_card
from scripts.docs_reference.service import metrics, routes, settings, triton_metrics
from scripts.docs_reference.source_tree import folders, modules

GENERATORS: dict[str, Callable[[], str]] = {
    "settings": settings,
    "metrics": metrics,
    "triton-metrics": triton_metrics,
    "commands": commands,
    "routes": routes,
    "manifest": manifest,
    "source-card": source_card,
    "reason-codes": reason_codes,
    "python-api": python_api,
    "folders": folders,
    "modules": modules,
}
