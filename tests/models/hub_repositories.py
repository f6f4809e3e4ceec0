"""Repositories in the layouts of published rerankers, with small random weights, and what happens to whoever uses one.

The table `REPOSITORIES` states the expected outcome; tests/models/test_hub_repositories.py tries each of them. As a
script, it writes the repositories into a folder, which tests/hub_server.py can serve::

    python -m tests.models.hub_repositories FOLDER && python tests/hub_server.py FOLDER --port 8080
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from rerank.lm.loading import quiet_transformers
from tests.backends import jina
from tests.backends.conftest import CHATML, make_model, make_tokenizer
from tests.backends.seeing import make_jina
from tests.lm.small_tokenizers import roberta, unigram, wordpiece
from tests.retrieval.encoders import save_encoder

#: What models generate about the documents.
ORDER, CHOICE = "[3] > [1] > [2] > [5] > [4]", "<answer>[2]</answer>"
GRADES = '<reason>fleas</reason>\n<answer>{"[1]": 5, "[2]": 4, "[3]": 9, "[4]": 1, "[5]": 2}</answer>'
#: Sizes of all encoders.
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
QWEN3_RERANKER = (
    "{{ 'Judge whether the Document meets the requirements based on the Query and the Instruct provided.' }}"
)


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository on the hub, and the expected outcome of ranking with it."""

    name: str
    about: str  # what is special about its layout
    make: Callable[[Path], object]  # writes the files into an empty folder
    #: The method that ranks; empty if the model is refused.
    method: str = ""
    best: int | None = None  # position of the document that is ranked first, if the weights decide it
    #: Words of the message of one line that refuses it.
    refused: tuple[str, ...] = ()
    preset: str = ""  # name of the preset by the name on the hub
    by_files: str = ""  # name of the preset of a folder with these files and another name
    renamed: str = ""  # method of such a folder; empty if it is not tried
    settings: Mapping[str, Any] = field(default_factory=dict)
    warned: str = ""  # words of the warning that Python and a server give; empty for none
    others: tuple[str, ...] = ()  # repositories that it needs
    token: str = ""  # the token that opens the repository
    sends: str = ""  # the token that the user has
    is_private: bool = False


def write_json(path: Path, **values: Any) -> None:
    """Write or complete a JSON file."""
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | values))


