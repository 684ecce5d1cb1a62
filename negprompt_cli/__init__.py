"""negprompt: out-of-distribution detection with CLIP by learned negative prompts (NegPrompt, CVPR 2024).

Three layers, each ignorant of the one above it: `engine` (pure tensors), `data` (files in, features and artifacts
out; `steps` joins the two into the jobs a person asks for), `cli` (parse, call, print).

Conventions, said once for the whole package: a score is higher the more in-distribution (ID) an image is; ID is the
positive class; fractions, not per cent. Importing the package imports neither torch nor open_clip.
"""

__version__ = "0.1.0"
