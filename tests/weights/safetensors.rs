//! Directories with safetensors: the tiny references, and what may be wrong with such files.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use proptest::prelude::*;
use sconce::{
    models::config::{RopeScaling, RopeStyle},
    weights::Checkpoint,
};
use sconce_kernels::dtype::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokenizers::Tokenizer;

use crate::{peak_mib, read_all, refusal};

const TIED: &str = "gqa_tied_bf16";
const SHARDED: &str = "llama3_rope_f16_sharded";
const SHARD: &str = "model-00001-of-00002.safetensors";

fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tiny").join(name)
}

/// A copy of a reference, to be changed.
fn copy(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(reference(name)).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            continue;
        }
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

pub(crate) fn change_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

/// Header and data of a safetensors file.
pub(crate) fn parts(bytes: &[u8]) -> (Value, Vec<u8>) {
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + len]).unwrap(), bytes[8 + len..].to_vec())
}

pub(crate) fn join(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// Changes the tied reference's header and expects the refusal to say `expected`.
fn refused_header(expected: &str, change: impl FnOnce(&mut Value)) {
    let dir = copy(TIED);
    let path = dir.path().join("model.safetensors");
    let (mut header, data) = parts(&fs::read(&path).unwrap());
    change(&mut header);
    fs::write(&path, join(&header.to_string(), &data)).unwrap();

    let refusal = refusal(Checkpoint::open(dir.path()));

    assert!(refusal.contains(expected), "{expected}: {refusal}");
}

/// Sets a key of the tied reference's `config.json` and expects the refusal to say `expected`.
fn refused_config(key: &str, value: Value, expected: &str) {
    let dir = copy(TIED);
    change_json(&dir.path().join("config.json"), |config| config[key] = value);

    let refusal = refusal(Checkpoint::open(dir.path()));

    assert!(refusal.contains(expected), "{key}: {refusal}");
}

#[test]
fn reads_the_references() {
    for (name, dtype, kv_heads, head_dim) in [
        (TIED, Dtype::BF16, 2, 16),
        (SHARDED, Dtype::F16, 1, 16),
        ("yarn_wide_heads_f32", Dtype::F32, 2, 32),
        ("linear_rope_mha_bf16", Dtype::BF16, 4, 16),
    ] {
        let checkpoint = Checkpoint::open(&reference(name)).unwrap();

        let config = checkpoint.config();
        assert_eq!((config.num_key_value_heads, config.head_dim), (kv_heads, head_dim), "{name}");
        assert_eq!(config.tie_word_embeddings, !checkpoint.has_tensor("lm_head.weight"));
        assert_eq!(config.rope.style, RopeStyle::Half);
        let tensor = checkpoint.tensor("model.layers.1.self_attn.k_proj.weight").unwrap();
        assert_eq!(
            (tensor.dtype, tensor.shape.as_slice()),
            (dtype, &[kv_heads * head_dim, 32][..])
        );
        let values = tensor.to_f32().unwrap();
        assert_eq!(values.len(), kv_heads * head_dim * 32);
        // Drawn with a deviation of 1.5 / sqrt(32).
        let square: f32 = values.iter().map(|x| x * x).sum();
        let deviation = (square / values.len() as f32).sqrt();
        assert!((0.2..0.33).contains(&deviation), "{name}: {deviation}");
    }
}

#[test]
fn reads_the_scaling_of_rope() {
    let scaling = |name| Checkpoint::open(&reference(name)).unwrap().config().rope.scaling.clone();

    assert_eq!(scaling(TIED), RopeScaling::None);
    assert_eq!(scaling("linear_rope_mha_bf16"), RopeScaling::Linear { factor: 4.0 });
    assert_eq!(
        scaling(SHARDED),
        RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 32,
        }
    );
    assert_eq!(
        scaling("yarn_wide_heads_f32"),
        RopeScaling::Yarn {
            factor: 8.0,
            original_max_position_embeddings: 32,
            beta_fast: 8.0,
            beta_slow: 1.0,
            attention_factor: None,
        }
    );
}

