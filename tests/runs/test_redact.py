"""Secrets are taken out, and what only looks like one stays."""

import pytest

from tuner.runs.redact import redact

TOKEN = "hf_" + "aB3dE" * 6 + "wxyz"
JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiI2NSJ9.c2lnbmF0dXJl-_x"


@pytest.mark.parametrize(
    "text",
    [
        f"Invalid token {TOKEN}.",
        f'{{"token": "{TOKEN}"}}',
        f"HF_TOKEN={TOKEN}",
        f"hf_oauth_{JWT}",
        f"Authorization: Bearer {JWT}",
        f"authorization: bearer {TOKEN}",
        f"https://user:{TOKEN}@huggingface.co/a/b.git",
        f"https://{JWT}@huggingface.co/a/b.git",
        f"GET https://example.com/file?x=1&token={JWT}&y=2",
        f"api_org_{TOKEN[3:]}",
    ],
)
def test_a_secret_is_replaced(text):
    assert TOKEN[3:] not in redact(text)
    assert JWT not in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "hf_hub_download failed; hf_transfer is not installed",
        "The bearer certificates and bearer representatives of the company",
        "https://medium.com/@someone/lora and me@example.com",
        "at 10:30 @ https://huggingface.co/Qwen/Qwen3-0.6B",
        "max_new_tokens=80 token=5",
    ],
)
def test_ordinary_text_stays(text):
    assert redact(text) == text
