"""Ctrl-C during a training."""

import os
import signal
import threading

import pytest

from boxwright.engine.interrupt import interruptible


@pytest.fixture(autouse=True)
def _a_terminals_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press():
    os.kill(os.getpid(), signal.SIGINT)


def test_the_interrupt_waits_for_a_safe_place(capfd):
    done = []
    with pytest.raises(KeyboardInterrupt), interruptible() as check:  # noqa: PT012
        check()
        press()
        done.append("step")
        check()
        done.append("next step")
    assert done == ["step"]
    assert "stopping after this step" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_one_takes_effect_at_once():
    with pytest.raises(KeyboardInterrupt), interruptible():  # noqa: PT012
        press()
        press()
        pytest.fail("went on")


def test_errors_that_follow_are_the_interrupt():
    with pytest.raises(KeyboardInterrupt), interruptible():  # noqa: PT012
        press()
        raise RuntimeError("a worker has gone")


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="disk"), interruptible():
        raise RuntimeError("disk")


def test_a_handler_of_the_callers_stays():
    def own(number, frame): ...

    signal.signal(signal.SIGINT, own)
    with interruptible() as check:
        assert signal.getsignal(signal.SIGINT) is own
        check()


def test_threads_leave_the_handler_alone():
    def body():
        with interruptible() as check:
            check()

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
