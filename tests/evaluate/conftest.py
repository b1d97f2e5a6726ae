"""A run with tiny models, a word-level tokenizer, and data sets in their official layouts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM

from edgedistil.core.rundir import RunDir
from edgedistil.evaluate.tasks import load_data
from edgedistil.models.quiet import quiet

# Every word of the tests' texts; a word that is missing here becomes [UNK].
_TEXT = """
a an the film is was very good bad great awful dull bright story actor plot and not boring fine
who wrote it in paris london ada lived she he born 1815 where did live when ? . , !
"""
WORDS = _TEXT.split()
GOOD, BAD = ("good", "great", "bright", "fine"), ("bad", "awful", "dull", "boring")


def write_tokenizer(folder: Path, words: list[str]) -> None:
    """A word-level tokenizer with BERT's special tokens, as one `tokenizer.json`."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    # MiniLM's file contains truncation and padding too: both must be switched off on opening.
    tokenizer.enable_truncation(7)
    tokenizer.enable_padding(length=7)
    tokenizer.save(str(folder / "tokenizer.json"))
    marks = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{key}_token": mark for key, mark in marks.items()},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")


def _save(model: torch.nn.Module, folder: Path) -> None:
    with quiet():
        model.save_pretrained(folder)
    write_tokenizer(folder, WORDS)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `teacher`, `student` and `student-step0`: masked LMs, as distillation writes them."""
    root = tmp_path_factory.mktemp("models")
    size = len(WORDS) + 5
    # Prime sizes: a mix-up of two dimensions fails instead of passing by chance.
    with torch.random.fork_rng():
        torch.manual_seed(7)
        teacher = BertConfig(
            vocab_size=size,
            hidden_size=26,
            num_attention_heads=2,
            num_hidden_layers=3,
            intermediate_size=53,
            max_position_embeddings=131,
            hidden_dropout_prob=0.0,
        )
        student = DistilBertConfig(
            vocab_size=size,
            dim=22,
            n_heads=2,
            n_layers=1,
            hidden_dim=43,
            max_position_embeddings=131,
            dropout=0.0,
        )
        _save(BertForMaskedLM(teacher), root / "teacher")
        _save(DistilBertForMaskedLM(student), root / "student")
        _save(DistilBertForMaskedLM(student), root / "student-step0")
    return root


@pytest.fixture(scope="session")
def make_run(tiny_models: Path) -> Callable[[Path], RunDir]:
    """Makes a run whose models are the tiny ones."""

    def make(root: Path) -> RunDir:
        path = root / "runs" / "tiny"
        path.mkdir(parents=True)
        for model in tiny_models.iterdir():
            (path / model.name).symlink_to(model)
        return RunDir(path)

    return make


@pytest.fixture
def run(make_run: Callable[[Path], RunDir], tmp_path: Path) -> RunDir:
    return make_run(tmp_path)


@pytest.fixture(autouse=True)
def _empty_data_cache() -> Iterator[None]:
    # Tests change the files of a task, which the cache would not notice.
    load_data.cache_clear()
    yield
    load_data.cache_clear()


def opinions(count: int, offset: int = 0) -> list[tuple[str, str]]:
    """Short reviews, each with one word that decides the label."""
    templates = (
        "the film is very {}",
        "a {} story",
        "the actor was {} and the plot is fine",
        "it is {} , not long",
    )
    reviews = []
    for number in range(offset, offset + count):
        word = (GOOD, BAD)[number % 2][number // 2 % 4]
        # Punctuation makes the texts of later rounds differ from the first 32.
        text = templates[number // 8 % 4].format(word) + " !" * (number // 32)
        reviews.append((text, ("good", "bad")[number % 2]))
    return reviews


@pytest.fixture(scope="session")
def write_task() -> Callable[..., Path]:
    """Writes a user's own task (csv) into a folder and returns its TOML file."""

    def write(
        folder: Path,
        train: int = 64,
        dev: int = 17,
        *,
        epochs: int = 8,
        extra: str = "",
        name: str = "opinion",
    ) -> Path:
        folder = folder / name
        folder.mkdir(exist_ok=True)
        for side, rows in (("train", opinions(train)), ("dev", opinions(dev, offset=train))):
            lines = ["text,label", *(f'"{text}",{label}' for text, label in rows)]
            (folder / f"{side}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / f"{name}.toml").write_text(
            f"""kind = "classification"
labels = ["bad", "good"]
metric = "accuracy"
{extra}
[files]
train = "train.csv"
dev = "dev.csv"
[training]
epochs = {epochs}
batch = 8
learning_rate = 1e-2
max_length = 23
source = "for the tests"
"""
        )
        return folder / f"{name}.toml"

    return write


