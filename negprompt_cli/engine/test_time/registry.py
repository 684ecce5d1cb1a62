"""The table of test-time scores; importing it needs no torch."""

from negprompt_cli.engine.scores.registry import Score, table

TEST_TIME_SCORES = table(
    Score(
        name="adaneg",
        title="NegLabel plus NegLabel with names and words adapted to test images",
        formula="neglabel(f) + 0.1 neglabel with each name and word replaced by a mean of it and of the test images "
        "stored with it, weighted by exp(-5.5 (1 - cosine with f))",
        paper="Zhang and Zhang, AdaNeg: adaptive negative proxy guided OOD detection with vision-language models, "
        "NeurIPS 2024",
        url="https://openreview.net/forum?id=vS5NC7jtCI",
        requires=("zero_shot", "words"),
        function="test_time.adaneg:adaneg",
    ),
    Score(
        name="tanl",
        title="NegLabel with the words that suspected OOD images activate",
        formula="mean over m of neglabel(f) with the first m words, ranked by their mean probability for suspected "
        "OOD images minus that for suspected ID images",
        paper="Zhang et al., Activation matters: test-time activated negative labels for OOD detection with "
        "vision-language models, CVPR 2026",
        url="https://arxiv.org/abs/2603.25250",
        requires=("zero_shot", "words"),
        function="test_time.tanl:tanl",
    ),
)
