import threading
from concurrent.futures import CancelledError

import pytest

from rollout.serving.failures import QueueFullError
from rollout.serving.work_queue import WorkQueue


@pytest.fixture
def gate():
    return threading.Event()


@pytest.fixture
def make_queue(gate):
    made = []

    def make(limit):
        made.append(WorkQueue(limit=limit))
        return made[-1]

    yield make
    gate.set()
    for queue in made:
        queue.close()


def _block(queue, gate):
    """Occupy the worker until the gate opens, and return once it runs."""
    running = threading.Event()

    def work(_cancelled):
        running.set()
        gate.wait(30)

    ticket = queue.submit(work)
    assert running.wait(30)
    return ticket


def test_work_runs_in_the_order_of_submission(make_queue, gate):
    queue, order = make_queue(10), []
    _block(queue, gate)
    tickets = [queue.submit(lambda _c, i=i: order.append(i)) for i in range(5)]
    gate.set()
    for ticket in tickets:
        ticket.future.result(timeout=30)
    assert order == [0, 1, 2, 3, 4]


def test_work_beyond_the_limit_is_refused_and_room_opens_again(make_queue, gate):
    queue = make_queue(2)
    _block(queue, gate)
    waiting = [queue.submit(lambda _c: None) for _ in range(2)]
    assert queue.depth == 2
    with pytest.raises(QueueFullError):
        queue.submit(lambda _c: None)
    waiting[0].cancel()
    queue.submit(lambda _c: None)


def test_waiting_work_that_is_cancelled_never_runs(make_queue, gate):
    queue, ran = make_queue(5), []
    _block(queue, gate)
    ticket = queue.submit(lambda _c: ran.append(1))
    ticket.cancel()
    gate.set()
    queue.submit(lambda _c: None).future.result(timeout=30)
    assert ran == []
    with pytest.raises(CancelledError):
        ticket.future.result(timeout=30)


def test_running_work_is_told_that_it_was_cancelled(make_queue):
    queue, running = make_queue(5), threading.Event()

    def work(cancelled):
        running.set()
        return cancelled.wait(30)

    ticket = queue.submit(work)
    assert running.wait(30)
    ticket.cancel()
    assert ticket.future.result(timeout=30) is True


def test_failed_work_leaves_room(make_queue):
    queue = make_queue(0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            queue.submit(lambda _c: 1 / 0).future.result(timeout=30)
        queue.submit(lambda _c: None).future.result(timeout=30)
