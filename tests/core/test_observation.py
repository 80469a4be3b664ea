"""What makes a window broken, from plain values."""

from tasks.core.observation import definition_faults


def test_feature_sql_that_is_another_one_or_gone_is_a_fault_and_a_new_one_is_none():
    then = {"pumps/recent.sql": "a", "pumps/load.sql": "b"}
    assert definition_faults(then, then | {"pumps/new.sql": "c"}) == ()
    changed, gone = definition_faults(then, {"pumps/recent.sql": "z"})
    assert changed.startswith("pumps/recent.sql: the features of the champion are calculated otherwise")
    assert gone.startswith("pumps/load.sql: the champion's features have no definition")
