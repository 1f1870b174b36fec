"""Graphs are recorded once a shape, by a thread that has run what it records, and give the same bits."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from diffuscope.models.text_encoder import TextEncoder
from diffuscope.perf import graphs
from diffuscope.perf.engine import Engine
from diffuscope.prompt.encoding import plain
from narrow import made
from recorded_graphs import Recorded


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@torch.no_grad()
def test_texts_are_read_from_a_graph_to_the_bit(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffuscope.perf.engine.Graphs", Recorded)
    pipe, engine = made(family), Engine(True)
    recorded = engine.text_graphs
    assert isinstance(recorded, Recorded)
    texts = [torch.randint(0, 1000, (2, 77), generator=torch.Generator().manual_seed(k)) for k in range(4)]

    def agree(encoder: TextEncoder, skip: int) -> None:
        for ids in texts:
            found, expected = engine.read_text(encoder, ids, None, skip), plain(encoder, ids, None, skip)
            assert all(map(torch.equal, found, expected))

    for _, encoder in pipe.components.towers:
        for skip in range(len(encoder.layer) - (encoder.config.states == "penultimate")):
            agree(encoder, skip)
    count, (_, encoder) = recorded.recorded, pipe.components.towers[-1]
    assert count >= len(pipe.components.towers)
    encoder.layer[0].mlp.fc1.weight.mul_(1.5)
    agree(encoder, 0)
    assert recorded.recorded == count + 1
    texts[-1][0, 5] = encoder.config.vocabulary
    encoder.added_embeddings = torch.randn(1, encoder.config.width)
    agree(encoder, 0)
    encoder.added_embeddings = torch.randn(1, encoder.config.width)
    agree(encoder, 0)
    assert recorded.recorded == count + 1  # embeddings are read before


def test_graphs_are_recorded_once_a_shape_and_bounded() -> None:
    recorded = Recorded()

    def run(rows: int, factor: list[Tensor]) -> Tensor:
        x = torch.arange(float(rows))
        found = recorded("sum", lambda new, kept: new[0] * kept[0], [x], factor)
        assert torch.equal(found, x * factor[0])
        return found

    two, three = [torch.tensor(2.0)], [torch.tensor(3.0)]
    first = run(3, two)
    assert recorded.recorded == 0  # the first call compiles
    second, third = run(3, two), run(3, three)
    assert recorded.recorded == 1
    assert torch.equal(first, second)
    assert not torch.equal(second, third)  # not the same memory
    for rows in range(10, 11 + graphs.GRAPHS):
        run(rows, two)
    run(3, two)
    assert recorded.recorded == 1  # forgotten: the shape is new again
    recorded.forget("sum")
    run(3, two)
    assert recorded.recorded == 1


def test_a_thread_records_only_what_it_has_run_itself() -> None:
    """cuBLAS prepares itself in the first product of a thread; within a recording that gave NaN in later calls."""
    recorded, x = Recorded(), torch.arange(3.0)

    def run() -> None:
        assert torch.equal(recorded("sum", lambda new, _: new[0] + 1, [x], []), x + 1)

    run()
    with ThreadPoolExecutor(1) as other:
        other.submit(run).result()
        assert recorded.recorded == 0
        run()
        assert recorded.recorded == 1
        other.submit(run).result()
        assert recorded.recorded == 1  # which any thread replays


def test_a_graph_that_cannot_be_recorded_costs_speed_only() -> None:
    class Failing(Recorded):
        def record(self, *_: object) -> graphs.Recording:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    failing = Failing()
    for _ in range(4):
        assert failing("name", lambda new, _: new[0] + 1, [torch.zeros(1)], []).item() == 1
    assert failing.failure == "CUDA out of memory."
    engine = Engine(True)
    engine.graphs = failing
    assert engine.notes == ["no CUDA graph could be recorded (CUDA out of memory.); the networks run without"]