def script(model: Any, answer: int, end: int) -> None:
    """Make a model generate the token ``answer`` and end, whatever the prompt is: its layers add nothing.

    The product of the embeddings of the last and the next token is largest for the answer, and after it for the end;
    embeddings and head may be tied.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", ".o.weight", ".wo.weight")):
                weight.zero_()
        embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        embeddings.normal_(std=0.1)
        embeddings[:, 0], embeddings[:, 1] = 3, 0
        embeddings[answer, :2], embeddings[end, :2] = torch.tensor([4.0, 4]), torch.tensor([-20.0, 40])
        head.copy_(embeddings)


def causal(
    folder: Path,
    kind: str,
    *,
    words: tuple[str, ...] = (),
    template: str | None = CHATML,
    says: str = "",
    shard: str = "",
) -> Path:
    """A language model with a byte-level tokenizer; ``words`` are tokens, and ``says`` is all that it generates."""
    tokenizer = make_tokenizer(template)
    tokenizer.add_tokens([*words, *([says] if says else [])])
    tokenizer.add_special_tokens({"unk_token": "<unk>"})
    model = make_model(kind, vocab_size=272, max_position_embeddings=8192)
    if says:
        script(model, tokenizer.convert_tokens_to_ids(says), tokenizer.eos_token_id)
    model.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    tokenizer.save_pretrained(folder)
    return folder


def with_logit_score(folder: Path) -> None:
    """The modules that sentence-transformers 6 reads, as the authors of Qwen3-Reranker added them."""
    causal(folder, "Qwen3", words=("yes", "no"))
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    package = "sentence_transformers"
    write_json(folder / "config_sentence_transformers.json", model_type="CrossEncoder")
    types = {"": f"{package}.base.modules.transformer.Transformer"}
    types["1_LogitScore"] = f"{package}.cross_encoder.modules.logit_score.LogitScore"
    rows = [{"idx": at, "name": str(at), "path": path, "type": kind} for at, (path, kind) in enumerate(types.items())]
    (folder / "modules.json").write_text(json.dumps(rows))
    outputs = {"text": {"method": "forward", "method_output_name": "logits"}}
    write_json(
        folder / "sentence_bert_config.json",
        transformer_task="text-generation",
        modality_config=outputs,
        module_output_name="causal_logits",
    )
    (folder / "1_LogitScore").mkdir()
    write_json(folder / "1_LogitScore/config.json", true_token_id=yes, false_token_id=no)


def encoder_tokenizer(raw: Tokenizer, first: str, last: str, between: str, **marks: str) -> Any:
    """A tokenizer that encloses pairs in special tokens."""
    ids: Any = [(token, raw.token_to_id(token)) for token in dict.fromkeys((first, last))]
    raw.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first} $A {between} $B {last}", special_tokens=ids
    )
    return transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=raw, cls_token=first, sep_token=last, model_max_length=256, **marks
    )


def classifier(folder: Path, name: str, **config: Any) -> Path:
    """A classifier with one label and the tokenizer of its family."""
    if name.startswith("XLM"):
        raw = unigram()
        raw.add_special_tokens(["<s>", "</s>"])
        tokenizer = encoder_tokenizer(raw, "<s>", "</s>", "</s> </s>", pad_token="<pad>", unk_token="<unk>")
    elif name.startswith("ModernBert"):
        raw = roberta()
        raw.add_special_tokens(["[CLS]", "[SEP]", "[PAD]"])
        tokenizer = encoder_tokenizer(raw, "[CLS]", "[SEP]", "[SEP]", pad_token="[PAD]")
    else:
        tokenizer = encoder_tokenizer(wordpiece(), "[CLS]", "[SEP]", "[SEP]", pad_token="[PAD]", unk_token="[UNK]")
    torch.manual_seed(0)
    kind: Any = getattr(transformers, name)
    sizes = {**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 260, "num_labels": 1}
    tokens = {"pad_token_id": tokenizer.pad_token_id, "cls_token_id": None, "sep_token_id": None}
    tokens |= {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    kind(kind.config_class(**sizes, **tokens, initializer_range=0.5, **config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def with_other_formats(folder: Path, name: str) -> None:
    """A classifier beside copies of its weights in other formats, which nobody needs."""
    classifier(folder, name)
    for path in ("pytorch_model.bin", "flax_model.msgpack", "onnx/model.onnx", "openvino/openvino_model.bin"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(bytes(1000))
    (folder / "onnx/config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlibrary_name: sentence-transformers\n---\n")
    write_json(folder / "config.json", sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"})


def sequence_classifier(folder: Path, kind: str) -> None:
    """A conversion of a language model to a classifier, as for vLLM."""
    causal(folder, kind, words=("yes", "no", "1", "0"))
    config = transformers.AutoConfig.from_pretrained(folder, num_labels=1, pad_token_id=258)
    torch.manual_seed(0)
    getattr(transformers, f"{kind}ForSequenceClassification")(config).save_pretrained(folder)


def modular(folder: Path) -> None:
    """The modules of the Ettin rerankers: an encoder, the first token, a dense layer with a norm, and a head."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    classifier(folder / "base", "ModernBertModel")
    torch.manual_seed(1)
    vector = "sentence_embedding"
    layers = [
        Transformer(str(folder / "base")),
        Pooling(16, "cls"),
        Dense(16, 16, False, torch.nn.GELU(), module_input_name=vector, module_output_name=vector),
        LayerNorm(16),
        Dense(16, 1, True, torch.nn.Identity(), module_input_name=vector, module_output_name="scores"),
    ]
    CrossEncoder(modules=layers, device="cpu").save_pretrained(str(folder), create_model_card=False)
    for path in sorted((folder / "base").rglob("*"), reverse=True):
        path.unlink()
    (folder / "base").rmdir()


def t5_tokenizer() -> Any:
    """Words of the prompts, letters, and what LiT5 generates."""
    words = ("Query", "Document", "Relevant", "true", "false", "Search", "Passage")
    pieces = ["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in words), ORDER, "▁", *map(chr, range(33, 127))]
    scores = [(piece, -20.0 if len(piece) == 1 else -1.0) for piece in pieces]
    raw = Tokenizer(models.Unigram(scores, unk_id=2))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    marks = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=512, **marks)  # type: ignore[no-untyped-call]


