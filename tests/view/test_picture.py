"""Layout of random diagrams: nothing overlaps and no line runs through a box."""

from itertools import combinations, pairwise

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlgraph.view.diagram import Box, Diagram, Edge
from mlgraph.view.layering import layered, ranks
from mlgraph.view.picture import arrange, spaced

KINDS = ("linear", "norm", "add", "attention", "side")


@st.composite
def diagrams(draw):
    """A connected diagram without circles; boxes of the kind ``side`` are sources."""
    count = draw(st.integers(2, 14))
    kinds = [draw(st.sampled_from(KINDS)) for _ in range(count)]
    boxes = [Box(f"b{n}", kind, draw(st.text("abcdefgh_.", max_size=24))) for n, kind in enumerate(kinds)]
    edges = {}
    for target in range(1, count):
        for source in draw(st.sets(st.integers(0, target - 1), min_size=1, max_size=3)):
            if kinds[target] != "side":
                families = tuple(range(draw(st.integers(0, 3))))
                edges[source, target] = Edge(f"b{source}", f"b{target}", families=families)
    return Diagram("random", tuple(boxes), tuple(edges.values()))


def total(diagram, rank):
    return sum(rank[edge.target] - rank[edge.source] for edge in diagram.edges)


@given(diagrams())
def test_edges_lead_down_and_are_no_longer_than_by_longest_paths(diagram):
    rank = ranks(diagram)
    graph = nx.DiGraph((edge.source, edge.target) for edge in diagram.edges)
    graph.add_nodes_from(box.id for box in diagram.boxes)
    longest = {id: n for n, layer in enumerate(nx.topological_generations(graph)) for id in layer}
    assert all(rank[edge.source] < rank[edge.target] for edge in diagram.edges)
    assert min(rank.values()) == 0
    assert total(diagram, rank) <= total(diagram, longest)


def test_a_source_stands_right_above_its_only_reader():
    ends = [Edge("a", "b"), Edge("b", "c"), Edge("c", "d"), Edge("s", "d")]
    diagram = Diagram("", tuple(Box(id, "linear", id) for id in "abcds"), tuple(ends))
    assert ranks(diagram) == {"a": 0, "b": 1, "c": 2, "d": 3, "s": 2}


def test_an_edge_that_closes_a_circle_leads_up_beside_the_others():
    boxes = tuple(Box(id, "linear", id) for id in "abc")
    picture = arrange(Diagram("", boxes, (Edge("a", "b"), Edge("b", "c"), Edge("c", "b"))))
    upwards = [route for route in picture.routes if route.points[0][1] > route.points[-1][1]]
    assert len(upwards) == 1
    assert max(x for x, _ in upwards[0].points) > max(one.x + one.width / 2 for one in picture.boxes)


def test_a_side_input_is_drawn_beside_each_of_its_distant_readers():
    boxes = (*(Box(id, "linear", id) for id in "abcd"), Box("mask", "side", "mask"))
    chain = [Edge(a, b) for a, b in pairwise("abcd")]
    diagram = Diagram("", boxes, (*chain, Edge("mask", "b"), Edge("mask", "d")))
    found = layered(diagram)
    copies = [box.id for box in found.diagram.boxes if box.title == "mask"]
    assert sorted(found.rank[id] for id in copies) == [0, 2]


def test_an_edge_past_other_boxes_is_led_around_them():
    boxes = tuple(Box(id, "linear" if id != "d" else "add", id * 9) for id in "abcd")
    edges = (*(Edge(a, b) for a, b in pairwise("abcd")), Edge("a", "d"))
    picture = arrange(Diagram("", boxes, edges))
    lane = max(x for x, _ in picture.routes[3].points)
    assert all(lane > placed.x + placed.width / 2 for placed in picture.boxes)
    assert [x for x, _ in picture.routes[0].points] == [picture.boxes[0].x] * 2


def test_many_edges_enter_a_narrow_box_within_it():
    above = [f"a{n}" for n in range(12)]
    boxes = tuple(Box(id, "linear", "") for id in (*above, "below"))
    picture = arrange(Diagram("", boxes, tuple(Edge(id, "below") for id in above)))
    below = next(placed for placed in picture.boxes if placed.box.id == "below")
    ports = [route.points[-1][0] for route in picture.routes]
    assert len(set(ports)) == 12
    assert all(abs(x - below.x) <= below.width / 2 for x in ports)


def test_boxes_without_edges_stand_side_by_side():
    picture = arrange(Diagram("", (Box("a", "linear", "a"), Box("b", "side", "b")), ()))
    assert [placed.box.id for placed in picture.boxes] == ["a", "b"]
    assert len({placed.y for placed in picture.boxes}) == 1


def test_an_empty_diagram_is_an_empty_picture():
    assert arrange(Diagram("", (), ())).boxes == ()


@given(diagrams())
def test_boxes_do_not_overlap_and_lie_inside(diagram):
    picture = arrange(diagram)
    for one in picture.boxes:
        assert one.x - one.width / 2 >= 0
        assert one.x + one.width / 2 <= picture.width
        assert one.y - one.height / 2 >= 0
        assert one.y + one.height / 2 <= picture.height
    for one, other in combinations(picture.boxes, 2):
        apart_x = abs(one.x - other.x) >= (one.width + other.width) / 2
        apart_y = abs(one.y - other.y) >= (one.height + other.height) / 2
        assert apart_x or apart_y


@given(diagrams())
def test_lines_are_upright_join_their_boxes_and_cross_no_other(diagram):
    picture = arrange(diagram)
    boxes = {placed.box.id: placed for placed in picture.boxes}
    for route in picture.routes:
        source, target = boxes[route.edge.source], boxes[route.edge.target]
        assert route.points[0] == pytest.approx((source.x, source.y + source.height / 2))
        assert abs(route.points[-1][0] - target.x) <= target.width / 2 + 0.01
        assert abs(route.points[-1][1] - target.y) <= target.height / 2 + 0.01
        for (ax, ay), (bx, by) in pairwise(route.points):
            assert abs(ax - bx) < 0.01 or abs(ay - by) < 0.01
            for placed in picture.boxes:
                if placed in (source, target):
                    continue
                beside = (
                    max(ax, bx) <= placed.x - placed.width / 2 or min(ax, bx) >= placed.x + placed.width / 2
                )
                above = (
                    max(ay, by) <= placed.y - placed.height / 2 or min(ay, by) >= placed.y + placed.height / 2
                )
                assert beside or above


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(0.1, 9), st.floats(0, 20)), min_size=1, max_size=8))
def test_spacing_keeps_the_order_and_moves_as_little_as_it_can(drawn):
    wanted, weights = [w for w, _, _ in drawn], [w for _, w, _ in drawn]
    apart = [d for _, _, d in drawn[1:]]
    found = spaced(wanted, weights, apart)

    def cost(positions):
        return sum(w * (x - y) ** 2 for w, x, y in zip(weights, positions, wanted, strict=True))

    assert all(b - a >= d - 1e-6 for (a, b), d in zip(pairwise(found), apart, strict=True))
    for first in range(len(found)):
        for last in range(first + 1, len(found) + 1):
            for step in (-0.01, 0.01):
                moved = [x + step * (first <= n < last) for n, x in enumerate(found)]
                if all(b - a >= d for (a, b), d in zip(pairwise(moved), apart, strict=True)):
                    assert cost(moved) >= cost(found) - 1e-6
