//! Broken GGUF files are refused at once, without allocating what they declare.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use sconce_kernels::dtype::Dtype;

use crate::{
    gguf_file::{GgufFile, TensorEntry, Value, open_bytes, open_sparse},
    peak_mib, read_all, refusal,
};

const MAX_TIME: Duration = Duration::from_secs(10);
const MAX_MIB: u64 = 256;

/// Changes a good file and expects the refusal to say `expected`.
fn refused(expected: &str, change: impl FnOnce(&mut GgufFile)) {
    let mut file = GgufFile::llama(Dtype::F32, 0);
    change(&mut file);
    let start = Instant::now();

    let opened = file.open();
    let refusal = refusal(opened.and_then(|file| file.tokenizer_json().map(|_| file)));

    assert!(refusal.contains(expected), "{expected}: {refusal}");
    assert!(start.elapsed() < MAX_TIME, "{expected}: {:?}", start.elapsed());
    assert!(peak_mib() < MAX_MIB, "{expected}: {} MiB", peak_mib());
}

fn norm(file: &mut GgufFile) -> &mut TensorEntry {
    file.tensor("output_norm.weight")
}

/// An array's bytes: type and number of elements, then nothing.
fn array_header(kind: u32, len: u64) -> Value {
    Value::Raw(9, [&kind.to_le_bytes()[..], &len.to_le_bytes()].concat())
}

#[test]
fn wrong_magic_and_versions_are_refused() {
    refused("starts with FUGG", |file| file.magic = *b"FUGG");
    refused("GGUF version 1", |file| file.version = 1);
    refused("GGUF version 4", |file| file.version = 4);
    refused("big-endian", |file| file.version = 3u32.swap_bytes());
}

#[test]
fn huge_counts_are_refused() {
    for count in [1 << 20, 1 << 40, u64::MAX] {
        refused("tensors", |file| file.num_tensors = Some(count));
        refused("metadata entries", |file| file.num_metadata = Some(count));
    }
    for len in [1 << 23, 1 << 60, u64::MAX] {
        refused("", |file| file.set("a", array_header(0, len)));
        refused("", |file| file.set("a", array_header(8, len)));
        refused("", |file| file.set("a", array_header(9, len)));
    }
    for len in [1 << 30, 1 << 60, u64::MAX] {
        refused("pass the file's end", |file| {
            file.set("a", Value::Raw(8, len.to_le_bytes().to_vec()))
        });
    }
}

#[test]
fn impossible_tensors_are_refused() {
    for dims in
        [vec![0], vec![1 << 63, 2], vec![1 << 32, 1 << 32], vec![u64::MAX; 4], vec![1 << 40]]
    {
        refused("impossible dimension", |file| norm(file).dims = dims);
    }
    refused("0 dimensions", |file| norm(file).dims = vec![]);
    refused("5 dimensions", |file| norm(file).dims = vec![1; 5]);
    refused("impossible shape", |file| {
        norm(file).kind = 8;
        norm(file).dims = vec![33];
    });
    refused("of unknown type 4", |file| norm(file).kind = 4);
    refused("of unknown type 1000", |file| norm(file).kind = 1000);
}

#[test]
fn tensors_outside_of_the_file_are_refused() {
    let len = GgufFile::llama(Dtype::F32, 0).bytes().1.len() as u64;
    refused("the file ends at", |file| norm(file).offset = Some(len - 4));
    refused("the file ends at", |file| norm(file).offset = Some(len * 2));
    refused("the file ends at", |file| norm(file).offset = Some(u64::MAX - 8));
}

#[test]
fn names_that_come_twice_are_refused() {
    refused("metadata has \"llama.block_count\" twice", |file| {
        file.metadata.push(("llama.block_count".to_owned(), Value::U32(2)));
    });
    refused("two tensors \"output_norm.weight\"", |file| {
        let twin = norm(file).clone();
        file.tensors.push(twin);
    });
    refused("is no name", |file| norm(file).name = "output_norm.weight\0".to_owned());
    refused("tokens 3 and 5 are both", |file| {
        let tokens = ["a", "b", "c", "d", "e", "d"].map(str::to_owned).to_vec();
        file.set("tokenizer.ggml.token_type", Value::I32s(vec![1; 6]));
        file.set("tokenizer.ggml.tokens", Value::Strs(tokens));
        file.remove("tokenizer.ggml.bos_token_id");
        file.remove("tokenizer.ggml.eos_token_id");
    });
}