def t5(folder: Path, *, sentencepiece: bool = False) -> None:
    """An encoder-decoder that generates an order; or, with ``sentencepiece``, one with spiece.model only."""
    torch.manual_seed(0)
    sizes: Any = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "initializer_factor": 5.0}
    sizes |= {"vocab_size": 110, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    model: Any = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))
    tokenizer = t5_tokenizer()
    tokenizer.save_pretrained(folder)
    if not sentencepiece:
        script(model, tokenizer.convert_tokens_to_ids(ORDER), 1)
    model.save_pretrained(folder)
    if not sentencepiece:
        return
    # The module that transformers reads such files with: a process cannot load both its own and sentencepiece's.
    from transformers.convert_slow_tokenizer import import_protobuf

    proto: Any = import_protobuf().ModelProto()  # type: ignore[no-untyped-call]
    kinds = {"<unk>": 2, "<pad>": 3, "</s>": 3}
    for piece, score in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["vocab"]:
        proto.pieces.add(piece=piece, score=score, type=kinds.get(piece, 1))
    proto.trainer_spec.model_type, proto.trainer_spec.unk_id, proto.trainer_spec.pad_id = 1, 2, 0
    proto.trainer_spec.eos_id, proto.trainer_spec.bos_id = 1, -1
    (folder / "spiece.model").write_bytes(proto.SerializeToString())
    (folder / "tokenizer.json").unlink()
    return write_json(folder / "tokenizer_config.json", tokenizer_class="T5Tokenizer", extra_ids=0)


