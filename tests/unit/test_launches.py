"""What launches of many runs stand on."""

from tests.support.runs import free_port


def test_a_port_is_given_once() -> None:
    # Drawn anew each time, one of ten suites of 64 runs had a port twice: a run waited in the store of an earlier one.
    given = [free_port() for _ in range(500)]
    assert len(set(given)) == len(given)
