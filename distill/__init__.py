"""Distillation: what was learned, from teacher to student and between peers. Nothing is here yet."""
