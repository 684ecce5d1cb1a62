"""How a stage trains by its configuration, and the messages about the end of a training."""

import math

from negprompt_cli.config import ScheduleConfig
from negprompt_cli.decisions import Decision
from negprompt_cli.engine.prompt_learners.training import SETTLED_OVER, Adam, FullBatch, Job, Method, Sgd, Trained
from negprompt_cli.progress import Progress


def method_of(config: ScheduleConfig) -> Method:
    """The engine's training method for a configuration."""
    if config.sgd:
        return Sgd(
            lr=config.sgd.lr,
            batch_size=config.sgd.batch_size,
            momentum=config.sgd.momentum,
            warmup=config.sgd.warmup,
            classes_per_step=config.classes_per_step,
        )
    return Adam(config.classes_per_step) if config.classes_per_step else FullBatch(config.tolerance)


def epochs_of(config: ScheduleConfig, *, images: int, classes: int) -> int:
    """The largest number of epochs for a configuration and these numbers of training images and classes."""
    if not config.sgd:
        return config.epochs
    groups = math.ceil(classes / config.classes_per_step) if config.classes_per_step else 1
    per_epoch = max(groups, math.ceil(images / config.sgd.batch_size))
    return max(config.epochs, math.ceil(config.sgd.min_steps / per_epoch))


def report_outcome(progress: Progress, stage: str, job: Job, trained: Trained) -> None:
    """Warn if a training ended with a higher loss than at its start, or before its loss settled."""
    last = min(SETTLED_OVER, job.epochs)
    facts = {"stage": stage, "start_loss": trained.start_loss, "end_loss": trained.end_loss, "epochs": job.epochs}
    if trained.end_loss > trained.start_loss:
        progress.decide(
            Decision(
                "training-above-start",
                f"The {stage} training ended with a higher loss ({trained.end_loss:.4f}) than it started with "
                f"({trained.start_loss:.4f}), so by this loss the prompts are worse than untrained ones. "
                + (
                    f"Its learning rate ({job.method.lr:g}) does not fit this model. Lower it, or remove "
                    f"{stage}.schedule.sgd: the default training needs no rate."
                    if isinstance(job.method, Sgd)
                    else f"Use more epochs ({stage}.schedule.epochs) or more classes per step."
                ),
                facts,
                warning=True,
            )
        )
    elif isinstance(job.method, FullBatch) and job.method.tolerance and trained.outcome == "epochs":
        progress.decide(
            Decision(
                "training-not-settled",
                f"The {stage} training ended after {job.epochs} epochs, the most allowed, before its loss settled: the last "
                f"{last} epochs still made more than {100 * job.method.tolerance:.1f} % of the total decrease. To train "
                f"longer, raise {stage}.schedule.epochs.",
                facts,
            )
        )