@pytest.fixture
def own_task(write_task: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    return partial(write_task, tmp_path)


# Folder of the official archive → header and rows of train.tsv and dev.tsv.
GLUE_TABLES: dict[str, tuple[str, ...]] = {
    "CoLA": (
        "gj04\t1\t\tThe story is good.",
        'gj04\t0\t*\tThe "film is.',
        "bc01\t1\t\tIt was.",
    ),
    "SST-2": ("sentence\tlabel", "a dull film \t0", "a bright story \t1"),
    "MRPC": (
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        '1\t702876\t702977\tHe said "good.\tHe said good.',
        "0\t2108705\t2108831\tA film.\tA story.",
    ),
    # The last row is truncated, as some of the official file are.
    "QQP": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "133273\t213221\t213222\tWhere is it?\tWhere did it live?\t0",
        "402555\t536040\t536041\tWho?\tWho is it?\t1",
        "360472\t364011\t490273\tA question whose row was cut",
    ),
    "STS-B": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tmain\tMSRvid\t2012\t0001\tnone\tnone\tA film.\tA good film.\t5.000",
        "1\tmain\tMSRvid\t2012\t0004\tnone\tnone\tAn actor.\tA plot.\t0.800",
    ),
    "QNLI": (
        "index\tquestion\tsentence\tlabel",
        "0\tWho wrote it?\tAda wrote it.\tentailment",
        "1\tWhen?\tIn London.\tnot_entailment",
    ),
    "RTE": (
        "index\tsentence1\tsentence2\tlabel",
        "0\tAda lived.\tShe lived.\tentailment",
        "1\tIt was.\tIt was not.\tnot_entailment",
    ),
    "WNLI": (
        "index\tsentence1\tsentence2\tlabel",
        "0\tShe wrote it.\tAda wrote.\t1",
        "1\tHe lived.\tIt lived.\t0",
    ),
}
# MNLI's columns before the sentences: identifiers, then two parses of each sentence.
MNLI_LEFT = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse"
    "\tsentence1_parse\tsentence2_parse"
)
MNLI_ROW = (
    "{number}\t31193\t31193n\tfiction\t( a )\t( b )\t(ROOT a)\t(ROOT b)"
    "\tA film {text}.\tA story.\t{labels}"
)


@pytest.fixture
def glue(tmp_path: Path) -> Path:
    """All nine tasks of GLUE in the layout of its official archive, a few rows each."""
    root = tmp_path / "glue"
    for folder, rows in GLUE_TABLES.items():
        for side in ("train", "dev"):
            _write_lines(root / folder / f"{side}.tsv", *rows)

    # MNLI: the gold label comes after one annotator's in train and after five in dev.
    _write_mnli(root, "train", ("neutral", "entailment", "contradiction"), annotators=1)
    _write_mnli(root, "dev_matched", ("neutral", "entailment"), annotators=5)
    _write_mnli(root, "dev_mismatched", ("contradiction", "neutral", "neutral"), annotators=5)
    return root


def _write_mnli(root: Path, name: str, golds: tuple[str, ...], *, annotators: int) -> None:
    columns = [f"label{number}" for number in range(1, annotators + 1)]
    header = "\t".join([MNLI_LEFT, "sentence1", "sentence2", *columns, "gold_label"])
    rows = []
    for number, gold in enumerate(golds):
        labels = "\t".join([gold] * (annotators + 1))
        # Texts of different files differ: "A film matched 0.", "A film 0." in train.
        text = f"{name.removeprefix('dev_')} {number}".removeprefix("train ")
        rows.append(MNLI_ROW.format(number=number, text=text, labels=labels))
    _write_lines(root / "MNLI" / f"{name}.tsv", header, *rows)


def _write_lines(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


CONTEXT = (
    "Ada was born in London . She lived in Paris , where she wrote the story . It was very good !"
)


def squad_json(ids: tuple[str, ...] = ("q1", "q2"), start: int = 16) -> str:
    """An article with one paragraph and two questions, in the layout of SQuAD 1.1."""
    questions = [
        {
            "id": ids[0],
            "question": "Where was Ada born ?",
            "answers": [{"text": "London", "answer_start": start}],
        },
        {
            "id": ids[1],
            "question": "Where did she live ?",
            "answers": [
                {"text": "Paris", "answer_start": 38},
                {"text": "in Paris", "answer_start": 35},
            ],
        },
    ]
    return json.dumps(
        {
            "version": "1.1",
            "data": [{"title": "Ada", "paragraphs": [{"context": CONTEXT, "qas": questions}]}],
        }
    )


@pytest.fixture
def squad(tmp_path: Path) -> Path:
    folder = tmp_path / "official" / "squad"
    folder.mkdir(parents=True)
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        (folder / name).write_text(squad_json(), encoding="utf-8")
    return folder.parent


@pytest.fixture
def imdb(tmp_path: Path) -> Path:
    """`aclImdb` as the archive unpacks, with the unlabelled reviews that must not be read."""
    root = tmp_path / "official" / "aclImdb"
    for side in ("train", "test"):
        for label, text in (
            ("pos", "A great film .<br /><br />Good !"),
            ("neg", "An awful plot ."),
            ("unsup", "It is ."),
        ):
            (root / side / label).mkdir(parents=True)
            (root / side / label / "0_9.txt").write_text(text, encoding="utf-8")
            (root / side / label / "1_8.txt").write_text(text + " Very .", encoding="utf-8")
    return root.parent
