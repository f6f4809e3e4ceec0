"""Which list comes when."""

from __future__ import annotations

from rerank.finetune.labels.training_list import TrainingList
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
