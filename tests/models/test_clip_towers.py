"""Both towers of CLIP agree with transformers on shared random weights, and so do their tokens."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lichtspiel.errors import WeightsError
from lichtspiel.models.clip_towers import PAD, CLIPPicture, CLIPText, TextSpec
from lichtspiel.spec import CLIPSpec
from lichtspiel.tokenizer import umt5
from lichtspiel.understand.meaning import Clip, XLMTokenizer

VISION = CLIPSpec(image_size=28, patch=14, width=32, mlp_ratio=4, heads=4, layers=3, used_layers=3, eps=1e-5)
TEXT = TextSpec(vocabulary=500, positions=40, width=32, heads=4, layers=2, embedding=16, eps=1e-5)


def varied(network: torch.nn.Module) -> torch.nn.Module:
    """The network with weights that are large enough to tell mistakes."""
    torch.manual_seed(1)
    for value in network.parameters():
        torch.nn.init.normal_(value, std=0.2)
    return network.eval()


def test_pictures_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is in the extra test-peers")
    ours: Any = varied(CLIPPicture(VISION, 16))
    config = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=128, projection_dim=16, num_hidden_layers=3, num_attention_heads=4,
        image_size=28, patch_size=14, hidden_act="gelu", layer_norm_eps=1e-5,
    )  # fmt: skip
    theirs = transformers.CLIPVisionModelWithProjection(config).eval()
    state = theirs.state_dict()
    prefix = next(name for name in state if name.endswith("embeddings.class_embedding"))
    root = prefix.removesuffix("embeddings.class_embedding")
    mine = ours.state_dict()
    renamed = {
        f"{root}embeddings.class_embedding": mine["cls_embedding"].reshape(-1),
        f"{root}embeddings.patch_embedding.weight": mine["patch_embedding.weight"],
        f"{root}embeddings.position_embedding.weight": mine["pos_embedding"][0],
        f"{root}pre_layrnorm.weight": mine["pre_norm.weight"], f"{root}pre_layrnorm.bias": mine["pre_norm.bias"],
        f"{root}post_layernorm.weight": mine["post_norm.weight"], f"{root}post_layernorm.bias": mine["post_norm.bias"],
        "visual_projection.weight": mine["head"].T,
    }  # fmt: skip
    for layer in range(3):
        there, here = f"{root}encoder.layers.{layer}", f"transformer.{layer}"
        for kind in ("weight", "bias"):
            parts = mine[f"{here}.attn.to_qkv.{kind}"].chunk(3)
            for name, part in zip("qkv", parts, strict=True):
                renamed[f"{there}.self_attn.{name}_proj.{kind}"] = part
            pairs = {"self_attn.out_proj": "attn.proj", "layer_norm1": "norm1", "layer_norm2": "norm2",
                     "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}  # fmt: skip
            for other, name in pairs.items():
                renamed[f"{there}.{other}.{kind}"] = mine[f"{here}.{name}.{kind}"]
    missing = theirs.load_state_dict(renamed, strict=False)
    assert [name for name in missing.missing_keys if "position_ids" not in name] == []
    assert missing.unexpected_keys == []
    pixels = torch.randn(2, 3, 28, 28)
    with torch.inference_mode():
        expected = theirs(pixel_values=pixels).image_embeds
        assert torch.allclose(ours(pixels), expected, atol=1e-5 * float(expected.abs().max()))


def test_texts_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is in the extra test-peers")
    ours: Any = varied(CLIPText(TEXT))
    config = transformers.XLMRobertaConfig(
        vocab_size=500, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=40, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1, hidden_act="gelu",
    )  # fmt: skip
    theirs = transformers.XLMRobertaModel(config, add_pooling_layer=False).eval()
    mine = ours.state_dict()
    renamed = {
        "embeddings.word_embeddings.weight": mine["token_embedding.weight"],
        "embeddings.token_type_embeddings.weight": mine["type_embedding.weight"],
        "embeddings.position_embeddings.weight": mine["pos_embedding.weight"],
    }
    for kind in ("weight", "bias"):
        renamed[f"embeddings.LayerNorm.{kind}"] = mine[f"norm.{kind}"]
        pairs = {
            "attention.self.query": "attn.q", "attention.self.key": "attn.k", "attention.self.value": "attn.v",
            "attention.output.dense": "attn.o", "attention.output.LayerNorm": "norm1", "intermediate.dense": "ffn.0",
            "output.dense": "ffn.2", "output.LayerNorm": "norm2",
        }  # fmt: skip
        for layer in range(2):
            for other, name in pairs.items():
                renamed[f"encoder.layer.{layer}.{other}.{kind}"] = mine[f"blocks.{layer}.{name}.{kind}"]
    loaded = theirs.load_state_dict(renamed, strict=False)
    assert [name for name in loaded.missing_keys if "_ids" not in name] == []
    assert loaded.unexpected_keys == []
    ids = torch.tensor([[0, 5, 6, 7, 8, 2], [0, 9, 2, PAD, PAD, PAD]])
    with torch.inference_mode():
        states = theirs(input_ids=ids, attention_mask=(ids != PAD).long()).last_hidden_state
        counted = (ids != PAD)[..., None].float()
        expected = ours.head((states * counted).sum(1) / counted.sum(1))
        found = ours(ids)
        assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))
        alone = ours(ids[1:, :3])
        assert torch.allclose(found[1:], alone, atol=1e-5 * float(expected.abs().max())), "padding changes nothing"


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `tokenizer.json` in the form of XLM-RoBERTa's, with pieces of the vocabulary that ships with the package."""
    pytest.importorskip("tokenizers", reason="tokenizers is in the extra test-peers")
    known = umt5()
    names = list(known._ids)
    vocabulary = [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0]]
    vocabulary += [[name, known._scores[known._ids[name]]] for name in names[300:60000]]
    path = tmp_path_factory.mktemp("xlm") / "tokenizer.json"
    content = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]},
                               "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}},
        "decoder": None,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocabulary, "byte_fallback": False},
    }  # fmt: skip
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_thousand_sentences_are_split_as_the_library_does(tokenizer_file: Path) -> None:
    from tokenizers import Tokenizer

    from lichtspiel.tokenizer import clean
    from lichtspiel.toybox.captions import LANGUAGES, caption
    from lichtspiel.toybox.sample import FULL, sample

    theirs, ours = Tokenizer.from_file(str(tokenizer_file)), XLMTokenizer.read(tokenizer_file)
    rng = random.Random(0)
    sentences = [caption(sample(seed, FULL), rng.choice(LANGUAGES), seed % 3) for seed in range(900)]
    odd = [
        "",
        "  two  spaces ",
        "naïve café №5 ﬁne",
        "ÅNGSTRÖM…",
        "😀 emoji 👩‍🚀",
        "Привет, мир",
        "العربية",
        "ａｂｃ １２３",
    ]
    sentences += [f"{rng.choice(odd)} {rng.choice(sentences)} {rng.choice(odd)}" for _ in range(100)]
    for sentence in sentences:
        assert ours(sentence, 512) == theirs.encode(clean(sentence)).ids, sentence
    assert len(ours("a " * 300)) == 77
    assert ours("a " * 300)[-1] == 2


