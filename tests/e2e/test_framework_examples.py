"""The examples in clients/ that need a framework."""

import json
import re

import examples


def test_a_langchain_agent_looks_before_it_answers(server):
    printed = examples.python("langchain").run(server, "langchain_agent", server.model)
    titles = re.findall(r"=+ (\w+) Message =+", printed)
    assert titles == ["Human", "Ai", "Tool", "Ai"]
    city = re.search(r"city: (\w+)", printed).group(1)
    degrees = {"Bern": 4, "Oslo": -2, "Rome": 17}[city]
    assert f"Name: look_up_temperature\n\n{degrees} °C" in printed


def test_instructor_extracts_a_person(server):
    printed = examples.python("instructor").run(server, "instructor_extract", server.model)
    person = json.loads(printed)
    assert set(person) == {"name", "age", "city"}
    assert len(person["name"]) <= 20 and 0 <= person["age"] <= 130
