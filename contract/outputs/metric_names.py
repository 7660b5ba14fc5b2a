"""Names of metrics."""

from __future__ import annotations

METRIC_NAMES = {
    "accuracy": "accuracy",
    "mean_iou": "mean IoU",
    "f1": "F1",
    "auc": "AUC",
    "r2": "R²",
    "mae": "MAE",
    "rmse": "RMSE",
}
"""Names of metrics in sentences, by their names in files."""
