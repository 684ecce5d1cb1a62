"""A frozen CLIP that every process of a job has: all of them encode its prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from negprompt_cli.engine.clip import Clip
from negprompt_cli.engine.parallel.rank_calls import Shared
from negprompt_cli.engine.parallel.sharded_prompts import ShardedPromptEncoder
from negprompt_cli.engine.prompt_learners.prompt_encoder import Encoder
from negprompt_cli.engine.prompt_learners.tokens import tokenize_prompts


@dataclass(frozen=True)
class SharedClip(Clip):
    """Rank 0's CLIP, used like any other; `shared` is the same model on the other ranks."""

    shared: Shared

    @classmethod
    def of(cls, clip: Clip, shared: Shared) -> "SharedClip":
        """The model of rank 0 together with that of the others."""
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
        """The encoder that `Clip.prompt_encoder` makes, its classes shared out among the ranks."""
        tokens = tokenize_prompts(names, self.tokenizer, self.plan, context=context, template=template)
        return ShardedPromptEncoder(self.shared, tokens, self.encoder_of, budget=budget, notice=notice)
