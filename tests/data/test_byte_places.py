"""Places summed up from the bytes of tokens are those that the tokenizers library keeps."""

import random
import unicodedata

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from tests.data.test_rendering import TALK, renderer
from tests.tiny_models import CHAT_TEMPLATE, END, tiny_tokenizer
from tuner.data import rendering
from tuner.data.answer_text import Written
from tuner.data.byte_places import BytePlaces
from tuner.data.rendering import trained_ranges
from tuner.data.tokenizer import load_tokenizer
from tuner.starter import STARTER_DIR

BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
CUT = pre_tokenizers.Split(Regex(r"\d|\s+|\w+"), "isolated")
UNUSED = processors.TemplateProcessing(single="$A")
# Name: normalizer, pre-tokenizer, post-processor.
FIT = {
    "bytes": (None, BYTES, None),
    "words and digits": (
        None,
        pre_tokenizers.Sequence([CUT, pre_tokenizers.Digits(), BYTES]),
        None,
    ),
    "composed": (normalizers.NFC(), BYTES, None),
    "in lists": (normalizers.Sequence([normalizers.NFC()]), BYTES, processors.Sequence([UNUSED])),
    "places kept": (None, BYTES, processors.ByteLevel(trim_offsets=False)),
}
DO_NOT_FIT = {
    "spaces counted to what is before": (None, BYTES, processors.ByteLevel(trim_offsets=True)),
    "signs taken apart": (normalizers.NFKD(), BYTES, None),
    "a space in front": (None, pre_tokenizers.ByteLevel(add_prefix_space=True), None),
    "spaces left out": (
        None, pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "removed"), BYTES]), None,
    ),
    "words only": (None, pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), BYTES]), None),
    "signs": (None, pre_tokenizers.Metaspace(), None),
    "nothing said of bytes": (None, None, None),
    "places moved": (None, BYTES, processors.RobertaProcessing(("</s>", 0), ("<s>", 1))),
}  # fmt: skip
PIECES = [
    *"aZ5 ,.\n\t",
    "  ",
    "\r\n",
    "word",
    " the",
    "é",
    "e\u0301",
    "q\u0307\u0323",  # put in order by NFC, and as long as before
    "½",
    "ﬁ",
    "你好",
    "👩‍🚀",
    "\u00a0",
    END,
]


def backend_of(normalizer, pre_tokenizer, post_processor) -> Tokenizer:
    backend = tiny_tokenizer(CHAT_TEMPLATE).backend_tokenizer
    for name, part in (("normalizer", normalizer), ("post_processor", post_processor)):
        if part is not None:
            setattr(backend, name, part)
    if pre_tokenizer is None:
        backend.pre_tokenizer = pre_tokenizers.Digits()
    else:
        backend.pre_tokenizer = pre_tokenizer
    return backend


def random_texts(count: int, seed: int = 0) -> list[Written]:
    """Texts of all kinds of signs, cut anywhere into what is trained and what is not."""
    draw, made = random.Random(seed), []
    for _ in range(count):
        text = "".join(draw.choices(PIECES, k=draw.randint(0, 30)))
        cuts = sorted(draw.choices(range(len(text) + 1), k=2 * draw.randint(0, 3)))
        made.append(Written(text, list(zip(cuts[::2], cuts[1::2], strict=True))))
    return made


def both_ways(backend: Tokenizer, texts: list[Written]):
    """Ranges by bytes, and by the library's places; of whole texts, too, by places."""
    plain = [written.text for written in texts]
    by_bytes = BytePlaces.of(backend)
    assert by_bytes is not None
    rows = [encoding.ids for encoding in backend.encode_batch_fast(plain, add_special_tokens=False)]
    ends = np.cumsum([len(ids) for ids in rows])
    flat = np.array([index for ids in rows for index in ids], np.int32)
    kept = backend.encode_batch(plain, add_special_tokens=False)
    assert rows == [encoding.ids for encoding in kept]
    return by_bytes.trained_ranges(flat, ends, texts), list(map(by_places, kept, texts))


def by_places(encoding, written: Written):
    """Counted from the definition: a token that begins before a place is not behind it."""
    begins = [start for start, _ in encoding.offsets]
    return [
        (sum(begin < start for begin in begins), sum(begin < end for begin in begins))
        for start, end in written.spans
    ]


@pytest.mark.parametrize("kind", FIT)
def test_they_are_the_same_wherever_a_text_adds_up(kind):
    texts = random_texts(2000)
    found, wanted = both_ways(backend_of(*FIT[kind]), texts)
    pairs = [
        (own, of_library) for own, of_library in zip(found, wanted, strict=True) if own is not None
    ]
    assert all(own == of_library for own, of_library in pairs)
    decomposed = sum(not unicodedata.is_normalized("NFC", written.text) for written in texts)
    assert len(pairs) == len(texts) - (decomposed if FIT[kind][0] else 0)


