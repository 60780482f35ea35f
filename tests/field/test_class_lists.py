"""Lists of class names as people have them: read in the order of the classes, or refused in a sentence."""

from __future__ import annotations

import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.field.colours import IMAGES, RIGHT, colour_config, colour_run

NAMES = ("3D printer", "tench, Tinca tinca", "blue")
ONE_LINE = json.dumps(NAMES)

LISTS = {
    "names": "\n".join(NAMES),
    "names with Windows' ends": "\r\n".join(NAMES) + "\r\n\r\n",
    "numbered": "0 3D printer\n1 tench, Tinca tinca\n2 blue\n",
    "numbered with colons": "0: 3D printer\n1: tench, Tinca tinca\n2: blue",
    "numbered with commas": "0,3D printer\n1,tench, Tinca tinca\n2,blue",
    "numbered in another order": "2 blue\n0 3D printer\n1 tench, Tinca tinca",
    "synset_words.txt": "n04004767 3D printer\nn01440764 tench, Tinca tinca\nn00000001 blue",
    "CSV": 'index,name\n0,3D printer\n1,"tench, Tinca tinca"\n2,blue\n',
    "CSV, names first": 'name,index\nblue,2\n"tench, Tinca tinca",1\n3D printer,0\n',
    "CSV with a WordNet id": 'wnid,index,name\nn3,2,blue\nn1,1,"tench, Tinca tinca"\nn2,0,3D printer\n',
    "CSV without a header": '0,3D printer\n1,"tench, Tinca tinca"\n2,blue',
    "semicolons": "class_id;class_name\n0;3D printer\n1;tench, Tinca tinca\n2;blue\n",
    "tabs": "id\tlabel\n0\t3D printer\n1\ttench, Tinca tinca\n2\tblue\n",
    "a JSON list": ONE_LINE,
    "a JSON list over lines": json.dumps(NAMES, indent=1),
    "a JSON index": json.dumps({str(place): name for place, name in enumerate(NAMES)}),
    # fchollet/deep-learning-models#44
    "imagenet_class_index.json": json.dumps({str(place): [f"n{place:08d}", name] for place, name in enumerate(NAMES)}),
    "class_indices of Keras": json.dumps({name: place for place, name in reversed(list(enumerate(NAMES)))}),
    "a Hugging Face config.json": json.dumps(
        {"model_type": "vit", "id2label": {str(place): name for place, name in enumerate(NAMES)}}
    ),
    "categories of COCO's kind": json.dumps([{"id": place, "name": name} for place, name in enumerate(NAMES)]),
    # The list that mlcommons/inference#550 points to.
    "a dictionary as Python prints it": "{0: '3D printer',\n 1: 'tench, Tinca tinca',\n 2: \"blue\"}",
}


def dataset(folder: pathlib.Path) -> str:
    columns = {"image": [image for _, image, _ in IMAGES], "label": [NAMES[label] for label in RIGHT]}
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return str(folder / "a.parquet")


@pytest.mark.quick_cases(every=21)
@pytest.mark.parametrize("kind", LISTS)
def test_a_list_of_names_is_read(kind: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = colour_run(capsys, colour_config(tmp_path, dataset(tmp_path), LISTS[kind]))
    assert (ran.code, ran.err) == (0, "")
    assert [row["label"] for row in ran.rows] == RIGHT
    assert [row["predicted_name"] for row in ran.rows] == [NAMES[label] for label in RIGHT]
    assert ran.summary["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 a\n2 b\n3 c", "numbers its classes from 1 to 3, and the model's begin at 0"),
        ("0 a\n1 b\n3 c", "numbers its classes up to 3, but has none with the number 2"),
        ("0 a\n1 b\n1 c", "has the number 1 twice"),
        ("index,name\n1,a\n2,b\n3,c", "numbers its classes from 1 to 3"),
        ("index,name\n0,a\n1,\n2,c", "has '' where a name should be"),
        ("index,english,german\n0,a,d\n1,b,e\n2,c,f", "has the columns 'index', 'english', 'german'"),
        ('{"0": "a", "1": "b", "1": "c"}', "has the number 1 twice"),
        ('{"0": "a", "1": "b", "3": "c"}', "has none with the number 2"),
        ('{"0": "a", "1": "b", "2": null}', "has None where a name should be"),
        ('{"a": "x", "b": "y", "c": "z"}', "is a mapping that does not number the names"),
        ('{"a": 0, "b": 1, "c": 2', "begins like JSON and cannot be read as JSON"),
        ("[1, 2, 3]", "has 1 where a name should be"),
        ("[]", "has no names in it"),
        ("a\nb", "model.class_names has 2 names, but"),
        ("name\na\nb\nc", "model.class_names has 4 names, but"),
    ],
)
def test_what_is_no_list_of_names_is_refused(
    text: str, words: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = colour_run(capsys, colour_config(tmp_path, dataset(tmp_path), text))
    assert ran.code == 2
    assert "model.class_names" in ran.err
    assert words in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.quick_cases(every=9)
@pytest.mark.parametrize(
    "text",
    [
        "3D printer\n35mm film\n4-wheeler",
        "5 euros\n10 euros\n20 euros",
        "0 faults\n1 faults\n2 faults",
        "0\n1\n2",
        "class 0\nclass 1\nclass 2",
        "tench, Tinca tinca\ngoldfish, Carassius auratus\nshark",
        "[background]\ncat\n[other]",
        '12" record\n7" single\nCD',
        "a,b\nc,d\ne,f",
    ],
)
def test_names_that_look_like_something_else_are_names(
    text: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = colour_config(tmp_path, "", text, input={"shards": dataset(tmp_path), "fields": {"label": ""}})
    ran = colour_run(capsys, config)
    assert ran.code == 0
    assert [row["predicted_name"] for row in ran.rows] == [text.split("\n")[label] for label in RIGHT]
