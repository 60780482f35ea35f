"""The configuration: what is refused, and in which words."""

import pytest

from pipeline.config import Config, ConfigError, load_config, schema_keys
from tests.pipeline.config.keys import MINIMAL


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- a\n", "must have the sections input, model,"),
        ("words\n", "must have the sections input, model,"),
        (MINIMAL + "explain: 5\n", "line 4: `explain` must be a section with the keys method,"),
        (MINIMAL + "explain: [maps]\n", "`explain` must be a section with the keys method,"),
        ("input:\n  shards: a\n shards: b\n", "line 3, column 2: this is not YAML"),
        ("input:\n\tshards: a\n", "line 2, column 1: this is not YAML"),
        ("input: {shards: *.tar}\n", "line 1, column 18: this is not YAML, as text that begins with * must be"),
        ("input: &a {x: *a}\n", "line 1, column 8: this value contains itself"),
        ("a: 1\n---\nb: 1\n", "line 2, column 1: this is not YAML"),
        (
            "input: !!python/object:os.system {}\n",
            "column 8: the tag !!python/object:os.system is not taken here",
        ),
        (MINIMAL + "output: {path: b}\n", "line 4, column 1: the key `output` stands twice, here and on line 3"),
        (
            "input:\n  limit: 5\n  limit: 6\n",
            "line 3, column 3: the key `input.limit` stands twice, here and on line 2",
        ),
        ("model: {path: m}\noutput: {path: o}\n", "the required key `input.shards` is missing, which must be a path"),
        ("input: {shards: a}\nmodel: {path: m}\n", "the required key `output.path` is missing"),
        ("input: {shards: a}\noutput: {path: o}\n", "`model.path` or `model.application` is required"),
        (MINIMAL + "on: 1\n", "line 4: unknown key `on`; the sections are input, model,"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_with_its_place(refusal, text, expected):
    sentence = refusal(text)
    assert "run.yaml" in sentence
    assert expected in sentence


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("explain.batchsize=1", "unknown key `explain.batchsize`; did you mean `explain.batch_size`?"),
        ("output.batch_size=1", "unknown key `output.batch_size`; `batch_size` belongs to explain"),
        ("path=1", "unknown key `path`; `path` belongs to model or output"),
        ("Explain.maps=signed", "unknown key `Explain`; did you mean `explain`?"),
        ("model.preprocess.scale.divid=2", "did you mean `model.preprocess.scale.divide`?"),
        ("zzz.a=1", "with --set zzz.a=1: unknown key `zzz`; the sections are input,"),
        ("explain.zzz=1", "unknown key `explain.zzz`; the keys of explain are method, maps,"),
        ("explain.maps=refrence", 'must be reference, channelwise or signed, not "refrence"; did you mean reference?'),
        ("explain.maps=5", "`explain.maps` must be reference, channelwise or signed, not 5"),
        ("explain.maps={a: 1}", "`explain.maps` must be reference, channelwise or signed, not {"),
        ("explain.batch_size=0", "`explain.batch_size` must be auto or a whole number from 1 up, not 0"),
        ("explain.batch_size=1.0", "from 1 up, not 1.0"),
        ("explain.batch_size=true", "from 1 up, not true"),
        ("explain.batch_size=atuo", 'not "atuo"; did you mean auto?'),
        ("explain.targets=predict", "did you mean predicted?"),
        ("explain.targets=top-0", "`explain.targets` must be predicted, label, top-K"),
        ("explain.targets=[]", "a list of different class indices such as [207, 281], not []"),
        ("explain.targets=[1, 1]", "a list of different class indices such as [207, 281], not [1, 1]"),
        ("explain.targets=[-1]", "`explain.targets` must be"),
        ("explain.targets=[true]", "`explain.targets` must be"),
        ("explain.targets=7", "`explain.targets` must be"),
        ("explain.method=gradcam", 'or grad_cam, not "gradcam"; did you mean grad_cam?'),
        ("explain.samples=0", "`explain.samples` must be a whole number from 1 up, not 0"),
        ("explain.noise_level=0", "`explain.noise_level` must be a number above 0, not 0"),
        ("explain.seed=-1", "`explain.seed` must be a whole number from 0 up, not -1"),
        (
            "explain.samples=5",
            "`explain.samples` is 5, which is used only where `explain.method` is smoothgrad or smooth_fullgrad, not "
            "fullgrad",
        ),
        ("explain={method: gradients, seed: 1}", "`explain.seed` is 1, which is used only where `explain.method` is"),
        ("explain={method: grad_cam, noise_level: 0.2}", "`explain.noise_level` is 0.2, which is used only where"),
        (
            "explain={method: gradients, maps: signed}",
            '`explain.maps` is "signed", which is used only where `explain.method` is fullgrad, input_x_gradient or '
            "smooth_fullgrad, not gradients",
        ),
        ("explain={method: input_x_gradient, maps: channelwise}", "is fullgrad or smooth_fullgrad, not input_x"),
        (
            "explain={method: simple_fullgrad, biases: explicit}",
            '`explain.biases` is "explicit", which is used only where `explain.method` is fullgrad or smooth_fullgrad',
        ),
        ("input.limit=none", '`input.limit` must be null or a whole number from 1 up, not "none"'),
        ("input.shards=[]", "`input.shards` must be a path, a pattern"),
        ("input.shards=", "or a list of them, not null"),
        ("input.shards.x=1", '`input.shards.x` cannot be set, as `input.shards` is "a.tfrecord", which has no keys'),
        ("input.fields=image", "`input.fields` must be a section with the keys image, id and label"),
        ("input={shard: x}", "unknown key `input.shard`; did you mean `input.shards`?"),
        ("model.application=Xception", "`model.path` and `model.application` are both given"),
        ("model.path=null", "`model.path` or `model.application` is required"),
        ("model.weights=imagenet", "`model.weights` is used only with `model.application`"),
        ("model.output=-1", "`model.output` must be null, an output's name or its index from 0 up, not -1"),
        ("model.trust=1", "`model.trust` must be true or false, not 1"),
        ("model.preprocess.resize.short_side=9", "used only where `model.preprocess.resize.how` is center_crop"),
        ("model.preprocess.resize={how: center_crop, shape: 9, short_side: 8}", "must be at least 9"),
        ("model.preprocess.scale=null", "must be auto, none, tf, torch, caffe, the name of a Keras application"),
        ("model.preprocess.scale.divide=0", "must be a number above 0, not 0"),
        ("model.preprocess.scale.std=[1, 0]", "must be null or a list of numbers above 0, one a channel"),
        ("model.preprocess.scale={mean: [1], std: [1, 1]}", "must have one number a channel each, but have 1 and 2"),
        ("model.preprocess.exif=true", "`model.preprocess.exif` must be ignore or apply, not true"),
        ("output.map_size=[7]", "must be null, [HEIGHT, WIDTH] or one whole number for both, not [7]"),
        ("output.map_size=true", "or one whole number for both, not true"),
        ("output.map_dtype=null", "must be float16, float32, uint8 or none, not null"),
        ("output.grid=3", "`output.grid` must be a whole number from 4 to 512, not 3"),
        ("output.images=7", "`output.images` must be a whole number from 8 up, or null, not 7"),
        ("errors.max_fraction=2", "`errors.max_fraction` must be a number from 0 to 1, not 2"),
        ("runner.name=flink", "did you mean FlinkRunner?"),
        ("runner.options.x={a: 1}", "`runner.options.x` must be text, a number, true, false or a list of these"),
        ("runner.accelerator=1", "`runner.accelerator` must be null or a hint such as type:nvidia-tesla-t4;count:1"),
        ("runner.accelerator=nvidia-tesla-t4", "such as type:nvidia-tesla-t4;count:1;install-nvidia-driver, not"),
        ("runner.accelerator=type:t4;count:0", "`runner.accelerator` must be null or a hint"),
        ("runner.accelerator=type:t4;count:1;", "`runner.accelerator` must be null or a hint"),
        (
            "runner.accelerator=type:t4;count:1",
            "`runner.accelerator` is used only where `runner.name` is DataflowRunner, not direct",
        ),
        (
            "runner={name: FlinkRunner, accelerator: type:t4;count:1}",
            "`runner.accelerator` is used only where `runner.name` is DataflowRunner, not FlinkRunner",
        ),
        ("runner.options=[1]", "`runner.options` must be a mapping from the names of Beam's options"),
        ("runner.options.--num-workers=2", "without leading dashes and with underscores, as num_workers"),
        ("runner.options.runner=x", "`runner.name` names the runner"),
        ("explain.batch_size", "this must be KEY=VALUE"),
        ("=1", "this must be KEY=VALUE"),
        ("explain..maps=1", "this must be KEY=VALUE"),
        ("explain.targets=[1,", "the value of `explain.targets` cannot be read"),
    ],
)
def test_an_override_that_cannot_be_is_refused_with_what_would_be_right(refusal, override, expected):
    sentence = refusal(MINIMAL, override)
    assert expected in sentence
    assert f"--set {override}" in sentence


