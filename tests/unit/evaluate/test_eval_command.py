import pytest

from diffuscope.cli import main


@pytest.fixture
def files(corpus_file, feature_net_file, quick_folder):
    given = {"corpus": corpus_file, "teacher": feature_net_file, "model": quick_folder, "device": "cpu"}
    return [f"--{name}={value}" for name, value in given.items()]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--count=0"], "--count: got 0"),
        (["--classifier=nowhere.safetensors"], "--classifier: got 'nowhere.safetensors'"),
        (["--sheet=sheet.gif"], "--sheet: got 'sheet.gif'"),
        (["--model=emoji-none"], "no model"),
    ],
)
def test_mistakes_are_told_before_any_work(files, wrong, said, capsys):
    assert main(["eval", *files, *wrong]) == 2
    assert said in capsys.readouterr().err


def test_the_classifier_needs_a_corpus(tmp_path, capsys):
    assert main(["eval", "classifier", f"--corpus={tmp_path / 'none.xz'}", f"--out={tmp_path}"]) == 2
    assert "--corpus: got" in capsys.readouterr().err
