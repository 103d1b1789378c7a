//! Writes small GGUF files, good ones and, by changing them, bad ones.

use std::{io::Write, path::Path};

use sconce::weights::{Checkpoint, Error};
use sconce_kernels::dtype::Dtype;
use tempfile::NamedTempFile;

/// Every type with its number in GGUF files.
pub(crate) const DTYPES: [(Dtype, u32); 11] = [
    (Dtype::F32, 0),
    (Dtype::F16, 1),
    (Dtype::Q4_0, 2),
    (Dtype::Q4_1, 3),
    (Dtype::Q5_0, 6),
    (Dtype::Q5_1, 7),
    (Dtype::Q8_0, 8),
    (Dtype::Q4K, 12),
    (Dtype::Q5K, 13),
    (Dtype::Q6K, 14),
    (Dtype::BF16, 30),
];

pub(crate) const HIDDEN: u64 = 256;
pub(crate) const KV_WIDTH: u64 = 128;

#[derive(Clone)]
pub(crate) enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Str(&'static str),
    Strs(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    /// A type's number and bytes, right or wrong.
    Raw(u32, Vec<u8>),
}

#[derive(Clone)]
pub(crate) struct TensorEntry {
    pub(crate) name: String,
    /// As the file has them: the length of a row first.
    pub(crate) dims: Vec<u64>,
    pub(crate) kind: u32,
    /// `None`: after the tensor before.
    pub(crate) offset: Option<u64>,
    pub(crate) data: Vec<u8>,
}

/// What a file will hold.
#[derive(Clone)]
pub(crate) struct GgufFile {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    pub(crate) num_tensors: Option<u64>,
    pub(crate) num_metadata: Option<u64>,
    pub(crate) metadata: Vec<(String, Value)>,
    pub(crate) tensors: Vec<TensorEntry>,
}

impl GgufFile {
    /// A llama of one layer whose matrices have the type `kind`.
    pub(crate) fn llama(dtype: Dtype, kind: u32) -> Self {
        let mut file = Self {
            magic: *b"GGUF",
            version: 3,
            num_tensors: None,
            num_metadata: None,
            metadata: Vec::new(),
            tensors: Vec::new(),
        };
        file.set("general.architecture", Value::Str("llama"));
        for (key, value) in [
            ("block_count", 1),
            ("context_length", 128),
            ("embedding_length", 256),
            ("feed_forward_length", 512),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
        ] {
            file.set(&format!("llama.{key}"), Value::U32(value));
        }
        file.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
        file.vocabulary();
        let matrices = [
            ("token_embd", HIDDEN, 260),
            ("blk.0.attn_q", HIDDEN, HIDDEN),
            ("blk.0.attn_k", HIDDEN, KV_WIDTH),
            ("blk.0.attn_v", HIDDEN, KV_WIDTH),
            ("blk.0.attn_output", HIDDEN, HIDDEN),
            ("blk.0.ffn_gate", HIDDEN, 512),
            ("blk.0.ffn_up", HIDDEN, 512),
            ("blk.0.ffn_down", 512, HIDDEN),
        ];
        for (name, cols, rows) in matrices {
            let name = format!("{name}.weight");
            file.tensors.push(tensor(&name, &[cols, rows], dtype, kind));
        }
        for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"] {
            file.tensors.push(tensor(&format!("{name}.weight"), &[HIDDEN], Dtype::F32, 0));
        }
        file
    }

    /// Byte-level BPE of 256 bytes, a merge and three special tokens.
    fn vocabulary(&mut self) {
        let mut tokens: Vec<String> = byte_characters().map(String::from).collect();
        tokens.extend(["he", "<s>", "<|im_end|>", "<tool>"].map(str::to_owned));
        let mut types = vec![1; 257];
        types.extend([3, 3, 4]);
        self.set("tokenizer.ggml.model", Value::Str("gpt2"));
        self.set("tokenizer.ggml.pre", Value::Str("smollm"));
        self.set("tokenizer.ggml.tokens", Value::Strs(tokens));
        self.set("tokenizer.ggml.token_type", Value::I32s(types));
        self.set("tokenizer.ggml.merges", Value::Strs(vec!["h e".to_owned()]));
        self.set("tokenizer.ggml.bos_token_id", Value::U32(257));
        self.set("tokenizer.ggml.eos_token_id", Value::U32(258));
    }

    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.remove(key);
        self.metadata.push((key.to_owned(), value));
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.metadata.retain(|(known, _)| known != key);
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut TensorEntry {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    /// The header without padding, then the tensors.
    pub(crate) fn bytes(&self) -> (usize, Vec<u8>) {
        let mut out = Vec::new();
        out.extend(self.magic);
        out.extend(self.version.to_le_bytes());
        out.extend(self.num_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.num_metadata.unwrap_or(self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            push_str(&mut out, key);
            push_value(&mut out, value);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            push_str(&mut out, &tensor.name);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            out.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(offset).to_le_bytes());
            offset += (tensor.data.len() as u64).next_multiple_of(32);
        }
        let header_len = out.len();
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(&tensor.data);
        }
        (header_len, out)
    }

    pub(crate) fn open(&self) -> Result<Checkpoint, Error> {
        open_bytes(&self.bytes().1)
    }
}

