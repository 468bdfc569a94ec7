"""Every error that alignkit raises on purpose. Each message is one line: what, where, got, wanted, and the cure."""


class AlignkitError(Exception):
    """Base of all expected failures; the command line prints its message on one line and exits with `exit_code`."""

    exit_code = 2


class RecipeError(AlignkitError, ValueError):
    """A recipe cannot be used. `problems` holds one located line per mistake; all are found before anything starts."""

    def __init__(self, problems: str | list[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class ContentError(AlignkitError, LookupError):
    """A name (recipe, reward, algorithm, launch profile) was not found, or the file behind it does not define it."""


class DataError(AlignkitError, ValueError):
    """A dataset or a row of it cannot be used."""


class NothingLeft(DataError):
    """Of rows that can all be read none can be learnt from."""


class RewardError(AlignkitError, RuntimeError):
    """A reward broke its contract (wrong count of scores, NaN) in a way that the recipe's policy does not allow."""


class EpisodeError(AlignkitError, RuntimeError):
    """An environment was used out of its contract: started twice, stepped after its end, or made with bad options."""


class SandboxError(AlignkitError, RuntimeError):
    """Foreign code cannot be locked in here, or the sandbox failed; nothing is known about the code."""


class EngineError(AlignkitError, RuntimeError):
    """A rollout engine could not start, died, or answered out of contract."""


class SyncError(EngineError):
    """After a weight sync the engine does not compute what the trainer computes."""


class LayoutError(AlignkitError, ValueError):
    """Two layouts of weights do not fit each other, or one not its tensors: names, shapes or numbers are missing."""


class BatchError(AlignkitError, ValueError):
    """A batch lacks a column, holds a value it must not, or carries the wrong policy version."""


class CheckpointError(AlignkitError, RuntimeError):
    """A checkpoint is missing, damaged, does not fit the recipe, or could not be written."""


class ExportError(AlignkitError, RuntimeError):
    """What was exported does not say what the model says, or the target has no words for it."""


class SignatureError(AlignkitError, ValueError):
    """A folder has no signature, or not one of this key; or the key itself cannot be used."""


class HealthError(AlignkitError, RuntimeError):
    """A health rule stopped a run that was no longer learning or no longer numerically sound."""

    exit_code = 3


class StorageError(AlignkitError, OSError):
    """A file or folder cannot be used: the disk is full, nobody may write there, or another process is using it."""

    def __str__(self) -> str:
        return str(self.args[0])  # an OSError with a number would say that alone


def first_line(error: BaseException) -> str:
    """The first line of what another library's error says: two of a heading, its type where it is mute."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def on_one_line(error: BaseException, *, limit: int = 200) -> str:
    """All that another library's error says, on one line and at most `limit` characters; its type where it is mute."""
    return " ".join(str(error).split())[:limit] or type(error).__name__
