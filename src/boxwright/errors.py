"""Errors that the user can fix: each names the file, field or argument, the value found and what to do."""


class BoxwrightError(Exception):
    """Base of every error that the user can fix; the command line prints it without a traceback."""


class MissingPackageError(BoxwrightError, ImportError):
    """An optional package is not installed; an `ImportError` to who tries whether a part can be imported."""


class DataError(BoxwrightError):
    """A data set, annotation file or image that cannot be used as it is."""


class RecipeError(BoxwrightError):
    """A recipe or an override that does not validate."""


class PartError(BoxwrightError, ValueError):
    """A loss or an assigner that answers what a criterion cannot use; a `ValueError` in a training loop of yours."""


class RunError(BoxwrightError):
    """A run folder, checkpoint or weight file that is missing, broken or does not fit, or a run that had to stop."""
