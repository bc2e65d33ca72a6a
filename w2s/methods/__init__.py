"""How a student learns from weak labels: `METHODS` has all there are, by name."""

from w2s.methods import loss_methods  # noqa: F401  (registers)
from w2s.methods.base import (
    METHODS,
    ORACLE_MARK,
    LossMethod,
    Method,
    MethodError,
    Moment,
    as_method_spec,
    build_method,
    method_label,
    register,
)
from w2s.methods.loss_methods import Confidence, Naive

__all__ = [
    "METHODS",
    "ORACLE_MARK",
    "Confidence",
    "LossMethod",
    "Method",
    "MethodError",
    "Moment",
    "Naive",
    "as_method_spec",
    "build_method",
    "method_label",
    "register",
]