def test_a_file_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml does not exist"):
        load_config(tmp_path / "absent.yaml")


def test_a_directory_is_no_configuration_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: is a directory"):
        load_config(tmp_path)


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"run\.yaml is not text in UTF-8"):
        load_config(path)


def test_the_line_of_a_wrong_key_is_told(refusal):
    text = MINIMAL + "explain:\n  maps: signed\n  jit: maybe\n"
    assert "run.yaml, line 6: `explain.jit` must be auto, on or off" in refusal(text)


def test_of_several_problems_the_first_is_told_and_the_others_counted(refusal):
    assert refusal(MINIMAL + "explain: {maps: x, jit: y, biases: z}\n").endswith('not "x" (and 2 more problems)')
    assert "(and 1 more problem)" in refusal(MINIMAL + "explain: {maps: x, jit: y}\n")


def test_a_misspelt_key_is_not_also_reported_as_missing(refusal):
    sentence = refusal("inptu: {shards: a}\nmodel: {path: m}\noutput: {path: o}\n")
    assert sentence.endswith("unknown key `inptu`; did you mean `input`?")
    sentence = refusal("input: {shards: a}\nmodle: {path: m}\noutput: {path: o}\n")
    assert sentence.endswith("unknown key `modle`; did you mean `model`?")


