"""Distillation: what one model has learned, carried to another. Teachers, stores, signals, licences."""
