"""A frozen CLIP that every process of a job has loaded, so that all of them encode prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.parallel.rank_calls import Shared
from negprompt_cli.engine.parallel.sharded_prompts import ShardedPromptEncoder
from negprompt_cli.engine.prompt_learners.prompt_encoder import Encoder
from negprompt_cli.engine.prompt_learners.tokens import tokenize_prompts


@dataclass(frozen=True)
class SharedClip(Clip):
    """Rank 0's CLIP, used like any other `Clip`; `shared` is the same model on the other ranks."""

    shared: Shared

    @classmethod
    def of(cls, clip: Clip, shared: Shared) -> "SharedClip":
        """Combine rank 0's model with the same model on the other ranks."""
        return cls(**{f.name: getattr(clip, f.name) for f in fields(Clip)}, shared=shared)

    def prompt_encoder(
        self,
        names: Sequence[str],
        *,
        context: int,
        budget: int,
        template: str = "{}.",
        notice: Callable[[str], None] | None = None,
    ) -> Encoder:
        """Make an encoder like that of `Clip.prompt_encoder`, with its classes distributed among the ranks."""
        tokens = tokenize_prompts(names, self.tokenizer, self.plan, context=context, template=template)
        return ShardedPromptEncoder(self.shared, tokens, self.encoder_of, budget=budget, notice=notice)
