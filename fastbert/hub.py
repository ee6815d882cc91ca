"""What the hub's errors come down to, for whoever asks it for files."""

from __future__ import annotations

from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError


def hub_failure(error: BaseException) -> str:
    """One clause, with what the innermost error says, which the hub's client wraps in advice."""
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such repository that can be read"
    answered = isinstance(error, HfHubHTTPError) and not isinstance(error, LocalEntryNotFoundError)
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    return f"the hub {'refused it' if answered else 'cannot be reached'} ({reason})"
