"""Errors that a person can act on. Their text says what was wrong, where, and what would be right."""


class W2SError(Exception):
    """Root of every error this package raises on purpose; shown without a traceback."""


class DataError(W2SError):
    """A task's files, columns, labels or sizes cannot be used."""


class ModelError(W2SError):
    """A checkpoint or tokenizer cannot be found, read or used."""


class TrainingError(W2SError):
    """A run went wrong while training, for instance its loss became NaN."""


class InterruptedRunError(W2SError):
    """The run was asked to stop; its state is saved, and it goes on from there."""


class OutOfMemoryError(W2SError):
    """The device ran out of memory; the run may be tried again with a smaller micro-batch."""
