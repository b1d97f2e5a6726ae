"""What the DistilBERT paper claims, as the bounds that a run is judged by.

Source: Sanh, Debut, Chaumond, Wolf 2019, arXiv:1910.01108, abstract and tables 1 and 3.
"""

from __future__ import annotations

# "60% faster". The paper's own row, 668 s / 410 s, is 1.63.
SPEED_RATIO = 1.6
SPEED_ROW = "BERT-base 668 s, DistilBERT 410 s: 1.63 times (STS-B on CPU, batch 1)"
# "40% smaller" is 110M → 66M in the paper's round figures; the same two encoders counted to the parameter are 39.1%
# apart. 0.39 lets the paper's own pair pass.
PARAMETERS_SAVED = 0.39
SIZE_ROW = "110M → 66M parameters: 40% fewer"
# "97% of its language understanding capabilities": 77.0 / 79.5 of GLUE's macro-score. That is 96.9%: the bound is what
# the claim says all the same, for the scores themselves are rounded (79.7 by the mean of BERT's nine).
RETENTION = 0.97
