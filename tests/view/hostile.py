"""A view in which every string is an attempt to break out of a page."""

from mlgraph.program.families import Family
from mlgraph.view.diagram import Box, Branch, Diagram, Edge, Tensor, Token, View

ATTACKS = (
    '</script><script>alert("1")</script>',
    "<img src=x onerror=alert(2)>",
    '"><svg onload=alert(3)>',
    "' onmouseover='alert(4)",
    "]]><!--</style></title></text></svg><iframe>",
    "\x00\x08\ud800 &amp; &#x3c;b&#x3e; \u2028",
)


def hostile_view(attack: str) -> View:
    """Two boxes, an edge, an axis and a note, all called ``attack``."""
    dim = (Token(attack, 0),)
    tensor = Tensor(attack, (dim, dim), (4, 4), attack, shared=(attack,))
    boxes = (
        Box("a", "linear", attack, attack, attack, (tensor,), (attack,), (attack,), (dim,), (4,)),
        Box(attack, "chain", attack, result=(dim,), shape=(4,), repeat=2),
        Box("c", "side", attack, result=(dim,)),
    )
    edges = (
        Edge("a", attack, (dim,), (4,), (0,), (attack,)),
        Edge("c", attack, (dim,), (4,), (0,)),
    )
    diagram = Diagram(attack, boxes, edges, repeat=2)
    families = (Family(attack, 4, (attack,), 1, "frozen", attack, attack),)
    slots = (((attack, 0, attack),),)
    modules = Branch(attack, "", (), (Branch(attack, attack, (tensor,), repeat=2),))
    return View(attack, 7, diagram, {attack: diagram}, families, slots, modules, (attack,), (attack,))
