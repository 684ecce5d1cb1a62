"""The identity of a CLIP model. It needs no torch, so exported detectors can read theirs without it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelIdentity:
    """The identity of a model, as written into artifacts and results.

    `weights_sha256` is a digest of all parameters and buffers, so equal weights have one identity in any file or folder.
    """

    name: str
    pretrained: str | None
    weights_sha256: str

    def __str__(self) -> str:
        tag = f" {self.pretrained}" if self.pretrained else ""
        return f"{self.name}{tag} (weights {self.weights_sha256[:12]})"
