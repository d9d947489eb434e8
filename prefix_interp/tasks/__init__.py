"""The paper's tasks."""

from prefix_interp.tasks.task import FOUR_SKILLS as FOUR_SKILLS
from prefix_interp.tasks.task import Batch as Batch
from prefix_interp.tasks.task import Task as Task
from prefix_interp.tasks.task import get_task as get_task
from prefix_interp.tasks.task import list_tasks as list_tasks
