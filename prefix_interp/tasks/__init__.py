"""Sources of batches: the paper's tasks, and your own."""

from prefix_interp.tasks.batch import NO_ANSWER as NO_ANSWER
from prefix_interp.tasks.batch import Batch as Batch
from prefix_interp.tasks.batch import mean_over_answers as mean_over_answers
from prefix_interp.tasks.digits import FOUR_SKILLS as FOUR_SKILLS
from prefix_interp.tasks.digits import DigitTask as DigitTask
from prefix_interp.tasks.digits import as_batch as as_batch
from prefix_interp.tasks.digits import as_task as as_task
from prefix_interp.tasks.digits import get_task as get_task
from prefix_interp.tasks.digits import list_tasks as list_tasks
from prefix_interp.tasks.task import Task as Task
