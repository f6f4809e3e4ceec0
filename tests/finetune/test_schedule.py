"""Which list comes when."""

from __future__ import annotations

from rerank.finetune.labels.lists import TrainingList
from rerank.finetune.trainer.schedule import ListSchedule
from rerank.types import Document, Query


def lists(count: int, documents: int = 6) -> list[TrainingList]:
    docs = tuple(Document(id=f"d{at}") for at in range(documents))
    order = tuple(reversed(range(documents)))
    return [
        TrainingList(query=Query(id=f"q{at}"), docs=docs, order=order, scores=tuple(range(6))) for at in range(count)
    ]


def schedule(**changes: object) -> ListSchedule:
    given = {"lists": lists(4), "length": 12, "documents": 3, "shuffle": False, "seed": 1, **changes}
    return ListSchedule(**given)  # type: ignore[arg-type]


def test_every_list_once_an_epoch() -> None:
    made = schedule()
    epochs = [[made[at].query.id for at in range(start, start + 4)] for start in (0, 4, 8)]
    assert all(sorted(epoch) == ["q0", "q1", "q2", "q3"] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_place_is_the_same_whenever_it_is_asked_for() -> None:
    assert [schedule(shuffle=True)[at] for at in (7, 2)] == [schedule(shuffle=True)[at] for at in (2, 7)][::-1]


def test_lists_are_cut_anew_and_labels_keep_their_order() -> None:
    cuts = [schedule(length=100)[at] for at in range(100)]
    assert {len(one) for one in cuts} == {3}
    assert len({one.docs for one in cuts}) > 10
    for one in cuts:
        labelled = [one.docs[at].id for at in one.order]
        assert labelled == sorted(labelled, reverse=True)
        assert [doc.id for doc in one.docs] == sorted(doc.id for doc in one.docs), "shown as the first stage has them"
        assert [one.scores[at] for at in one.order] == sorted(one.scores, reverse=True)


def test_shuffled_lists_are_shown_in_other_orders() -> None:
    shown = [[doc.id for doc in schedule(documents=6, shuffle=True)[at].docs] for at in range(4)]
    assert any(one != sorted(one) for one in shown)


def test_another_seed_is_another_order() -> None:
    one, other = (schedule(seed=seed, length=40) for seed in (1, 2))
    assert [one[at].query.id for at in range(40)] != [other[at].query.id for at in range(40)]


def test_the_best_and_the_hard_documents_are_in_every_sample() -> None:
    docs = tuple(Document(id=f"d{at}") for at in range(8))
    # d0 falls from rank 1 to 8 and d2 from 3 to 7; d6 and d7 are the best.
    one = TrainingList(query=Query(id="q"), docs=docs, order=(7, 6, 1, 3, 4, 5, 2, 0))
    cuts = [schedule(lists=[one], documents=5, best=2, hard=2, length=50)[at] for at in range(50)]
    assert all({"d7", "d6", "d0", "d2"} <= {doc.id for doc in cut.docs} for cut in cuts)
    assert all(len(cut) == 5 for cut in cuts)
    assert {doc.id for cut in cuts for doc in cut.docs} == {doc.id for doc in docs}


def test_a_sample_may_consist_of_kept_documents_and_short_lists_are_whole() -> None:
    cuts = [schedule(documents=3, best=2, hard=1)[at] for at in range(12)]
    assert {tuple(doc.id for doc in cut.docs) for cut in cuts} == {("d0", "d4", "d5")}
    assert len(schedule(documents=9, best=2, hard=2)[0]) == 6


def test_samples_without_kept_documents_are_those_of_earlier_versions() -> None:
    assert [[doc.id for doc in schedule(shuffle=True)[at].docs] for at in range(3)] == [
        ["d5", "d2", "d4"],
        ["d3", "d5", "d1"],
        ["d2", "d4", "d3"],
    ]