#[test]
fn the_older_spelling_of_rope_means_the_same() {
    let dir = copy(TIED);
    change_json(&dir.path().join("config.json"), |config| {
        config.as_object_mut().unwrap().remove("rope_parameters");
        config["rope_theta"] = json!(5e5);
        config["rope_scaling"] = json!({"type": "linear", "factor": 2.0});
    });

    let checkpoint = Checkpoint::open(dir.path()).unwrap();

    assert_eq!(checkpoint.config().rope.theta, 5e5);
    assert_eq!(checkpoint.config().rope.scaling, RopeScaling::Linear { factor: 2.0 });
}

#[test]
fn texts_to_embed_end_with_the_end_token_if_the_tokenizer_says_so() {
    let dir = copy(TIED);
    change_json(&dir.path().join("tokenizer_config.json"), |config| {
        config["add_bos_token"] = json!(true);
        config["add_eos_token"] = json!(true);
    });

    let checkpoint = Checkpoint::open_for_any_task(dir.path()).unwrap();

    let tokenizer = Tokenizer::from_bytes(checkpoint.tokenizer_json().unwrap()).unwrap();
    let ids = tokenizer.encode("a", true).unwrap().get_ids().to_vec();
    assert_eq!((ids.len(), ids[0], ids[2]), (3, 0, 2));
    assert!(refusal(Checkpoint::open(dir.path())).contains("add_eos_token"));
}

#[test]
fn refuses_what_it_would_embed_otherwise() {
    let embedder = || {
        let dir = copy("../embedders/mistral");
        let pooling = reference("../embedders/mistral/1_Pooling/config.json");
        fs::create_dir(dir.path().join("1_Pooling")).unwrap();
        fs::copy(pooling, dir.path().join("1_Pooling/config.json")).unwrap();
        dir
    };
    let refused = |dir: &TempDir| refusal(Checkpoint::open_for_any_task(dir.path()));
    assert!(Checkpoint::open_for_any_task(embedder().path()).is_ok());

    let dir = embedder();
    change_json(&dir.path().join("modules.json"), |modules| {
        modules[1]["type"] = json!("sentence_transformers.models.Dense");
    });
    assert!(refused(&dir).contains("Dense, supported: Transformer, Pooling, Normalize"));
    let dir = embedder();
    change_json(&dir.path().join("1_Pooling/config.json"), |pooling| {
        pooling["pooling_mode_weightedmean_tokens"] = json!(true);
    });
    assert!(refused(&dir).contains("mean, weightedmean, supported: mean, cls, max, lasttoken"));
}

#[test]
fn reads_the_tokenizers_files() {
    let dir = copy(TIED);
    let of_file = Checkpoint::open(&dir.path().join("model.safetensors")).unwrap();
    fs::write(dir.path().join("chat_template.jinja"), "{{ newer }}").unwrap();
    let tokenizer_config = dir.path().join("tokenizer_config.json");
    change_json(&tokenizer_config, |config| config["add_bos_token"] = json!(true));

    let of_dir = Checkpoint::open(dir.path()).unwrap();

    assert!(of_file.chat_template().unwrap().contains("<|im_start|>"));
    assert_eq!(of_dir.chat_template(), Some("{{ newer }}"));
    assert_eq!(of_file.special_tokens()["eos_token"], "<|im_end|>");
    assert_eq!((of_file.bos_token_id(), of_file.eos_token_ids()), (Some(0), &[0, 2][..]));
    assert_eq!((of_file.add_bos_token(), of_dir.add_bos_token()), (false, true));
    let tokenizer = Tokenizer::from_bytes(of_file.tokenizer_json().unwrap()).unwrap();
    let ids = tokenizer.encode("the <|im_end|>", false).unwrap().get_ids().to_vec();
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "the <|im_end|>");
}