def test_of_the_practice_model_too():
    found, wanted = both_ways(
        load_tokenizer(str(STARTER_DIR)).backend_tokenizer, random_texts(2000)
    )
    assert found == wanted


def test_the_renderers_own_way_says_the_same():
    backend, texts = backend_of(*FIT["bytes"]), random_texts(500)
    encodings = backend.encode_batch([written.text for written in texts], add_special_tokens=False)
    partly = [i for i, w in enumerate(texts) if w.spans != [(0, len(w.text))]]
    found, _ = both_ways(backend, texts)
    assert [found[i] for i in partly] == [trained_ranges(encodings[i], texts[i]) for i in partly]


@pytest.mark.parametrize("kind", DO_NOT_FIT)
def test_other_vocabularies_are_left_to_the_library(kind):
    assert BytePlaces.of(backend_of(*DO_NOT_FIT[kind])) is None


@pytest.mark.parametrize(
    "model",
    [
        models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"),
        models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"),
        models.BPE({"a": 0}, [], end_of_word_suffix="</w>"),
        models.BPE({"a": 0}, [], continuing_subword_prefix="##"),
        models.BPE({"a": 0}, [], byte_fallback=True),
    ],
)
def test_and_other_models(model):
    backend = Tokenizer(model)
    backend.pre_tokenizer = BYTES
    assert BytePlaces.of(backend) is None


def test_a_special_token_may_be_of_any_signs():
    backend = backend_of(*FIT["bytes"])
    backend.add_special_tokens(["<|é你|>"])
    found, wanted = both_ways(backend, [Written("on<|é你|>off", [(2, 8), (8, 11)])])
    assert found == wanted


def test_a_special_token_that_swallows_white_space_leaves_its_text_without_an_answer():
    backend = backend_of(*FIT["bytes"])
    backend.add_special_tokens([AddedToken("<|greedy|>", lstrip=True, rstrip=True, special=True)])
    texts = [Written(text, [(2, 5)]) for text in ("on <|greedy|> off", "on<|greedy|>off", "plain")]
    found, wanted = both_ways(backend, texts)
    assert found[0] is None and found[1:] == wanted[1:]


def test_a_sign_that_the_vocabulary_lacks_leaves_its_text_without_an_answer():
    backend = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    backend.pre_tokenizer = BYTES
    found, wanted = both_ways(backend, [Written("abba", [(1, 3)]), Written("abcba", [(1, 3)])])
    assert found == [wanted[0], None] and wanted[0] == [(1, 3)]


ROWS = [{"messages": TALK}, {"messages": TALK[1:3]}, {"text": " ﬁne ½ e\u0301\n\n 👩‍🚀 "}] * 4


def encoded(monkeypatch, many: int, tokenizer=None):
    monkeypatch.setattr(rendering, "MANY", many)
    chat = renderer(CHAT_TEMPLATE)
    if tokenizer:
        tokenizer(chat.tokenizer.backend_tokenizer)
    made = chat.encode(chat.write(ROWS))
    return chat, [(ids.tolist(), ranges) for ids, ranges in made]


def compose(backend: Tokenizer) -> None:
    backend.normalizer = normalizers.NFC()


def swallow(backend: Tokenizer) -> None:
    backend.add_special_tokens([AddedToken("<|im_end|>", rstrip=True, special=True)])


@pytest.mark.parametrize(("change", "is_kept"), [(None, True), (compose, False), (swallow, False)])
def test_a_renderer_of_many_says_what_it_says_of_few(monkeypatch, change, is_kept):
    """And gives the table up where a third of the texts, or more, do not add up."""
    few, wanted = encoded(monkeypatch, 1000, change)
    many, found = encoded(monkeypatch, 1, change)
    assert found == wanted
    assert "_byte_places" not in few.__dict__
    assert (many.__dict__["_byte_places"] is not None) == is_kept


def test_places_are_not_asked_of_the_library_where_bytes_say_them(monkeypatch):
    asked = []
    plain = rendering.Renderer._encodings

    def encodings(self, texts, places=True):
        asked.append((len(texts), places))
        return plain(self, texts, places)

    monkeypatch.setattr(rendering.Renderer, "_encodings", encodings)
    encoded(monkeypatch, 1)
    assert [count for count, places in asked if places and count] == []
    encoded(monkeypatch, 1000)
    assert asked[-1] == (len(ROWS), True)
