"""Claims of the DistilBERT paper, as the bounds that a run is compared with.

One rule for all three: a claim holds from the figure that the paper states, or from the figure that
its own pair of models reaches in the same quantity, whichever is lower. So the paper's pair passes.

Source: Sanh, Debut, Chaumond, Wolf 2019, arXiv:1910.01108, abstract and tables 1 and 3.
"""

from __future__ import annotations

import math

# Parameters of the encoders, without heads and pooler, counted on models with random weights.
BERT_ENCODER_PARAMETERS = 108_891_648
DISTILBERT_ENCODER_PARAMETERS = 66_362_880
# Macro-scores of GLUE (table 1).
BERT_MACRO_SCORE = 0.795
DISTILBERT_MACRO_SCORE = 0.770
# Seconds for STS-B's dev set on a CPU, batch 1 (table 3).
BERT_SECONDS = 668
DISTILBERT_SECONDS = 410


def parameters_saved(teacher: int, student: int) -> float:
    """Returns the share of the teacher's parameters that the student does not have."""
    return 1 - student / teacher


def _bound(stated: float, own_pair: float) -> float:
    """Returns the lower of a claim and its pair's figure, cut to three decimals."""
    return min(stated, math.floor(1000 * own_pair) / 1000)


# "60% faster": teacher's time / student's time. The paper's own times have the ratio 1.63.
SPEED_RATIO = _bound(1.6, BERT_SECONDS / DISTILBERT_SECONDS)
SPEED_ROW = "BERT-base 668 s, DistilBERT 410 s: 1.63 times (STS-B on CPU, batch 1)"

# "40% smaller" is 110M → 66M in rounded figures; the two encoders differ by 39.06%.
PARAMETERS_SAVED = _bound(
    0.40, parameters_saved(BERT_ENCODER_PARAMETERS, DISTILBERT_ENCODER_PARAMETERS)
)
SIZE_ROW = "110M → 66M parameters: 40% fewer; 39.1% counted on the encoders"

# "97% of its language understanding capabilities": the macro-scores have the ratio 96.86%.
RETENTION = _bound(0.97, DISTILBERT_MACRO_SCORE / BERT_MACRO_SCORE)
RETENTION_ROW = "GLUE macro-scores 77.0 and 79.5: 96.9%"