def test_a_checkpoint_gives_unit_vectors_or_says_what_it_lacks(tokenizer_file: Path, tmp_path: Path) -> None:
    text = TextSpec(vocabulary=59704, positions=80, width=32, heads=4, layers=1, embedding=16, eps=1e-5)
    towers = {"visual.": varied(CLIPPicture(VISION, 16)), "textual.": varied(CLIPText(text))}
    state = {f"{prefix}{name}": value.clone() for prefix, network in towers.items()
             for name, value in network.state_dict().items()}  # fmt: skip
    state["log_scale"] = torch.zeros(())
    save_file(state, tmp_path / "clip.safetensors")
    clip = Clip.read(tmp_path / "clip.safetensors", VISION, text, tokenizer_file)
    vectors = clip.texts(["a cat", "", "a much longer sentence about a cat on a beach"])
    frames = [np.full((20, 30, 3), 200, np.uint8), np.zeros((8, 8, 3), np.uint8)]
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert clip.pictures(frames).shape == (2, 16)
    assert np.allclose(clip.texts(["a cat"]), vectors[:1], atol=1e-5)
    del state["textual.norm.weight"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(WeightsError, match=r"lacks 1 tensors of CLIP, such as textual\.norm\.weight"):
        Clip.read(tmp_path / "less.safetensors", VISION, text, tokenizer_file)
    with pytest.raises(WeightsError, match="is not there"):
        Clip.read(tmp_path / "none", VISION, text, tokenizer_file)
    with pytest.raises(WeightsError, match="is no tokenizer of XLM-RoBERTa"):
        XLMTokenizer.read(tmp_path / "clip.safetensors")
