"""A LangGraph checkpointer that keeps its checkpoints in checkpoint-backend, over HTTP."""

from langgraph_checkpoint_http._errors import (
    CheckpointBackendError,
    CheckpointMismatchError,
    CheckpointProblemError,
    CheckpointUnavailableError,
    OtherLanguageError,
    UnstorableValueError,
)
from langgraph_checkpoint_http._saver import HttpCheckpointSaver, create_checkpointer

__all__ = [
    "CheckpointBackendError",
    "CheckpointMismatchError",
    "CheckpointProblemError",
    "CheckpointUnavailableError",
    "HttpCheckpointSaver",
    "OtherLanguageError",
    "UnstorableValueError",
    "create_checkpointer",
]
