"""The coordinator's errors: one base, and those that the operator must mend. Errors of one room live in that room."""


class CoordinatorError(Exception):
    """Base of everything that the coordinator raises on purpose."""


class OperatorError(CoordinatorError):
    """Something on the operator's side must be mended: a folder, a file, a setting. The message says how."""