pub(crate) fn open_bytes(bytes: &[u8]) -> Result<Checkpoint, Error> {
    Checkpoint::open(write(bytes).path())
}

pub(crate) fn write(bytes: &[u8]) -> NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// A file of `len` bytes whose start is `bytes`; the rest takes no disk.
pub(crate) fn open_sparse(bytes: &[u8], len: u64) -> Result<Checkpoint, Error> {
    let file = write(bytes);
    file.as_file().set_len(len).unwrap();
    let path: &Path = file.path();
    Checkpoint::open(path)
}

pub(crate) fn tensor(name: &str, dims: &[u64], dtype: Dtype, kind: u32) -> TensorEntry {
    let num_elements: u64 = dims.iter().product();
    let len = num_elements as usize / dtype.block_len() * dtype.block_bytes();
    // Any bytes are good blocks; a low high byte keeps floats finite.
    let data = (0..len).map(|i| (i * 7 + name.len()) as u8 & 0x3f).collect();
    TensorEntry { name: name.to_owned(), dims: dims.to_vec(), kind, offset: None, data }
}

fn push_str(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn push_value(out: &mut Vec<u8>, value: &Value) {
    let array = |out: &mut Vec<u8>, kind: u32, len: usize| {
        out.extend(9u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((len as u64).to_le_bytes());
    };
    match value {
        Value::U32(value) => {
            out.extend(4u32.to_le_bytes());
            out.extend(value.to_le_bytes());
        }
        Value::F32(value) => {
            out.extend(6u32.to_le_bytes());
            out.extend(value.to_le_bytes());
        }
        Value::Bool(value) => {
            out.extend(7u32.to_le_bytes());
            out.push(u8::from(*value));
        }
        Value::Str(value) => {
            out.extend(8u32.to_le_bytes());
            push_str(out, value);
        }
        Value::Strs(values) => {
            array(out, 8, values.len());
            values.iter().for_each(|value| push_str(out, value));
        }
        Value::I32s(values) => {
            array(out, 5, values.len());
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        Value::F32s(values) => {
            array(out, 6, values.len());
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        Value::Raw(kind, bytes) => {
            out.extend(kind.to_le_bytes());
            out.extend(bytes);
        }
    }
}

/// The characters by which byte-level BPE writes bytes: printable ones as they are.
fn byte_characters() -> impl Iterator<Item = char> {
    let printable = |byte: &u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let others = (0u8..=255).filter(move |byte| !printable(byte));
    let others = others.enumerate().map(|(i, _)| char::from_u32(256 + i as u32).unwrap());
    (0u8..=255).filter(printable).map(char::from).chain(others)
}
