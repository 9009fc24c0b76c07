"""Train image models so that a killed run goes on as if nothing had happened."""

from ..settings import SmoothTraining, TrainConfig
from .checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from .evaluate import Evaluation, evaluate
from .interrupt import Interrupted
from .loop import CHECKPOINT, METRICS, Outcome, check_folder, train
from .measures import NeuralCollapse
from .objective import Objective
from .observers import Bar, Observer, Place, read_metrics
from .processes import accelerator_for
from .run import Diverged, Run
from .tally import Tally

__all__ = [
    "CHECKPOINT",
    "METRICS",
    "Bar",
    "Checkpoint",
    "CheckpointError",
    "Diverged",
    "Evaluation",
    "Interrupted",
    "NeuralCollapse",
    "Objective",
    "Observer",
    "Outcome",
    "Place",
    "Run",
    "SmoothTraining",
    "Tally",
    "TrainConfig",
    "accelerator_for",
    "check_folder",
    "evaluate",
    "load_checkpoint",
    "read_metrics",
    "save_checkpoint",
    "train",
]
