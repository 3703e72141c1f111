from importlib.metadata import EntryPoint

import pytest

from jetlit import registry
from jetlit.errors import UserError


@pytest.fixture
def table(monkeypatch):
    points = [EntryPoint("outside", "collections:OrderedDict", "jetlit.things")]
    monkeypatch.setattr(registry, "entry_points", lambda group: [p for p in points if p.group == group])
    return registry.Registry("thing", "jetlit.things")


def test_an_entry_is_found_by_its_name(table):
    @table.register("mine")
    class Mine:
        pass

    assert table["mine"] is Mine


def test_entry_points_of_other_packages_are_entries_too(table):
    from collections import OrderedDict

    table.register("mine")(dict)
    assert list(table) == ["mine", "outside"]
    assert table["outside"] is OrderedDict


def test_an_entry_point_does_not_replace_an_entry(table):
    table.register("outside")(list)
    assert table["outside"] is list


def test_a_name_is_taken_once(table):
    table.register("mine")(dict)
    table.register("mine")(dict)
    with pytest.raises(UserError, match="There is a thing 'mine' already"):
        table.register("mine")(list)


def test_an_unknown_name_is_refused_with_the_known_ones(table):
    table.register("mine")(dict)
    with pytest.raises(UserError, match="There is no thing 'yours': use one of mine, outside"):
        table.get_or_refuse("yours")
    with pytest.raises(KeyError):
        table["yours"]
