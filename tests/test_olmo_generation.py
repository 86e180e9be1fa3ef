"""transformers' features work with our OLMo as with its own: generation, pipelines, files, compilation."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, StaticCache, TextIteratorStreamer, pipeline

from hooks import OlmoForCausalLM, OlmoModel
from tests.fixtures import GROUPED

STRATEGIES = {
    "greedy": {"do_sample": False},
    "greedy without a cache": {"do_sample": False, "use_cache": False},
    "greedy with a static cache": {"do_sample": False, "cache_implementation": "static"},
    "sampling": {"do_sample": True, "temperature": 0.8, "top_k": 20, "top_p": 0.9},
    "several samples": {"do_sample": True, "num_return_sequences": 3},
    "beam search": {"num_beams": 3, "num_return_sequences": 2},
    "beam sampling": {"num_beams": 2, "do_sample": True},
    "prompt lookup": {"do_sample": False, "prompt_lookup_num_tokens": 2},
    "repetition penalty": {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    "prefill in chunks": {"do_sample": False, "prefill_chunk_size": 4},
}


@GROUPED
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_generation(pair, tokens, strategy):
    prompt = tokens[:1] if strategy == "prompt lookup" else tokens
    options = {"max_new_tokens": 8, **STRATEGIES[strategy]}
    texts = []
    for model in (pair.ours, pair.theirs):
        torch.manual_seed(0)
        texts.append(model.generate(prompt, attention_mask=torch.ones_like(prompt), **options))
    assert texts[0].shape[1] == 14 + 8
    assert torch.equal(*texts)


@GROUPED
@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_with_left_padding(pair, padded, cache, beams):
    options = {"max_new_tokens": 8, "do_sample": False, "num_beams": beams, "cache_implementation": cache}
    ours = pair.ours.generate(padded.input_ids, attention_mask=padded.attention_mask, **options)
    assert torch.equal(ours, pair.theirs.generate(padded.input_ids, attention_mask=padded.attention_mask, **options))
    for row, real in enumerate(padded.real):
        alone = pair.ours.generate(padded.input_ids[row, real][None], **options)
        assert torch.equal(ours[row, 14:], alone[0, real.sum() :])


def test_generation_goes_on_from_a_cache(model, tokens):
    whole = model.generate(tokens, max_new_tokens=8, do_sample=False)
    first = model.generate(tokens, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    options = {"attention_mask": torch.ones_like(first.sequences), "max_new_tokens": 5, "do_sample": False}
    assert torch.equal(model.generate(first.sequences, past_key_values=first.past_key_values, **options), whole)


def test_generation_from_embeddings(model, tokens):
    embeddings = model.get_input_embeddings()(tokens)
    options = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(model.generate(inputs_embeds=embeddings, **options), model.generate(tokens, **options)[:, 14:])


@GROUPED
def test_what_generation_returns(pair, tokens):
    options = {
        "max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True, "output_scores": True,
        "output_logits": True, "output_attentions": True, "output_hidden_states": True,
    }  # fmt: skip
    ours, theirs = pair.ours.generate(tokens, **options), pair.eager.generate(tokens, **options)
    for mine, reference in zip(ours.scores + ours.logits, theirs.scores + theirs.logits, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=5e-5)
    for field in ("attentions", "hidden_states"):
        for mine, reference in zip(getattr(ours, field), getattr(theirs, field), strict=True):
            for layer, other in zip(mine, reference, strict=True):
                torch.testing.assert_close(layer, other, rtol=1e-4, atol=5e-5)


def test_streaming(model, tokens, tokenizer):
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    text = model.generate(tokens[:1], max_new_tokens=5, do_sample=False, streamer=streamer)
    assert "".join(streamer).split() == tokenizer.convert_ids_to_tokens(text[0, 14:])


@GROUPED
def test_pipeline(pair, tokenizer):
    texts = []
    for model in (pair.ours, pair.theirs):
        generator = pipeline("text-generation", model=model, tokenizer=tokenizer)
        texts.append(generator(["w3 w14 w15", "w92"], max_new_tokens=5, do_sample=False, batch_size=2))
    assert texts[0] == texts[1]
    assert texts[0][0][0]["generated_text"].startswith("w3 w14 w15w")


# Files


def test_our_files_are_theirs(pair, tokens, tmp_path):
    pair.ours.save_pretrained(tmp_path)
    theirs, report = type(pair.theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert theirs.config.architectures == [type(pair.theirs).__name__]
    assert torch.equal(theirs.eval()(tokens).logits, pair.theirs(tokens).logits)
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path), type(pair.theirs))


@pytest.mark.parametrize("sharded", [False, True])
def test_their_files_are_ours(pair, tokens, tmp_path, sharded):
    pair.theirs.save_pretrained(tmp_path, **({"max_shard_size": "40KB"} if sharded else {}))
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 or not sharded
    ours, report = OlmoForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert not ours.training
    assert type(ours.config) is type(pair.ours.config)
    assert torch.equal(ours(tokens).logits, pair.ours(tokens).logits)


def test_the_bare_model_reads_a_whole_checkpoint(pair, tokens, tmp_path):
    pair.theirs.save_pretrained(tmp_path)
    ours = OlmoModel.from_pretrained(tmp_path)
    assert torch.equal(ours(tokens).last_hidden_state, pair.ours.model(tokens).last_hidden_state)


@pytest.mark.parametrize("spelling", ["dtype", "torch_dtype"])
def test_precision_is_chosen_while_loading(model, tmp_path, spelling):
    model.save_pretrained(tmp_path)
    half = OlmoForCausalLM.from_pretrained(tmp_path, **{spelling: torch.bfloat16})
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


def test_another_family_is_refused(tmp_path):
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"llama.*olmo"):
        OlmoForCausalLM.from_pretrained(tmp_path)


def test_resized_embeddings(make_model, family, tokens):
    for tied in (False, True):
        model = make_model(family, tie_word_embeddings=tied)
        before = model(tokens).logits
        model.resize_token_embeddings(120, mean_resizing=False)
        after = model(tokens).logits
        assert after.shape == (2, 14, 120)
        assert model.config.vocab_size == 120
        torch.testing.assert_close(after[..., :99], before)
        assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied


# Precision and compilation

KINDS = ["sliding_attention", "full_attention"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_to_float32_as_theirs(make_pair, family, tokens, dtype):
    pair = make_pair(family)
    truth = pair.theirs(tokens).logits
    ours, theirs = pair.ours.to(dtype)(tokens).logits, pair.theirs.to(dtype)(tokens).logits
    assert ours.dtype == dtype
    assert (ours - truth).norm() <= 1.2 * (theirs - truth).norm()
    assert (theirs - truth).norm() < 0.1 * truth.norm()
    static = StaticCache(config=pair.ours.config, max_cache_len=20)
    with_cache = pair.ours(tokens, past_key_values=static, use_cache=True).logits
    assert (with_cache - truth).norm() <= 1.5 * (theirs - truth).norm()


def test_half_precision_with_taps(make_model, family, tokens):
    model = make_model(family).to(torch.bfloat16)
    run = model.run(tokens, capture="*")
    assert {run[name].dtype for name in run if not name.endswith("scale")} == {torch.bfloat16}
    assert (run.logits - model(tokens).logits).norm() < 0.1 * run.logits.norm()


@pytest.mark.parametrize("family", ["olmo", "olmo3"])  # OLMo 2 is OLMo 3 without windows
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside torch's own tracer
def test_compiles_without_a_graph_break(make_model, family, tokens):
    model = make_model(family, num_hidden_layers=2, **({} if family != "olmo3" else {"layer_types": KINDS}))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(tokens).logits, model(tokens).logits)
        cache = StaticCache(config=model.config, max_cache_len=20)
        assert compiled(tokens, past_key_values=cache, use_cache=True).logits.shape == (2, 14, 99)


def test_threads_may_load_at_once(make_model, tmp_path):
    """Loading patches transformers' classes temporarily; loading in several threads must not leave them patched."""
    make_model("olmo", tie_word_embeddings=True).save_pretrained(tmp_path)
    with ThreadPoolExecutor(4) as threads:
        models = list(threads.map(lambda _: OlmoForCausalLM.from_pretrained(tmp_path), range(40)))
    for model in [*models, OlmoForCausalLM.from_pretrained(tmp_path)]:
        assert model.lm_head.weight is model.get_input_embeddings().weight
