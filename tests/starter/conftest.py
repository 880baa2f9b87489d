"""What the tests of the practice model share: its corpus and the model that ships, read once."""

from collections.abc import Iterator

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tuner.starter import STARTER_DIR
from tuner.starter.corpus import Corpus, build_corpus
from tuner.starter.exact_match import load


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Two threads wait for each other at every step, far too long when something else runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def corpus() -> Corpus:
    return build_corpus(0)


@pytest.fixture(scope="package")
def starter() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return load(STARTER_DIR)


@pytest.fixture(scope="package")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(STARTER_DIR, local_files_only=True)