#[test]
fn broken_metadata_is_refused() {
    refused("alignment is 0", |file| file.set("general.alignment", Value::U32(0)));
    refused("alignment is 33", |file| file.set("general.alignment", Value::U32(33)));
    refused("boolean 2", |file| file.set("a", Value::Raw(7, vec![2])));
    refused("unknown type 13", |file| file.set("a", Value::Raw(13, vec![])));
    refused("not UTF-8", |file| {
        file.set("a", Value::Raw(8, [&1u64.to_le_bytes()[..], &[0xff]].concat()))
    });
    refused("rms_norm_eps is NaN", |file| {
        file.set("llama.attention.layer_norm_rms_epsilon", Value::F32(f32::NAN));
    });
    refused("rope_theta is inf", |file| {
        file.set("llama.rope.freq_base", Value::F32(f32::INFINITY))
    });
    for key in ["embedding_length", "feed_forward_length", "block_count", "attention.head_count"] {
        for value in [0, 3, u32::MAX] {
            refused("", |file| file.set(&format!("llama.{key}"), Value::U32(value)));
        }
    }
    refused("token 1 is 1025 bytes long", |file| {
        file.set("tokenizer.ggml.model", Value::Str("llama"));
        file.set("tokenizer.ggml.tokens", Value::Strs(vec!["a".to_owned(), "b".repeat(1025)]));
        file.set("tokenizer.ggml.token_type", Value::I32s(vec![1; 2]));
        file.set("tokenizer.ggml.scores", Value::F32s(vec![0.0; 2]));
        file.remove("tokenizer.ggml.bos_token_id");
        file.remove("tokenizer.ggml.eos_token_id");
    });
    refused("merge", |file| {
        file.set("tokenizer.ggml.merges", Value::Strs(vec!["h ee".to_owned()]))
    });
    refused("lacks llama.context_length", |file| file.remove("llama.context_length"));
}

#[test]
fn a_header_cut_anywhere_is_refused() {
    let (header_len, bytes) = GgufFile::llama(Dtype::F32, 0).bytes();

    for len in (0..header_len).step_by(7).chain([bytes.len() - 1]) {
        assert!(open_bytes(&bytes[..len]).is_err(), "{len}");
    }
}

#[test]
fn a_header_as_long_as_a_huge_file_allows_stays_small() {
    let mut file = GgufFile::llama(Dtype::F32, 0);
    // The file is large enough for all of it, so that only the limits refuse it.
    file.set("a", array_header(0, 8 << 30));
    let array = refusal(open_sparse(&file.bytes().1, 16 << 30));
    file.set("a", Value::Raw(8, (8u64 << 30).to_le_bytes().to_vec()));
    let string = refusal(open_sparse(&file.bytes().1, 16 << 30));
    file.remove("a");
    file.num_tensors = Some(1 << 20);
    let start = Instant::now();
    let tensors = refusal(open_sparse(&file.bytes().1, 16 << 30));

    assert!(array.contains("pass 8388608 elements"), "{array}");
    assert!(string.contains("longer than"), "{string}");
    assert!(tensors.contains("is no name"), "{tensors}");
    assert!(start.elapsed() < MAX_TIME);
    assert!(peak_mib() < MAX_MIB, "{} MiB", peak_mib());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_change_of_bytes_does_more_than_refuse(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..9),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        let (header_len, mut bytes) = GgufFile::llama(Dtype::Q8_0, 8).bytes();
        for (at, value) in &changes {
            bytes[at.index(header_len)] = *value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let start = Instant::now();

        let file = crate::gguf_file::write(&bytes);
        if let Ok(checkpoint) = sconce::weights::Checkpoint::open(file.path()) {
            read_all(&checkpoint);
        }

        prop_assert!(start.elapsed() < MAX_TIME);
        prop_assert!(peak_mib() < MAX_MIB);
    }
}
