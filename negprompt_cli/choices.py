"""The allowed values of settings with a few choices, for the configuration, the code and the command line."""

from typing import Literal

OnError = Literal["stop", "skip"]
"""Whether a broken image stops a job or is skipped."""
Decoder = Literal["pil", "torchcodec"]
"""What decodes JPEGs."""
Precision = Literal["auto", "fp32", "bf16", "fp16"]
"""Number format in which the image encoder computes."""
KeptEpoch = Literal["last", "best"]
"""Which epoch of a training is kept."""
FprConvention = Literal["id-positive", "ood-positive"]
"""Which class is the positive one in FPR95."""
MapKind = Literal["tsne", "pca"]
"""Method of the map of images and prompts."""
Runtime = Literal["torch", "onnx"]
"""What runs the image encoder."""
