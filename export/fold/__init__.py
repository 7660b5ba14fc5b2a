"""Fold BatchNormalization and other channel affines into neighbouring weights."""