#[test]
fn a_post_processor_that_begins_with_bos_adds_it() {
    let dir = copy(TIED);
    change_json(&dir.path().join("tokenizer_config.json"), |config| {
        config.as_object_mut().unwrap().remove("add_bos_token");
    });
    assert!(!Checkpoint::open(dir.path()).unwrap().add_bos_token());
    change_json(&dir.path().join("tokenizer.json"), |tokenizer| {
        tokenizer["post_processor"] = json!({"type": "Sequence", "processors": [{
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}],
        }]});
    });

    assert!(Checkpoint::open(dir.path()).unwrap().add_bos_token());
}

#[test]
fn refuses_what_it_would_compute_wrongly() {
    refused_config("architectures", json!(["Qwen4ForCausalLM"]), "Qwen4ForCausalLM");
    refused_config("architectures", json!(null), "supported: LlamaForCausalLM");
    refused_config("attention_bias", json!(true), "attention_bias");
    refused_config("mlp_bias", json!(true), "mlp_bias");
    refused_config("hidden_act", json!("gelu"), "hidden_act in config.json is gelu");
    refused_config("sliding_window", json!(64), "sliding_window in config.json is 64");
    refused_config("quantization_config", json!({"quant_method": "bitsandbytes"}), "bitsandbytes");
    refused_config("partial_rotary_factor", json!(0.5), "partial_rotary_factor");
    refused_config("layer_types", json!(["sliding_attention"]), "sliding_attention");
    refused_config("query_pre_attn_scalar", json!(256), "query_pre_attn_scalar");
    refused_config("final_logit_softcapping", json!(30.0), "final_logit_softcapping");
    refused_config("auto_map", json!({"AutoModelForCausalLM": "m.M"}), "code of its own");
    refused_config("logits_scaling", json!(8.0), "logits_scaling");
    refused_config("rope_parameters", json!({"rope_type": "dynamic", "factor": 2.0}), "dynamic");
    refused_config("rope_parameters", json!({"rope_type": "yarn", "short": [1.0]}), "short");
    refused_config("rope_parameters", json!({"rope_type": "linear"}), "lacks factor");
    refused_config("rms_norm_eps", json!(-1.0), "rms_norm_eps is -1");
    refused_config("num_key_value_heads", json!(3), "do not share");
    refused_config("vocab_size", json!(u64::MAX), "vocab_size is 18446744073709551615");
    refused_config("num_hidden_layers", json!(100_000_000), "no tensor model.layers.2");
    refused_config("vocab_size", json!(100), "has shape [288, 32]");
    refused_config("tie_word_embeddings", json!(false), "no tensor lm_head.weight");
    refused_config("eos_token_id", json!(288), "token 288 is special");
}

#[test]
fn mistral_has_a_window_unless_it_says_otherwise() {
    let dir = copy(TIED);
    let opened = |num_positions: usize| {
        change_json(&dir.path().join("config.json"), |config| {
            config["architectures"] = json!(["MistralForCausalLM"]);
            config["max_position_embeddings"] = json!(num_positions);
        });
        Checkpoint::open(dir.path())
    };

    assert_eq!(opened(4096).unwrap().config().window(0), None);
    assert_eq!(opened(4097).unwrap().config().window(1), Some(4096));
}

/// Sets a key of a reference's `config.json` and expects the refusal to say `expected`.
fn refused_of(name: &str, key: &str, value: Value, expected: &str) {
    let dir = copy(name);
    change_json(&dir.path().join("config.json"), |config| config[key] = value);

    let refusal = refusal(Checkpoint::open(dir.path()));

    assert!(refusal.contains(expected), "{name}, {key}: {refusal}");
}

