//! Good GGUF files, and good ones that ask for what we do not have.

use sconce::models::config::{RopeScaling, RopeStyle};
use sconce::models::pooling::Pooling;
use sconce::weights::Checkpoint;
use sconce_kernels::dtype::Dtype;
use tokenizers::Tokenizer;

use crate::{
    gguf_file::{DTYPES, GgufFile, HIDDEN, KV_WIDTH, Value, tensor},
    refusal,
};

fn llama() -> GgufFile {
    GgufFile::llama(Dtype::F32, 0)
}

#[test]
fn reads_every_type_of_tensor() {
    for (dtype, kind) in DTYPES {
        let file = GgufFile::llama(dtype, kind);

        let path = crate::gguf_file::write(&file.bytes().1);
        let checkpoint = sconce::weights::Checkpoint::open(path.path()).unwrap();
        let read = checkpoint.tensor("model.layers.0.self_attn.k_proj.weight").unwrap();

        let written = file.tensors.iter().find(|t| t.name == "blk.0.attn_k.weight").unwrap();
        assert_eq!(read.dtype, dtype);
        assert_eq!(read.shape, [KV_WIDTH as usize, HIDDEN as usize]);
        assert_eq!(read.data, written.data);
    }
}

#[test]
fn reads_the_configuration() {
    let mut file = llama();
    file.set("llama.rope.freq_base", Value::F32(5e5));
    file.set("llama.rope.dimension_count", Value::U32(32));

    let checkpoint = file.open().unwrap();

    let config = checkpoint.config();
    assert_eq!((config.head_dim, config.num_key_value_heads, config.vocab_size), (64, 2, 260));
    assert_eq!((config.rope.theta, config.rope.dim), (5e5, 32));
    assert_eq!(
        (config.rope.style, &config.rope.scaling),
        (RopeStyle::Interleaved, &RopeScaling::None)
    );
    assert!(config.tie_word_embeddings);
    assert_eq!(checkpoint.eos_token_ids(), [258]);
    assert_eq!(checkpoint.bos_token_id(), Some(257));
}

#[test]
fn an_output_matrix_is_an_untied_head() {
    let mut file = llama();
    file.tensors.push(tensor("output.weight", &[HIDDEN, 260], Dtype::Q8_0, 8));

    let checkpoint = file.open().unwrap();

    assert!(!checkpoint.config().tie_word_embeddings);
    assert!(checkpoint.has_tensor("lm_head.weight"));
}

#[test]
fn reads_the_scaling_of_rope() {
    let mut linear = llama();
    linear.set("llama.rope.scaling.type", Value::Str("linear"));
    linear.set("llama.rope.scaling.factor", Value::F32(4.0));
    let mut yarn = linear.clone();
    yarn.set("llama.rope.scaling.type", Value::Str("yarn"));
    yarn.set("llama.rope.scaling.original_context_length", Value::U32(64));
    let mut factors = llama();
    factors.tensors.push(tensor("rope_freqs.weight", &[32], Dtype::F32, 0));
    factors.tensor("rope_freqs.weight").data =
        (1..33).flat_map(|i| (i as f32).to_le_bytes()).collect();

    let scaling = |file: &GgufFile| file.open().unwrap().config().rope.scaling.clone();

    assert_eq!(scaling(&linear), RopeScaling::Linear { factor: 4.0 });
    assert_eq!(
        scaling(&yarn),
        RopeScaling::Yarn {
            factor: 4.0,
            original_max_position_embeddings: 64,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
        }
    );
    let expected = (1..33).map(|i| i as f32).collect();
    assert_eq!(scaling(&factors), RopeScaling::Factors(expected));
}

#[test]
fn a_pooling_type_makes_it_an_embedder() {
    let pooling = |kind: u32| {
        let mut file = llama();
        file.set("llama.pooling_type", Value::U32(kind));
        file.open().map(|checkpoint| checkpoint.pooler().map(|pooler| pooler.pooling))
    };

    assert_eq!(llama().open().unwrap().pooler(), None);
    assert_eq!(pooling(0).unwrap(), None);
    assert_eq!(pooling(1).unwrap(), Some(Pooling::Mean));
    assert_eq!(pooling(2).unwrap(), Some(Pooling::Cls));
    assert_eq!(pooling(3).unwrap(), Some(Pooling::Last));
    assert!(pooling(4).err().unwrap().to_string().contains("pooling_type is 4"));
}

#[test]
fn texts_to_embed_end_with_the_end_token_if_the_file_wants_it() {
    let mut file = llama();
    file.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    file.set("tokenizer.ggml.add_eos_token", Value::Bool(true));
    let path = crate::gguf_file::write(&file.bytes().1);

    let checkpoint = Checkpoint::open_for_any_task(path.path()).unwrap();

    let tokenizer = Tokenizer::from_bytes(checkpoint.tokenizer_json().unwrap()).unwrap();
    let ids = tokenizer.encode("a", true).unwrap().get_ids().to_vec();
    assert_eq!((ids.len(), ids[0], ids[2]), (3, 257, 258));
    assert!(checkpoint.check_generates().is_err());
}

