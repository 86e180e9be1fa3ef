"""Every usage example of transformers' documentation of OLMo, OLMo 2 and OLMo 3, run with the import changed.

Each example is a function of the class that it imports, and is run with our class and with transformers' own. The
checkpoint names in it are folders with a tiny random model.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, pipeline

from hooks import Olmo2Config, Olmo3Config, OlmoConfig, OlmoForCausalLM, OlmoModel

CHECKPOINTS = {"olmo": "allenai/OLMo-7B-hf", "olmo2": "allenai/OLMo-2-0425-1B", "olmo3": "allenai/Olmo-3-1025-7B"}
CONFIGS = {"olmo": OlmoConfig, "olmo2": Olmo2Config, "olmo3": Olmo3Config}
ONE_FAMILY = pytest.mark.parametrize("family", ["olmo2"])  # quantised weights of all families: test_backends
REVISION = "stage1-step140000-tokens294B"
PROMPT = "Plants create energy through a process known as"
CHAT = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
)


def save_checkpoint(folder: Path, model: transformers.PreTrainedModel) -> None:
    """The files of a published checkpoint: transformers' model, and a word tokenizer with a chat template."""
    model.save_pretrained(folder)
    words = [*PROMPT.split(), "Hey", "Bitcoin", "is", "Language", "modeling", "user", "assistant", "What", "language?"]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(["pad", *words]))}
    vocabulary |= {f"w{index}": index for index in range(len(vocabulary), model.config.vocab_size)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="pad"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="pad", padding_side="left", model_input_names=["input_ids", "attention_mask"]
    )
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)


@pytest.fixture
def checkpoint(make_pair, family, tmp_path, monkeypatch) -> str:
    """The name of a published checkpoint, as a local folder."""
    name = CHECKPOINTS[family]
    save_checkpoint(tmp_path / name, make_pair(family, hidden_size=64, intermediate_size=128).theirs)
    monkeypatch.chdir(tmp_path)
    return name


def assert_same_text(example: Callable[[Any], str], theirs: type = AutoModelForCausalLM) -> None:
    """With the same random state, the example generates the same text with our class, and more than its prompt."""
    texts = []
    for model_class in (OlmoForCausalLM, theirs):
        torch.manual_seed(0)  # pipelines sample
        texts.append(example(model_class))
    assert texts[0] == texts[1]
    assert len(texts[0].split()) >= 10


# The models' pages


def test_pipeline(checkpoint):
    def example(model_class: Any) -> str:
        model, tokenizer = model_class.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
        pipe = pipeline(task="text-generation", model=model, tokenizer=tokenizer)
        return pipe(PROMPT, max_new_tokens=10)[0]["generated_text"]

    assert_same_text(example)


@pytest.fixture
def registered(monkeypatch) -> None:
    """Our class registered for transformers' Auto class, as in transformers' documentation of custom models."""
    monkeypatch.setattr(AutoModelForCausalLM._model_mapping, "_extra_content", {})
    for config in CONFIGS.values():
        hooked = type("HookedOlmo", (OlmoForCausalLM,), {"config_class": config})
        AutoModelForCausalLM.register(config, hooked, exist_ok=True)


@pytest.mark.usefixtures("registered")
def test_pipeline_by_name_with_our_class_registered(checkpoint):
    pipe = pipeline(task="text-generation", model=checkpoint)
    assert isinstance(pipe.model, OlmoForCausalLM)
    with pipe.model.tapped(capture="blocks.*.resid_post") as runs:
        assert pipe(PROMPT, max_new_tokens=10)[0]["generated_text"].startswith(PROMPT)
    assert len(runs) == 10


@pytest.mark.usefixtures("registered")
def test_auto_model_by_name_with_our_class_registered(checkpoint):
    model = AutoModelForCausalLM.from_pretrained(checkpoint, device_map="auto", attn_implementation="sdpa")
    assert isinstance(model, OlmoForCausalLM)
    assert model.run(torch.tensor([[1, 2, 3]]), capture="blocks.1.attn.pattern").nbytes


def test_auto_model(checkpoint):
    def example(model_class: Any) -> str:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        model = model_class.from_pretrained(checkpoint, device_map="auto", attn_implementation="sdpa")
        input_ids = tokenizer(PROMPT, return_tensors="pt").to(model.device)
        output = model.generate(**input_ids, max_length=50, cache_implementation="static")
        return tokenizer.decode(output[0], skip_special_tokens=True)

    assert_same_text(example)