#[test]
fn refuses_what_it_would_compute_wrongly_of_families() {
    let (mistral, qwen2) = ("mistral_window_bf16", "qwen2_biases_tied_f32");
    let (moe, gemma3) = ("qwen3_moe_bf16", "gemma3_f32");
    refused_of(mistral, "sliding_window", json!(0), "sliding_window is 0");
    refused_of(mistral, "sliding_window", json!("wide"), "sliding_window in config.json");
    refused_of(
        mistral,
        "layer_types",
        json!(["full_attention", "full_attention"]),
        "full_attention",
    );
    refused_of(qwen2, "layer_types", json!(["sliding_attention"]), "1 layer_types of 2 layers");
    refused_of(
        qwen2,
        "layer_types",
        json!(["chunked_attention", "chunked_attention"]),
        "chunked_attention",
    );
    refused_of(qwen2, "attention_bias", json!(true), "attention_bias");
    refused_of("qwen3_bf16", "num_experts", json!(4), "num_experts in config.json is 4");
    refused_of(moe, "num_experts_per_tok", json!(7), "num_experts_per_tok is 7, at most 6");
    refused_of(moe, "num_experts_per_tok", json!(0), "num_experts_per_tok is 0");
    refused_of(moe, "mlp_only_layers", json!([0]), "mlp_only_layers");
    refused_of(moe, "decoder_sparse_step", json!(2), "decoder_sparse_step");
    refused_of(moe, "num_experts", json!(5), "mlp.gate.weight has shape [6, 32]");
    refused_of(moe, "moe_intermediate_size", json!(16), "has shape [");
    refused_of("mixtral_f32", "num_local_experts", json!(600), "at most 512");
    let stretched = json!({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]});
    refused_of("phi3_bf16", "rope_parameters", stretched, "_factor of RoPE");
    refused_of("phi3_bf16", "num_key_value_heads", json!(2), "no tensor model.layers.0.self_attn");
    refused_of(gemma3, "hidden_activation", json!("silu"), "hidden_act in config.json is silu");
    refused_of(gemma3, "use_bidirectional_attention", json!(true), "bidirectional");
    refused_of(gemma3, "query_pre_attn_scalar", json!(-1.0), "the scale of attention");
    refused_of("gemma2_bf16", "final_logit_softcapping", json!(-1.0), "final_logit_softcapping");
}

#[test]
fn reads_what_families_do_otherwise() {
    let config = |name| Checkpoint::open(&reference(name)).unwrap().config().clone();

    let windows = |name| {
        let config = config(name);
        (0..config.num_hidden_layers).map(|layer| config.window(layer)).collect::<Vec<_>>()
    };
    assert_eq!(windows("mistral_window_bf16"), [Some(11), Some(11)]);
    assert_eq!(windows("qwen2_biases_tied_f32"), [None, Some(9)]);
    assert_eq!(windows("gemma2_bf16"), [Some(10), None]);
    assert_eq!(windows("gemma3_f32"), [Some(10), None, Some(10)]);
    assert!(config("qwen2_biases_tied_f32").attention_bias);
    assert!(config("qwen3_bf16").variant.qk_norm);
    let gemma3 = config("gemma3_f32");
    assert_eq!(gemma3.rope.scaling, RopeScaling::Linear { factor: 8.0 });
    assert_eq!(gemma3.sliding_rope().unwrap().theta, 100.0);
    assert_eq!(gemma3.attention_scale(), 20.0_f32.sqrt().recip());
    let experts = config("qwen3_moe_bf16").variant.experts.unwrap();
    assert_eq!((experts.num_experts, experts.num_experts_per_tok), (6, 3));
}

#[test]
fn older_files_say_the_same_of_gemma3() {
    let dir = copy("gemma3_f32");
    change_json(&dir.path().join("config.json"), |config| {
        let config = config.as_object_mut().unwrap();
        for key in ["rope_parameters", "layer_types", "_sliding_window_pattern"] {
            config.remove(key);
        }
        for key in ["tie_word_embeddings", "attn_logit_softcapping", "hidden_activation"] {
            config.remove(key);
        }
        config.insert("rope_theta".to_owned(), json!(5000.0));
        config.insert("rope_local_base_freq".to_owned(), json!(100.0));
        config.insert("rope_scaling".to_owned(), json!({"rope_type": "linear", "factor": 8.0}));
        config.insert("sliding_window_pattern".to_owned(), json!(2));
    });

    let checkpoint = Checkpoint::open(dir.path()).unwrap();

    let expected = Checkpoint::open(&reference("gemma3_f32")).unwrap();
    assert_eq!(checkpoint.config(), expected.config());
}

