//! The header of a safetensors file.
//!
//! The safetensors crate checks that the tensors fill the data without gap or overlap; here its
//! input is bounded and compared with the file, and names that come twice are refused.

use std::{collections::HashSet, fmt, sync::Arc};

use safetensors::tensor::{Dtype as SafeDtype, Metadata, TensorInfo};
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::weights::{
    Error,
    file::{Stored, WeightFile},
};

/// The limit of the format.
const MAX_HEADER_BYTES: u64 = 100_000_000;
const MAX_TENSORS: usize = 1 << 20;
const MAX_DIMS: usize = 8;

/// Where the tensors of `file` lie.
pub(super) fn tensors(file: &Arc<WeightFile>) -> Result<Vec<(String, Stored)>, Error> {
    let head = file.head(8)?;
    let Ok(header_len) = head.try_into().map(u64::from_le_bytes) else {
        return Err(file.malformed("it is shorter than 8 bytes"));
    };
    if header_len > MAX_HEADER_BYTES || header_len > file.len() - 8 {
        return Err(file.malformed(format!("it declares a header of {header_len} bytes")));
    }
    let header = &file.head(8 + header_len)?[8..];
    let Header(tensors) =
        serde_json::from_slice(header).map_err(|error| file.malformed(error.to_string()))?;
    let mut stored = Vec::with_capacity(tensors.len());
    for (name, info) in &tensors {
        // Counted by old versions of transformers, as integers; nobody needs them.
        if name.ends_with(".position_ids") {
            continue;
        }
        let offset = (8 + header_len).saturating_add(info.data_offsets.0 as u64);
        let tensor = file.stored(name, info.dtype, &info.shape, offset)?;
        stored.push((name.clone(), tensor));
    }
    let metadata = Metadata::new(None, in_file_order(tensors));
    let metadata = metadata.map_err(|error| file.malformed(error.to_string()))?;
    let expected = (8 + header_len).checked_add(metadata.data_len() as u64);
    if expected != Some(file.len()) {
        let (data, len) = (metadata.data_len(), file.len());
        let reason = format!("{data} bytes of tensors after {header_len} of header in {len}");
        return Err(file.malformed(reason));
    }
    Ok(stored)
}

fn in_file_order(mut tensors: Vec<(String, TensorInfo)>) -> Vec<(String, TensorInfo)> {
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    tensors
}

/// The tensors in a header's JSON.
struct Header(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut names = HashSet::new();
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(de::Error::custom(format!("{name:?} comes twice")));
            }
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if tensors.len() == MAX_TENSORS {
                return Err(de::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            let entry: Entry = map.next_value()?;
            let Entry { dtype, shape: Shape(shape), data_offsets } = entry;
            tensors.push((name, TensorInfo { dtype, shape, data_offsets }));
        }
        Ok(Header(tensors))
    }
}

#[derive(Deserialize)]
struct Entry {
    dtype: SafeDtype,
    shape: Shape,
    data_offsets: (usize, usize),
}

/// A shape of a bounded number of dimensions.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ShapeVisitor).map(Self)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Vec<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of dimensions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<usize>, A::Error> {
        let mut shape = Vec::new();
        while let Some(dim) = seq.next_element()? {
            if shape.len() == MAX_DIMS {
                return Err(de::Error::custom(format!("more than {MAX_DIMS} dimensions")));
            }
            shape.push(dim);
        }
        Ok(shape)
    }
}
