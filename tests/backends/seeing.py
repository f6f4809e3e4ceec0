"""Tiny vision-language models and encoders of pictures with random weights, and pictures to show them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.backends.conftest import make_tokenizer

COLOURS = ("red", "green", "blue", "white", "black", "orange", "purple", "cyan")

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LANGUAGE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.5,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}
_VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


def draw(folder: Path, names: Sequence[str] = COLOURS, *, width: int = 24, height: int = 20) -> list[str]:
    """Pictures of one colour each, with a white corner, so that no two have the same file."""
    from PIL import Image, ImageDraw

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for at, name in enumerate(names):
        picture = Image.new("RGB", (width, height), name)
        ImageDraw.Draw(picture).rectangle((0, 0, 3 + at, 3), fill="white")
        path = folder / f"{at}-{name}.png"
        picture.save(path)
        paths.append(str(path))
    return paths


def _library() -> Any:
    """Transformers, whose classes are typed here and there."""
    import transformers

    return transformers


def make_idefics(folder: Path, kind: str = "Idefics3") -> Path:
    """An Idefics3 (or SmolVLM), saved with its processor; four tokens a picture and marks around them."""
    import torch

    transformers = _library()
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    tokenizer = make_tokenizer(None)
    images = Idefics3ImageProcessorPil(
        do_image_splitting=False, size={"longest_edge": 16}, max_image_size={"longest_edge": 16}
    )
    processor = transformers.Idefics3Processor(
        images, tokenizer, image_seq_len=1, chat_template=CHAT.replace("IMAGE", "<image>")
    )
    torch.manual_seed(0)
    size = len(tokenizer)
    config = transformers.Idefics3Config(
        text_config={"model_type": "llama", "vocab_size": size, **_LANGUAGE},
        vision_config={**_VISION, "initializer_range": 0.5},
        image_token_id=processor.image_token_id,
        scale_factor=2,
        pad_token_id=258,
    )
    transformers.Idefics3ForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_llava(folder: Path) -> Path:
    """A LLaVA over CLIP's tower, saved with its processor; four tokens a picture."""
    import torch

    transformers = _library()
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = make_tokenizer(None)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = transformers.LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("IMAGE", "<image>"),
    )
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **_LANGUAGE},
        vision_config={"model_type": "clip_vision_model", **_VISION},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_qwen() -> tuple[Any, Any]:
    """A Qwen2-VL and its processor; positions in three dimensions, tokens by the size of a picture.

    In memory: the processor's part for videos, which is left out here, needs torchvision to be made or loaded.
    """
    import torch

    transformers = _library()
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = make_tokenizer(None)
    marks = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    images = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, min_pixels=64, max_pixels=1024)
    processor = _qwen_processor(images, tokenizer)
    torch.manual_seed(0)
    ids = dict(
        zip(("image", "video", "vision_start", "vision_end"), tokenizer.convert_tokens_to_ids(marks), strict=True)
    )
    config = transformers.Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
            **_LANGUAGE,
        },
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1, "patch_size": 4},
        **{f"{name}_token_id": at for name, at in ids.items()},
    )
    return transformers.Qwen2VLForConditionalGeneration(config).eval(), processor


def _qwen_processor(images: Any, words: Any) -> Any:
    library = _library()

    class WithoutVideos(library.Qwen2VLProcessor):  # type: ignore[misc, name-defined]
        def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None) -> None:
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids(
                [self.image_token, self.video_token]
            )
            library.ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    shown = "<|vision_start|><|image_pad|><|vision_end|>"
    return WithoutVideos(images, words, chat_template=CHAT.replace("IMAGE", shown))


def make_jina(folder: Path, *, drop: str = "", new_names: bool = False) -> Path:
    """A Qwen2-VL with a scoring head, in the files of jina-reranker-m0, without the weight ``drop``; needs torchvision.

    The names of the weights and the flat configuration are those of transformers when the model was published.
    """
    import torch
    from safetensors.torch import save_file

    model, processor = make_qwen()
    processor.tokenizer.save_pretrained(folder)
    weights = {
        f"model.{name}" if new_names else name.replace("language_model", "model"): weight
        for name, weight in model.model.state_dict().items()
    }
    torch.manual_seed(1)
    for name, shape in (("0.weight", (32, 32)), ("0.bias", (32,)), ("2.weight", (1, 32)), ("2.bias", (1,))):
        weights[f"score.{name}"] = torch.randn(shape)
    weights.pop(drop, None)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = model.config.to_dict()
    text = config.pop("text_config")
    for name in ("model_type", "rope_parameters"):
        del config["vision_config"][name]
    rope = {"rope_theta": 10000.0, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    config |= {name: text[name] for name in (*_LANGUAGE, "vocab_size")} | rope
    config |= {"architectures": ["JinaVLForRanking"], "auto_map": {"AutoModel": "modeling.Absent"}}
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    settings = {**processor.image_processor.to_dict(), "processor_class": "Qwen2VLProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


#: Models that are saved and loaded as users' models are.
MAKERS = {"idefics3": make_idefics, "llava": make_llava}


def make_clip(folder: Path) -> Path:
    """A CLIP with random weights, saved with its processor."""
    import torch

    transformers = _library()
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 260, "max_position_embeddings": 24}
    text |= {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=12)
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPProcessor(images, make_tokenizer(None)).save_pretrained(folder)
    return folder


def make_siglip(folder: Path) -> Path:
    """A SigLIP with random weights, saved with its processor."""
    import torch

    transformers = _library()
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    images = SiglipImageProcessorPil(size={"height": 16, "width": 16})
    tokenizer = make_tokenizer(None)
    tokenizer.model_input_names = ["input_ids"]
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 260, "max_position_embeddings": 24, "projection_size": 16}
    text |= {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}
    torch.manual_seed(0)
    config = transformers.SiglipConfig(text_config=text, vision_config=_VISION)
    transformers.SiglipModel(config).save_pretrained(folder)
    transformers.SiglipProcessor(images, tokenizer).save_pretrained(folder)
    return folder