#[test]
fn of_a_model_that_sees_images_the_decoder_is_read() {
    let dir = copy("gemma3_f32");
    change_json(&dir.path().join("config.json"), |config| {
        let text = config.clone();
        *config = json!({
            "architectures": ["Gemma3ForConditionalGeneration"],
            "text_config": text,
            "vision_config": {"hidden_size": 8},
        });
    });
    let path = dir.path().join("model.safetensors");
    let (header, data) = parts(&fs::read(&path).unwrap());
    let renamed = header.as_object().unwrap().iter().map(|(name, tensor)| match name.as_str() {
        "__metadata__" => (name.clone(), tensor.clone()),
        _ => (format!("language_model.{name}"), tensor.clone()),
    });
    let mut renamed: serde_json::Map<_, _> = renamed.collect();
    renamed.insert(
        "vision_tower.empty".to_owned(),
        json!({"dtype": "F32", "shape": [1], "data_offsets": [data.len(), data.len() + 4]}),
    );
    let header = Value::Object(renamed).to_string();
    fs::write(&path, join(&header, &[data, vec![0; 4]].concat())).unwrap();

    let checkpoint = Checkpoint::open(dir.path()).unwrap();

    let expected = Checkpoint::open(&reference("gemma3_f32")).unwrap();
    assert_eq!(checkpoint.config(), expected.config());
    assert!(!checkpoint.has_tensor("vision_tower.empty"));
    // What is beside the decoder's part still counts.
    change_json(&dir.path().join("config.json"), |config| {
        config["quantization_config"] = json!({"quant_method": "bitsandbytes"});
    });
    assert!(refusal(Checkpoint::open(dir.path())).contains("bitsandbytes"));
}

#[test]
fn broken_headers_are_refused() {
    let norm = "model.norm.weight";
    refused_header("of type I16, supported: F32", |h| h[norm]["dtype"] = json!("I16"));
    refused_header("invalid shape", |h| h[norm]["shape"] = json!([0]));
    refused_header("impossible shape", |h| h[norm]["shape"] = json!([u64::MAX, 2]));
    refused_header("more than 8 dimensions", |h| h[norm]["shape"] = json!(vec![1; 9]));
    refused_header("is broken", |h| h[norm]["shape"] = json!([16]));
    refused_header("the file ends at", |h| {
        h[norm]["data_offsets"] = json!([1u64 << 60, (1u64 << 60) + 64])
    });
    refused_header("is broken", |h| h[norm]["data_offsets"] = json!([64, 0]));
    refused_header("is broken", |h| h[norm] = json!(null));
    refused_header("bytes of tensors after", |h| {
        let last = h.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
        let last = last.max_by_key(|(_, t)| t["data_offsets"][1].as_u64()).unwrap().0.clone();
        h.as_object_mut().unwrap().remove(&last);
    });
}

#[test]
fn broken_files_are_refused() {
    let dir = copy(TIED);
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let (header, data) = parts(&bytes);
    let twice = header.to_string().replacen('{', "{\"__metadata__\":{},", 1);
    for (broken, expected) in [
        (vec![], "shorter than 8 bytes"),
        (bytes[..7].to_vec(), "shorter than 8 bytes"),
        (bytes[..bytes.len() - 1].to_vec(), "the file ends at"),
        ([&bytes[..], &[0]].concat(), "bytes of tensors after"),
        ([&u64::MAX.to_le_bytes(), &bytes[8..]].concat(), "header of 18446744073709551615 bytes"),
        (join(&twice, &data), "\"__metadata__\" comes twice"),
        (join(&"[".repeat(100_000), &data), "is broken"),
    ] {
        fs::write(&path, &broken).unwrap();

        let refusal = refusal(Checkpoint::open(dir.path()));

        assert!(refusal.contains(expected), "{expected}: {refusal}");
    }
}

