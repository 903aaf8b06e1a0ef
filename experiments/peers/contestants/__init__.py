"""The contestants: each module has `run(settings, ...) -> Result`, and raises `CannotRunError` where it cannot run."""
