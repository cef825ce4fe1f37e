from __future__ import annotations

import inspect

from backend.core import errors

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass)]


def test_every_error_of_the_module_is_in_the_tree():
    assert CLASSES
    assert [cls.__name__ for cls in CLASSES if not issubclass(cls, errors.TTSError)] == []


def test_every_error_ends_in_error_and_says_what_it_means():
    assert [cls.__name__ for cls in CLASSES if not cls.__name__.endswith("Error")] == []
    assert [cls.__name__ for cls in CLASSES if "__doc__" not in cls.__dict__] == []


def test_tree_in_the_docstring_names_every_class():
    assert errors.__doc__ is not None
    assert [cls.__name__ for cls in CLASSES if cls.__name__ not in errors.__doc__] == []


def test_full_queue_carries_the_time_to_wait():
    error = errors.QueueFullError("full", retry_after_s=2.5)
    assert (str(error), error.retry_after_s) == ("full", 2.5)