#[test]
fn refuses_what_it_would_compute_wrongly() {
    let cases = [
        (
            "general.architecture",
            Value::Str("mamba"),
            "general.architecture is mamba, supported: llama",
        ),
        ("llama.expert_count", Value::U32(8), "lacks llama.expert_used_count"),
        ("llama.expert_weights_norm", Value::Bool(true), "expert_weights_norm"),
        ("llama.attention.scale", Value::F32(0.1), "attention.scale"),
        (
            "llama.rope.scaling.type",
            Value::Str("longrope"),
            "longrope, supported: none, linear, yarn",
        ),
        ("llama.attention.value_length", Value::U32(32), "shape"),
        ("llama.attention.head_count_kv", Value::I32s(vec![2]), "head_count_kv is not a count"),
        (
            "tokenizer.ggml.model",
            Value::Str("t5"),
            "tokenizer.ggml.model is t5, supported: gpt2, llama",
        ),
        ("tokenizer.ggml.pre", Value::Str("new"), "tokenizer.ggml.pre is new, supported: gpt-2"),
        ("tokenizer.ggml.add_eos_token", Value::Bool(true), "add_eos_token"),
        ("tokenizer.ggml.eos_token_id", Value::U32(260), "260 in a vocabulary of 260"),
    ];
    for (key, value, expected) in cases {
        let mut file = llama();
        file.set(key, value);

        let refusal = refusal(file.open());

        assert!(refusal.contains(expected), "{key}: {refusal}");
    }
}

#[test]
fn refuses_other_tensors_than_a_llamas() {
    let refused = |change: fn(&mut GgufFile)| {
        let mut file = llama();
        change(&mut file);
        refusal(file.open())
    };

    let unknown = refused(|file| {
        file.tensors.push(tensor("blk.0.attn_sinks.weight", &[64], Dtype::F32, 0));
    });
    let of_others = refused(|file| {
        file.tensors.push(tensor("blk.0.attn_q_norm.weight", &[64], Dtype::F32, 0));
    });
    let beyond = refused(|file| {
        file.tensors.push(tensor("blk.1.attn_norm.weight", &[HIDDEN], Dtype::F32, 0));
    });
    let missing = refused(|file| file.tensors.retain(|t| t.name != "blk.0.ffn_up.weight"));
    let shape = refused(|file| {
        *file.tensor("blk.0.attn_q.weight") =
            tensor("blk.0.attn_q.weight", &[HIDDEN, 128], Dtype::F32, 0)
    });
    let quantised = refused(|file| {
        *file.tensor("output_norm.weight") = tensor("output_norm.weight", &[HIDDEN], Dtype::Q8_0, 8)
    });
    let kind = refused(|file| file.tensor("blk.0.ffn_up.weight").kind = 10);

    assert!(unknown.contains("attn_sinks"), "{unknown}");
    assert!(of_others.contains("self_attn.q_norm"), "{of_others}");
    assert!(beyond.contains("model.layers.1.input_layernorm"), "{beyond}");
    assert!(missing.contains("no tensor model.layers.0.mlp.up_proj.weight"), "{missing}");
    assert!(shape.contains("has shape [128, 256], the configuration needs [256, 256]"), "{shape}");
    assert!(quantised.contains("model.norm.weight is stored as Q8_0"), "{quantised}");
    assert!(kind.contains("of type Q2_K, supported: F32"), "{kind}");
}

#[test]
fn makes_a_byte_level_tokenizer() {
    let mut file = llama();
    file.set("tokenizer.ggml.add_bos_token", Value::Bool(true));

    let checkpoint = file.open().unwrap();
    let tokenizer = Tokenizer::from_bytes(checkpoint.tokenizer_json().unwrap()).unwrap();

    assert!(checkpoint.add_bos_token());
    let encoding = tokenizer.encode("he<|im_end|><tool>", true).unwrap();
    assert_eq!(encoding.get_ids(), [257, 256, 258, 259]);
    assert_eq!(tokenizer.decode(&[257, 256, 259], true).unwrap(), "he<tool>");
}

#[test]
fn makes_a_sentence_piece_tokenizer() {
    let mut file = llama();
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    let mut types = vec![6; 259];
    types[..3].copy_from_slice(&[2, 3, 3]);
    let mut scores = vec![0.0; 259];
    // "▁ab" is better than "bc", whatever comes first.
    for (token, score) in [
        ("▁", -9.0),
        ("a", -9.1),
        ("b", -9.2),
        ("c", -9.3),
        ("bc", -2.0),
        ("▁a", -1.5),
        ("▁ab", -1.0),
    ] {
        tokens.push(token.to_owned());
        types.push(1);
        scores.push(score);
    }
    *file.tensor("token_embd.weight") =
        tensor("token_embd.weight", &[HIDDEN, tokens.len() as u64], Dtype::F32, 0);
    file.set("tokenizer.ggml.model", Value::Str("llama"));
    file.set("tokenizer.ggml.pre", Value::Str("default"));
    file.set("tokenizer.ggml.tokens", Value::Strs(tokens));
    file.set("tokenizer.ggml.token_type", Value::I32s(types));
    file.set("tokenizer.ggml.scores", Value::F32s(scores));
    file.set("tokenizer.ggml.bos_token_id", Value::U32(1));
    file.set("tokenizer.ggml.eos_token_id", Value::U32(2));
    file.set("tokenizer.ggml.unknown_token_id", Value::U32(0));

    let checkpoint = file.open().unwrap();
    let tokenizer = Tokenizer::from_bytes(checkpoint.tokenizer_json().unwrap()).unwrap();

    assert!(checkpoint.add_bos_token());
    let ids = |text| tokenizer.encode(text, false).unwrap().get_ids().to_vec();
    assert_eq!(ids("abc"), [265, 262]);
    assert_eq!(ids(" bc"), [259, 259, 263]);
    assert_eq!(ids("é"), [259, 3 + 0xc3, 3 + 0xa9]);
    assert_eq!(tokenizer.encode("a</s>", true).unwrap().get_ids(), [1, 264, 2]);
    assert_eq!(tokenizer.decode(&[265, 262, 3 + 0xc3, 3 + 0xa9], true).unwrap(), "abcé");
}
