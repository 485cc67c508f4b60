"""Whom a run tells how it goes."""


class RunProgress:
    """Is told how a run goes, and shows nothing of it; `nlpcl.cli.display.ProgressReporter` does."""

    def encoded(self, done: int, examples: int) -> None:
        """Show how far a frozen encoder is, which computes its token states once."""

    def start(self, tasks: list[str], epochs: list[int]) -> None:
        """Note what there is to train."""

    def epoch(self, task: int, epoch: int, loss: float, step: int, steps: int) -> None:
        """Show how far an epoch is; `step` of `steps` are done."""

    def evaluated(self, row: int, accuracies: list[float | None]) -> None:
        """Show the accuracy after a test over the tasks."""

    def say(self, sentence: str) -> None:
        """Show a sentence."""

    def stop(self) -> None:
        """Show nothing any more: the last task is over, or the run breaks off."""