#[test]
fn a_huge_header_is_refused_without_reading_it() {
    let dir = copy(TIED);
    let path = dir.path().join("model.safetensors");
    fs::write(&path, (1u64 << 33).to_le_bytes()).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(1 << 34).unwrap();
    let start = Instant::now();

    let refusal = refusal(Checkpoint::open(dir.path()));

    assert!(refusal.contains("header of 8589934592 bytes"), "{refusal}");
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(peak_mib() < 256);
}

#[test]
fn broken_shards_are_refused() {
    let refused = |expected: &str, change: &dyn Fn(&Path)| {
        let dir = copy(SHARDED);
        change(dir.path());
        let refusal = refusal(Checkpoint::open(dir.path()));
        assert!(refusal.contains(expected), "{expected}: {refusal}");
    };
    let index = |dir: &Path, change: &dyn Fn(&mut Value)| {
        change_json(&dir.join("model.safetensors.index.json"), |index| {
            change(&mut index["weight_map"]);
        });
    };

    refused("cannot read", &|dir| fs::remove_file(dir.join(SHARD)).unwrap());
    refused("which is no safetensors file here", &|dir| {
        index(dir, &|map| map["lm_head.weight"] = json!("../model.safetensors"));
    });
    refused("which is no safetensors file here", &|dir| {
        index(dir, &|map| map["lm_head.weight"] = json!("pytorch_model.bin"));
    });
    refused("no tensor model.extra", &|dir| index(dir, &|map| map["model.extra"] = json!(SHARD)));
    refused("in another shard", &|dir| {
        index(dir, &|map| {
            for file in map.as_object_mut().unwrap().values_mut() {
                *file =
                    json!(if *file == SHARD { "model-00002-of-00002.safetensors" } else { SHARD });
            }
        });
    });
    refused("in another shard too", &|dir| {
        fs::copy(dir.join(SHARD), dir.join("x.safetensors")).unwrap();
        index(dir, &|map| {
            map.as_object_mut().unwrap().retain(|_, file| file != SHARD);
            map["a"] = json!(SHARD);
            map["b"] = json!("x.safetensors");
        });
    });
}

#[test]
fn what_is_no_checkpoint_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| refusal(Checkpoint::open(&dir.path().join(name)));

    assert!(open("").contains("neither model.safetensors nor"), "{}", open(""));
    fs::write(dir.path().join("pytorch_model.bin"), b"PK\x03\x04").unwrap();
    assert!(open("").contains("pickled weights are not read"), "{}", open(""));
    assert!(open("pytorch_model.bin").contains("pickled weights"));
    assert!(open("absent").contains("cannot read"));
    fs::write(dir.path().join("notes.txt"), b"hello").unwrap();
    assert!(open("notes.txt").contains("of another kind"));
    fs::copy(reference(TIED).join("model.safetensors"), dir.path().join("model.safetensors"))
        .unwrap();
    assert!(open("").contains("no config.json beside them"), "{}", open(""));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_change_of_bytes_does_more_than_refuse(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
        file in prop::sample::select(vec!["model.safetensors", "config.json", "tokenizer_config.json"]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"] {
            fs::copy(reference(TIED).join(name), dir.path().join(name)).unwrap();
        }
        let mut bytes = fs::read(dir.path().join(file)).unwrap();
        let header_len = bytes.len().min(2200);
        for (at, value) in &changes {
            bytes[at.index(header_len)] = *value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        fs::write(dir.path().join(file), bytes).unwrap();
        let start = Instant::now();

        if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
            read_all(&checkpoint);
        }

        prop_assert!(start.elapsed() < Duration::from_secs(10));
        prop_assert!(peak_mib() < 256);
    }
}
