"""Embedding goes in batches and windows; a changed model takes over only when its set is complete."""

from __future__ import annotations

import numpy as np
import pytest

from afterword.errors import EmbedderUnavailable
from afterword.lanes import embed_job, reembed_job
from afterword.plan import Plan, Progress, ServeModel, StoreVectors
from afterword.project import STEPS, decide_embed, decide_reembed
from afterword.records import Ref
from afterword.testing import HashingEmbedder, hashed_vector
from tests.fake_reads import SCOPE, FakeReads, desk, job

EMBED = job(embed_job(SCOPE))
REEMBED = job(reembed_job(SCOPE, {"run_id": "r1"}))
NEW = HashingEmbedder(model="new")


def lacking(count: int, *, model: str | None = None) -> FakeReads:
    return FakeReads(texts=[(Ref(f"m{n}", 1), f"text number {n}") for n in range(count)], model=model)


def stored(plan: Plan) -> list[StoreVectors]:
    return [change for change in plan.changes if isinstance(change, StoreVectors)]


def test_both_kinds_of_work_are_steps() -> None:
    assert [step.kind for step in STEPS] == ["embed", "reembed"]


async def test_what_lacks_vectors_gets_them_and_the_first_model_serves() -> None:
    plan = await decide_embed(EMBED, desk(lacking(3), embedder=NEW))
    assert plan.changes[0] == ServeModel("new")
    assert [change.ref.record for change in stored(plan)] == ["m0", "m1", "m2"]
    np.testing.assert_allclose(stored(plan)[1].vectors, [hashed_vector("text number 1")], atol=1e-6)
    assert plan.jobs == ()


async def test_a_batch_is_bounded_and_the_rest_gets_a_job_of_its_own() -> None:
    plan = await decide_embed(EMBED, desk(lacking(70, model="new"), embedder=NEW))
    assert len(stored(plan)) == 64
    assert [new.kind for new in plan.jobs] == ["embed"]


async def test_a_long_text_gets_one_vector_a_window_at_most_sixteen() -> None:
    short = HashingEmbedder(model="new", max_tokens=40)
    texts = [(Ref("long", 1), "Ann: " + "One more thing was said here. " * 300), (Ref("short", 1), "hello")]
    plan = await decide_embed(EMBED, desk(FakeReads(texts=texts, model="new"), embedder=short))
    assert [change.vectors.shape[0] for change in stored(plan)] == [16, 1]


async def test_many_long_texts_do_not_make_one_long_call() -> None:
    short = HashingEmbedder(model="new", max_tokens=40)
    texts = [(Ref(f"m{n}", 1), "One more thing was said here. " * 300) for n in range(10)]
    plan = await decide_embed(EMBED, desk(FakeReads(texts=texts, model="new"), embedder=short))
    assert len(stored(plan)) == 4
    assert [new.kind for new in plan.jobs] == ["embed"]


async def test_while_another_model_serves_new_records_are_embedded_and_nothing_else_changes() -> None:
    plan = await decide_embed(EMBED, desk(lacking(70, model="old"), embedder=NEW))
    assert len(stored(plan)) == 64
    assert not any(isinstance(change, ServeModel) for change in plan.changes)
    assert plan.jobs == ()


async def test_without_an_embedder_there_is_nothing_to_do() -> None:
    assert (await decide_embed(EMBED, desk(lacking(3)))).changes == ()
    (end,) = (await decide_reembed(REEMBED, desk(lacking(3)))).changes
    assert isinstance(end, Progress)
    assert end.finished


async def test_a_new_model_serves_only_when_its_set_is_complete() -> None:
    reads = lacking(150, model="old")
    told: list[tuple[int, int, bool]] = []
    served: list[bool] = []
    work = REEMBED
    while True:
        plan = await decide_reembed(work, desk(reads, embedder=NEW))
        reads.embedded |= {(change.ref.record, change.model) for change in stored(plan)}
        told += [(c.done, c.total, c.finished) for c in plan.changes if isinstance(c, Progress)]
        served.append(ServeModel("new") in plan.changes)
        if not plan.jobs:
            break
        work = job(plan.jobs[0])
    assert told == [(64, 150, False), (128, 150, False), (150, 150, True)]
    assert served == [False, False, True]


async def test_an_outage_passes_through() -> None:
    away = HashingEmbedder(model="new")
    away.fail_with(EmbedderUnavailable("away"))
    with pytest.raises(EmbedderUnavailable):
        await decide_embed(EMBED, desk(lacking(1), embedder=away))
