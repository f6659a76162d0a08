"""Importers: small folders in the layout of the data sets."""

import json
import zipfile

import numpy as np
import pytest

from ariel_jax.algorithms.ariel import importers
from ariel_jax.errors import ConfigError, IntegrityError


@pytest.fixture
def permissions(tmp_path):
    def row(number, **answers):
        return {"query": "?", "id": number, "answer": answers}

    yes, no = "Yes, always share", "No, never share"
    users = {
        "P1": {"training": [row(0, **{"Bank,Name, full": yes, "Bank,Age": no})], "testing": [row(1, **{"Mail,Age": yes})]},
        "P2": {"training": [row(1, **{"Mail,Sex": no})], "testing": []},
    }  # fmt: skip
    study = [
        {"uuid": "P1", "task3": [row(0, **{"Bank,Age": "No, but ask me next time", "Bank,Sex": yes}), row(1, **{"Mail,Age": "Yes, but ask me next time"})]},
        {"uuid": "left out", "task3": [row(0, **{"Bank,Age": yes})]},
    ]  # fmt: skip
    fields = ("data_tool1", "data_tool2", "data_MIRA", "data_incorrect")
    queries = [
        {"id": 0, "domain": "Finance"}
        | dict(zip(fields, ("Name, full", "", "", "Age"), strict=True)),
        {"id": 1, "domain": "Mail"} | dict(zip(fields, ("", "", "Age", ""), strict=True)),
    ]
    for name, value in (("processed_dataset", users), ("user_study", study), ("queries", queries)):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    return tmp_path


def test_permissions_are_split_at_the_first_comma(permissions):
    table = importers.known(permissions)(permissions)
    assert table.slots == importers.PERMISSION_SLOTS
    rows = [tuple(n[i] for n, i in zip(table.names, row, strict=True)) for row in table.nodes]
    assert rows == [
        ("Name, full", "Bank", "0", "Finance", "needed"),
        ("Age", "Bank", "0", "Finance", "unneeded"),
        ("Age", "Mail", "1", "Mail", "needed"),
        ("Sex", "Mail", "1", "Mail", "unknown"),
    ]
    assert table.user.tolist() == [0, 0, 0, 1]
    assert table.label.tolist() == [1, 0, 1, 0]
    assert table.is_test.tolist() == [False, False, True, False]
    assert (table.n_users, table.sizes) == (2, (3, 2, 2, 2, 3))
    assert table.take(table.is_test).label.tolist() == [1]


def test_four_way_answers_say_who_wants_to_be_asked(permissions):
    table = importers.agent_permissions(permissions, four_way=True)
    assert table.label.tolist() == [importers.ASKS, importers.APPROPRIATE, importers.ASKS]
    assert table.leans.tolist() == [0, 1, 1]
    assert table.is_test.tolist() == [False, False, True]
    assert table.n_users == 1


@pytest.fixture(params=["zip", "folder"])
def education(tmp_path, request):
    (tmp_path / "survey_questions.csv").write_text(
        "Num,QText,Sender,Recipient,Attribute,Subject,TP\n"
        "7,?,TA,parents,grades,student,1\n8,?,TA,parents,photo,student,5\n9,?,librarian,TA,name,student,2\n"
    )
    text = '"",V1,X7,X8,X9\n"",?,?,?,?\n1,a,1,2,4\n2,b,1,,1\n3,c,2,1,1\n'
    if request.param == "zip":
        with zipfile.ZipFile(tmp_path / "surveys.zip", "w") as packed:
            packed.writestr("survey_1.csv", text)
    else:
        (tmp_path / "survey_1.csv").write_text(text)
    return tmp_path


def test_education_keeps_yes_and_no_of_those_who_answered(education):
    assert importers.known(education) is importers.education
    table = importers.education(education, least_answers=3, least_judged=2)
    names = [tuple(n[i] for n, i in zip(table.names, row, strict=True)) for row in table.nodes]
    assert names[0] == ("grades", "parents", "TA", "1")
    assert names[1] == ("photo", "parents", "TA", "5")
    assert table.label.tolist() == [1, 0, 0, 1, 1]  # the 4 of the first is no judgement
    assert table.user.tolist() == [0, 0, 1, 1, 1]
    assert table.nodes.dtype == np.int32
    assert not table.is_test.any()


def test_what_is_missing_or_another_thing_is_said(permissions, tmp_path):
    with pytest.raises(ConfigError, match="no data set that is known"):
        importers.known(tmp_path / "nothing")
    (permissions / "user_study.json").unlink()
    with pytest.raises(ConfigError, match=r"has no user_study\.json"):
        importers.agent_permissions(permissions, four_way=True)
    (permissions / "processed_dataset.json").write_text('{"P1": {"training": [{"id": 0}]}}')
    with pytest.raises(IntegrityError, match="not laid out"):
        importers.agent_permissions(permissions)
    (permissions / "processed_dataset.json").write_text("{")
    with pytest.raises(IntegrityError, match="is not JSON"):
        importers.agent_permissions(permissions)


def test_education_without_surveys_is_refused(education):
    for path in education.glob("survey*"):
        if path.name != "survey_questions.csv":
            path.unlink()
    with pytest.raises(ConfigError, match=r"neither surveys\.zip"):
        importers.education(education)
