"""Block diagrams of programs: what the boxes are, where they lie, and how they are drawn, each apart.

``view`` folds a program's graph into diagrams; ``page`` draws them as an HTML page, ``svg`` as a file for
print.
"""

from mlgraph.view.fold import view
from mlgraph.view.html import page
from mlgraph.view.svg import svg

__all__ = ["page", "svg", "view"]
