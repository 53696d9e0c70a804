"""The environment of processes that train together, right and wrong."""

import pytest

from keras_transformer.cluster import ADDRESSES, PROCESS, PROCESSES, Cluster


def found(monkeypatch, *values):
    for name, value in zip((ADDRESSES, PROCESSES, PROCESS), values, strict=True):
        monkeypatch.setenv(name, value)
    return Cluster.from_environment()


def test_without_the_variables_a_process_is_alone(monkeypatch):
    assert found(monkeypatch, "", "", "") == Cluster(processes=1, index=0)


@pytest.mark.parametrize("addresses", ["10.0.0.1:9911", "10.0.0.1:9911, 10.0.0.2:9911"])
def test_the_first_address_is_where_processes_meet(monkeypatch, addresses):
    assert found(monkeypatch, addresses, "2", "1") == Cluster("10.0.0.1:9911", 2, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("", "2", "0"), r"JOB_ADDRESSES must be set where the others are.*HOST:PORT"),
        (("host:1", "", ""), r"NUM_PROCESSES and \w+PROCESS_ID must be set"),
        (("host:1", "2", "2"), r"PROCESS_ID must be an integer from 0 to below"),
        (("host:1", "two", "0"), r"PROCESS_ID must be an integer.*'two'"),
        (("host", "2", "0"), r"JOB_ADDRESSES must be HOST:PORT.*'host'"),
        ((":9911", "2", "0"), r"JOB_ADDRESSES must be HOST:PORT.*':9911'"),
        (("a:1,b:2,c:3", "2", "0"), r"JOB_ADDRESSES must be HOST:PORT"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch, values, message):
    with pytest.raises(ValueError, match=message):
        found(monkeypatch, *values)
