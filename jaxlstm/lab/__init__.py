"""The laboratory: experiments from config files. Needs the extra `jaxlstm[lab]`."""

from jaxlstm.estimators import Segment as Segment
from jaxlstm.lab.errors import UserError as UserError
from jaxlstm.lab.runs import Run as Run
from jaxlstm.lab.runs import load_run as load_run
from jaxlstm.lab.task import ModelParts as ModelParts
from jaxlstm.lab.task import Reference as Reference
from jaxlstm.lab.task import Source as Source
from jaxlstm.lab.task import Task as Task
from jaxlstm.lab.task import generator as generator
from jaxlstm.lab.vocabulary import Vocabulary as Vocabulary
