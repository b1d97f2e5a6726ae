"""The report of a run: tables, plots and verdicts from the records of all stages.

`load` reads the records. The `*_tables` modules turn records into tables, `plots` into SVG, and
`verdicts` into the paper's three claims. `sections` arranges them; `page` renders HTML, `text`
Markdown and JSON, and `terminal` prints. The same table objects go to every output, so the outputs
cannot differ.

May import `core` only, and matplotlib when a plot is drawn.
"""