@ONE_FAMILY
def test_quantised_to_four_bits(checkpoint):
    def example(model_class: Any) -> str:
        quantization_config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_use_double_quant=True, bnb_4bit_quant_type="nf4"
        )
        model = model_class.from_pretrained(
            checkpoint, attn_implementation="sdpa", device_map="auto", quantization_config=quantization_config
        )
        assert "4bit" in type(model.model.layers[0].mlp.up_proj).__name__
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        inputs = tokenizer("Bitcoin is", return_tensors="pt").to(model.device)
        output = model.generate(**inputs, max_length=64)
        return tokenizer.decode(output[0])

    assert_same_text(example)


def test_revision(make_model, family, tmp_path, monkeypatch):
    """Two revisions of one repository, in the hub's cache."""
    repository = tmp_path / f"models--{CHECKPOINTS[family].replace('/', '--')}"
    kept = {revision: make_model(family, seed) for seed, revision in enumerate(["main", REVISION])}
    for revision, model in kept.items():
        save_checkpoint(repository / "snapshots" / f"of-{revision}", model)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(f"of-{revision}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    model = OlmoForCausalLM.from_pretrained(CHECKPOINTS[family], revision=REVISION, device_map="auto")
    assert torch.equal(model.lm_head.weight, kept[REVISION].lm_head.weight)
    assert not torch.equal(model.lm_head.weight, kept["main"].lm_head.weight)


# The classes' own documentation


def test_configuration(family):
    """The default configuration, with 7 billion parameters, on the meta device."""
    with torch.device("meta"):
        configuration = CONFIGS[family]()
        model = OlmoModel(configuration)
        theirs = getattr(transformers, f"{family.title()}Model")(CONFIGS[family]())
    assert model.config is configuration
    shapes = {name: parameter.shape for name, parameter in theirs.named_parameters()}
    assert {name: parameter.shape for name, parameter in model.named_parameters()} == shapes
    assert sum(shape.numel() for shape in shapes.values()) > 6e9


def test_generate(checkpoint, family):
    def example(model_class: Any) -> str:
        model = model_class.from_pretrained(checkpoint)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        inputs = tokenizer("Hey is language modeling a process", return_tensors="pt")
        generate_ids = model.generate(inputs.input_ids, max_length=30)
        return tokenizer.batch_decode(generate_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)[0]

    assert_same_text(example, theirs=getattr(transformers, f"{family.title()}ForCausalLM"))


# The checkpoints' own pages


def test_sampling(checkpoint):
    def example(model_class: Any) -> str:
        olmo, tokenizer = model_class.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
        inputs = tokenizer(["Language modeling is "], return_tensors="pt", return_token_type_ids=False)
        response = olmo.generate(**inputs, max_new_tokens=20, do_sample=True, top_k=50, top_p=0.95)
        return tokenizer.batch_decode(response, skip_special_tokens=True)[0]

    assert_same_text(example)


@ONE_FAMILY
def test_eight_bits(checkpoint):
    def example(model_class: Any) -> str:
        quantization_config = BitsAndBytesConfig(load_in_8bit=True)
        olmo = model_class.from_pretrained(checkpoint, dtype=torch.float16, quantization_config=quantization_config)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        response = olmo.generate(**tokenizer("Language modeling is", return_tensors="pt"), max_new_tokens=10)
        return tokenizer.decode(response[0])

    assert_same_text(example)


def test_chat(checkpoint):
    def example(model_class: Any) -> str:
        olmo, tokenizer = model_class.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
        chat = [{"role": "user", "content": "What is language modeling"}]
        inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        response = olmo.generate(**inputs, max_new_tokens=10)
        return tokenizer.batch_decode(response)[0]

    assert_same_text(example)


def test_chat_pipeline(checkpoint):
    def example(model_class: Any) -> str:
        model, tokenizer = model_class.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
        messages = [{"role": "user", "content": "What is language modeling"}]
        replies = pipeline("text-generation", model=model, tokenizer=tokenizer)(messages, max_new_tokens=10)
        said = replies[0]["generated_text"][-1]
        assert said["role"] == "assistant"
        return said["content"]

    assert_same_text(example)
