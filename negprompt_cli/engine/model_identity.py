"""Which CLIP something was made with. No torch, so that exported detectors can name theirs too."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelIdentity:
    """What a model is, as written into artifacts and results.

    `weights_sha256`: digest of all parameters and buffers, so the same weights are the same model wherever the files are.
    """

    name: str
    pretrained: str | None
    weights_sha256: str

    def __str__(self) -> str:
        tag = f" {self.pretrained}" if self.pretrained else ""
        return f"{self.name}{tag} (weights {self.weights_sha256[:12]})"