def pickled(folder: Path) -> None:
    """Weights that only pickle reads; reading these would create a file."""
    classifier(folder, "BertForSequenceClassification")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def quantised(folder: Path, kind: str, method: str, **settings: Any) -> None:
    """A language model whose matrices have 4 bits per weight, in the tensors of GPTQ or AWQ."""
    causal(folder, kind)
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if name.endswith("_proj.weight")]:
        (rows, columns), stem = weights.pop(name).shape, name.removesuffix("weight")
        weights[f"{stem}qweight"] = torch.zeros(columns, max(1, rows // 8), dtype=torch.int32)
        weights[f"{stem}qzeros"] = torch.zeros(1, max(1, rows // 8), dtype=torch.int32)
        weights[f"{stem}scales"] = torch.ones(1, rows, dtype=torch.float16)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    write_json(
        folder / "config.json", quantization_config={"quant_method": method, "bits": 4, "group_size": 128, **settings}
    )


def lora(folder: Path) -> None:
    """An adapter that PEFT saved."""
    import peft

    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = make_model("Qwen2", vocab_size=272, max_position_embeddings=8192)
    peft.get_peft_model(model, config).save_pretrained(str(folder))
    write_json(folder / "adapter_config.json", base_model_name_or_path="Qwen/Qwen2.5-3B-Instruct")


_CODE = {
    "configuration.py": (
        "from transformers import BertConfig\n\n\nclass NewConfig(BertConfig):\n    model_type = 'new'\n"
    ),
    "modeling.py": (
        "from transformers import BertForSequenceClassification\n\nfrom .configuration import NewConfig\n\n\n"
        "class NewForSequenceClassification(BertForSequenceClassification):\n    config_class = NewConfig\n"
    ),
}


def remote_code(folder: Path, code_of: str = "") -> None:
    """A classifier whose class is in Python files, of this repository or another."""
    classifier(folder, "BertForSequenceClassification")
    prefix = f"{code_of}--" if code_of else ""
    kinds = {"AutoConfig": "configuration.NewConfig"}
    kinds["AutoModelForSequenceClassification"] = "modeling.NewForSequenceClassification"
    auto_map = {name: prefix + kind for name, kind in kinds.items()}
    write_json(
        folder / "config.json", architectures=["NewForSequenceClassification"], model_type="new", auto_map=auto_map
    )
    if not code_of:
        code(folder)


def code(folder: Path) -> None:
    for name, text in _CODE.items():
        (folder / name).write_text(text)


def embedder(folder: Path) -> None:
    """An embedding model of sentence-transformers, without the folder of its base model."""
    save_encoder(folder / "parts").rename(folder / "saved")
    for path in (folder / "saved").iterdir():
        path.rename(folder / path.name)


def gguf(folder: Path) -> None:
    """A file for llama.cpp, of which only the head is real."""
    (folder / "Qwen2.5-0.5B-Instruct-Q4_K_M.gguf").write_bytes(b"GGUF\3\0\0\0" + bytes(1000))
    (folder / "README.md").write_text("---\nbase_model: Qwen/Qwen2.5-0.5B-Instruct\n---\n")


def missing_shard(folder: Path) -> None:
    causal(folder, "Mistral", shard="40KB")
    sorted(folder.glob("*.safetensors"))[-1].unlink()


CROSS = "cross-encoder"
#: At least one repository of every layout that users meet.
REPOSITORIES = (
    Repository(
        name="Qwen/Qwen3-Reranker-0.6B",
        about="language model, scored by the logits of yes and no",
        make=partial(causal, kind="Qwen3", words=("yes", "no"), template=QWEN3_RERANKER),
        method="pointwise",
        preset="qwen3-reranker-0.6b",
        by_files="qwen3-reranker-0.6b",
        renamed="pointwise",
    ),
    Repository(
        name="Qwen/Qwen3-Reranker-4B",
        about="the same with the modules of sentence-transformers 6",
        make=with_logit_score,
        method="pointwise",
        preset="qwen3-reranker-4b",
    ),
    Repository(
        name="tomaarsen/Qwen3-Reranker-0.6B-seq-cls",
        about="conversion to a classifier",
        make=partial(sequence_classifier, kind="Qwen3"),
        method=CROSS,
        renamed="cross-encoder",
        preset="qwen3-reranker-0.6b-seq-cls",
    ),
    Repository(
        name="BAAI/bge-reranker-v2-m3",
        about="XLM-RoBERTa",
        make=partial(classifier, name="XLMRobertaForSequenceClassification"),
        method=CROSS,
        preset="bge-reranker-v2-m3",
        renamed="cross-encoder",
    ),
    Repository(
        name="cross-encoder/ms-marco-MiniLM-L6-v2",
        about="BERT, with copies in other formats",
        make=partial(with_other_formats, name="BertForSequenceClassification"),
        method=CROSS,
        preset="ms-marco-minilm-l6",
    ),
    Repository(
        name="Alibaba-NLP/gte-reranker-modernbert-base",
        about="ModernBERT",
        make=partial(classifier, name="ModernBertForSequenceClassification"),
        method=CROSS,
        preset="gte-reranker-modernbert-base",
    ),
    Repository(
        name="mixedbread-ai/mxbai-rerank-base-v2",
        about="language model, scored by the logits of 1 and 0",
        make=partial(causal, kind="Qwen2", words=("1", "0")),
        method="pointwise",
        preset="mxbai-rerank-base-v2",
        renamed="fullrank",
    ),
    Repository(
        name="jinaai/jina-reranker-v3",
        about="class of its own, with code that is not needed",
        make=jina.save,
        method="last-but-not-late",
        preset="jina-reranker-v3",
        by_files="jina-reranker-v3",
        renamed="last-but-not-late",
    ),
    Repository(
        name="jinaai/jina-reranker-m0",
        about="vision-language model with a scoring head, with code that is not needed",
        make=make_jina,
        method="head-images" if find_spec("torchvision") else "",
        refused=() if find_spec("torchvision") else ("jinaai/jina-reranker-m0", "orchvision"),
        preset="jina-reranker-m0",
        by_files="jina-reranker-m0",
        renamed="head-images",
    ),
    Repository(
        name="cross-encoder/ettin-reranker-17m-v1",
        about="modules of sentence-transformers 6: ModernBERT, pooling, dense layers, norm",
        make=modular,
        method=CROSS,
        renamed="cross-encoder",
        preset="ettin-reranker-17m",
    ),
    Repository(
        name="castorini/monot5-base-msmarco",
        about="T5 with spiece.model only",
        make=partial(t5, sentencepiece=True),
        method="monot5" if find_spec("sentencepiece") else "",
        refused=() if find_spec("sentencepiece") else ("castorini/monot5-base-msmarco", "sentencepiece"),
        preset="monot5-base",
    ),
    Repository(
        name="castorini/LiT5-Distill-base",
        about="T5 with tokenizer.json, all passages in one decoder",
        make=t5,
        method="lit5",
        best=2,
        preset="lit5-distill-base",
    ),
    Repository(
        name="castorini/rank_zephyr_7b_v1_full",
        about="weights in several files",
        make=partial(causal, kind="Mistral", shard="40KB"),
        method="sliding",
        preset="rank-zephyr-7b",
        renamed="fullrank",
    ),
    Repository(
        name="AQ-MedAI/Diver-GroupRank-7B",
        about="language model that thinks, then grades groups",
        make=partial(causal, kind="Qwen2", says=GRADES),
        method="groupwise",
        preset="grouprank-7b",
        settings={"thinking_tokens": 8},
    ),
    Repository(
        name="Qwen/Qwen2.5-3B-Instruct",
        about="base model with an adapter on the hub",
        make=partial(causal, kind="Qwen2", says=CHOICE),
        method="setwise",
        best=1,
        settings={"adapter": "ielabgroup/Setwise-SFT-3B-v0.1"},
        others=("ielabgroup/Setwise-SFT-3B-v0.1",),
    ),
    Repository(
        name="ielabgroup/Setwise-SFT-3B-v0.1",
        about="LoRA adapter, named as a model",
        make=lora,
        refused=("adapter", "--model Qwen/Qwen2.5-3B-Instruct --adapter ielabgroup/Setwise-SFT-3B-v0.1"),
        preset="setwise-sft-3b",
    ),
    Repository(
        name="acme/ranker-gptq",
        about="GPTQ",
        make=partial(quantised, kind="Qwen2", method="gptq", desc_act=False),
        refused=("acme/ranker-gptq", "needs a package", "optimum"),
    ),
    Repository(
        name="jhu-clsp/rank1-7b-awq",
        about="AWQ",
        make=partial(quantised, kind="Qwen2", method="awq", version="gemm", zero_point=True),
        refused=("jhu-clsp/rank1-7b-awq", "needs a package", "gptqmodel"),
        preset="rank1-7b",
    ),
    Repository(
        name="castorini/monobert-large-msmarco",
        about="only pytorch_model.bin, and a pull request with safetensors",
        make=pickled,
        refused=("castorini/monobert-large-msmarco", "pickled weights", "can run code"),
        preset="monobert-large",
    ),
    Repository(
        name="acme/own-code",
        about="code in the repository, without consent",
        make=remote_code,
        refused=("acme/own-code", "--trust-remote-code"),
    ),
    Repository(
        name="Alibaba-NLP/gte-multilingual-reranker-base",
        about="code in another repository, with consent",
        make=partial(remote_code, code_of="Alibaba-NLP/new-impl"),
        method=CROSS,
        preset="gte-multilingual-reranker-base",
        settings={"trust_remote_code": True},
        others=("Alibaba-NLP/new-impl",),
    ),
    Repository(
        name="HuggingFaceTB/SmolLM2-135M",
        about="language model without a chat template",
        make=partial(causal, kind="Llama", template=None),
        method="fullrank",
        warned="no chat template",
    ),
    Repository(
        name="HuggingFaceTB/SmolLM2-135M-Instruct",
        about="the embedded model by its id",
        make=partial(causal, kind="Llama"),
        method="qlm",
    ),
    Repository(
        name="BAAI/bge-reranker-base",
        about="a tag, behind which the branch has moved on",
        make=partial(classifier, name="XLMRobertaForSequenceClassification"),
        method=CROSS,
        preset="bge-reranker-base",
        settings={"revision": "v1"},
    ),
    Repository(
        name="bartowski/Qwen2.5-0.5B-Instruct-GGUF",
        about="GGUF files only",
        make=gguf,
        refused=("bartowski/Qwen2.5-0.5B-Instruct-GGUF", "GGUF"),
    ),
    Repository(
        name="meta-llama/Llama-3.2-1B-Instruct",
        about="gated, without a token",
        make=partial(causal, kind="Llama"),
        refused=("meta-llama/Llama-3.2-1B-Instruct", "terms have to be accepted", "HF_TOKEN"),
        token="hf_mine",
    ),
    Repository(
        name="google/gemma-3-1b-it",
        about="gated, with a token that may not read it",
        make=partial(causal, kind="Gemma"),
        refused=("google/gemma-3-1b-it", "terms have to be accepted"),
        token="hf_mine",
        sends="hf_other",
    ),
    Repository(
        name="acme/private",
        about="private, with its token in HF_TOKEN",
        make=partial(classifier, name="BertForSequenceClassification"),
        method=CROSS,
        token="hf_mine",
        sends="hf_mine",
        is_private=True,
    ),
    Repository(
        name="acme/missing-shard",
        about="a file of the weights is missing",
        make=missing_shard,
        refused=("acme/missing-shard", "model-0000"),
    ),
    Repository(
        name="sentence-transformers/all-MiniLM-L12-v2",
        about="embedding model",
        make=embedder,
        refused=("sentence-transformers/all-MiniLM-L12-v2", "--first-stage dense:"),
    ),
    Repository(
        name="acme/absent",
        about="no such repository",
        make=lambda folder: None,
        refused=("acme/absent", "no such repository"),
    ),
)
#: Repositories that others need.
HELPERS: dict[str, Callable[[Path], object]] = {"Alibaba-NLP/new-impl": code}


def write_all(folder: Path) -> None:
    """Write every repository into a folder of its own."""
    with quiet_transformers():
        for name, make in {**HELPERS, **{entry.name: entry.make for entry in REPOSITORIES}}.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            make(folder / name)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
