"""The fine-tuning tasks, by name. A task is one :class:`TaskDefinition`; everything else is the same for all."""

from __future__ import annotations

from typing import Any

from fastbert.training.tasks.classification import CLASSIFICATION
from fastbert.training.tasks.definition import DataOptions, TaskDefinition
from fastbert.training.tasks.glue import GLUE_TASKS
from fastbert.training.tasks.multiple_choice import MULTIPLE_CHOICE
from fastbert.training.tasks.question_answering import QUESTION_ANSWERING
from fastbert.training.tasks.regression import REGRESSION
from fastbert.training.tasks.retrieval import RETRIEVAL
from fastbert.training.tasks.similarity import PARAPHRASE, SIMILARITY
from fastbert.training.tasks.tagging import TAGGING

__all__ = ["DataOptions", "TaskDefinition", "task_named", "task_names"]

_ALL: tuple[TaskDefinition[Any, Any], ...] = (
    CLASSIFICATION,
    REGRESSION,
    TAGGING,
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    SIMILARITY,
    PARAPHRASE,
    RETRIEVAL,
    *GLUE_TASKS,
)
_TASKS = {task.name: task for task in _ALL}


def task_names() -> list[str]:
    """What ``task=`` may be."""
    return list(_TASKS)


def task_named(name: str) -> TaskDefinition[Any, Any]:
    """The task of a name. ValueError where there is none."""
    if name not in _TASKS:
        raise ValueError(f"task is {name!r}; allowed: {', '.join(_TASKS)}")
    return _TASKS[name]