def test_targets_from_labels_need_labels(refusal):
    sentence = refusal(MINIMAL + "explain: {targets: label}\n", 'input.fields.label=""')
    assert "`explain.targets` is label, but `input.fields.label`" in sentence


def test_a_dotted_key_in_a_file_is_told_where_it_belongs(refusal):
    sentence = refusal(MINIMAL + "explain.batch_size: 3\n")
    assert sentence.endswith("line 4: `explain.batch_size` must be written as `batch_size` within the section explain")


def test_a_problem_in_plain_values_is_a_sentence_too():
    with pytest.raises(ConfigError, match=r"^the configuration: unknown key `outptu`; did you mean `output`\?$"):
        Config.from_dict({"input": {"shards": "a"}, "model": {"path": "m"}, "outptu": {"path": "o"}})
    with pytest.raises(ConfigError, match="must have the sections"):
        Config.from_dict([])


def misspellings(name):
    """Every way to leave out, double, exchange or replace one character."""
    for position in range(len(name)):
        before, letter, after = name[:position], name[position], name[position + 1 :]
        yield before + after
        yield before + letter + letter + after
        yield before + after[:1] + letter + after[1:]
        for other in "aex_Z":
            yield before + other + after
            yield before + other + letter + after


@pytest.mark.parametrize("key", schema_keys())
def test_every_misspelling_of_a_key_by_one_character_is_put_right(key):
    section, _, name = key.rpartition(".")
    siblings = {each.rpartition(".")[2] for each in schema_keys() if each.rpartition(".")[0] == section}
    for wrong in set(misspellings(name)) - siblings - {""}:
        value = {"input": {"shards": "a"}, "model": {"path": "m"}, "output": {"path": "o"}}
        inner = value
        for part in filter(None, section.split(".")):
            inner = inner.setdefault(part, {})
        inner[wrong] = inner.pop(name, "x")
        with pytest.raises(ConfigError) as refused:
            Config.from_dict(value)
        sentence = str(refused.value)
        assert f"unknown key `{section}.{wrong}`".replace("`.", "`") in sentence
        suggested = f"did you mean `{key}`?" in sentence
        listed = f"the keys of {section} are" in sentence and name in sentence.partition(" are ")[2]
        assert suggested or listed, sentence
        assert suggested or len(name) <= 3, f"{sentence} for {key}"
