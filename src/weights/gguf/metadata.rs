//! A GGUF file's metadata, by type. A value of another type than its key has is an error.

use std::{collections::HashMap, path::PathBuf};

use candle_core::quantized::gguf_file::Value;

use crate::weights::Error;

/// The metadata and the path that errors name.
pub(super) struct Metadata {
    pub(super) path: PathBuf,
    pub(super) values: HashMap<String, Value>,
}

impl Metadata {
    pub(super) fn malformed(&self, reason: impl Into<String>) -> Error {
        Error::malformed(&self.path, reason)
    }

    pub(super) fn usize(&self, key: &str) -> Result<Option<usize>, Error> {
        let number = match self.values.get(key) {
            None => return Ok(None),
            Some(Value::U8(value)) => Some(usize::from(*value)),
            Some(Value::U16(value)) => Some(usize::from(*value)),
            Some(Value::U32(value)) => usize::try_from(*value).ok(),
            Some(Value::U64(value)) => usize::try_from(*value).ok(),
            Some(Value::I32(value)) => usize::try_from(*value).ok(),
            Some(Value::I64(value)) => usize::try_from(*value).ok(),
            Some(_) => None,
        };
        number.map(Some).ok_or_else(|| self.wrong_type(key, "a count"))
    }

    pub(super) fn required_usize(&self, key: &str) -> Result<usize, Error> {
        self.usize(key)?.ok_or_else(|| self.malformed(format!("its metadata lacks {key}")))
    }

    pub(super) fn f32(&self, key: &str) -> Result<Option<f32>, Error> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::F32(value)) => Ok(Some(*value)),
            Some(_) => Err(self.wrong_type(key, "a 32-bit float")),
        }
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(self.wrong_type(key, "a boolean")),
        }
    }

    pub(super) fn str(&self, key: &str) -> Result<Option<&str>, Error> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(_) => Err(self.wrong_type(key, "a string")),
        }
    }

    pub(super) fn strings(&self, key: &str) -> Result<Option<Vec<&str>>, Error> {
        self.array(key, "strings", |value| match value {
            Value::String(value) => Some(value.as_str()),
            _ => None,
        })
    }

    pub(super) fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>, Error> {
        self.array(key, "32-bit integers", |value| match value {
            Value::I32(value) => Some(*value),
            Value::U32(value) => i32::try_from(*value).ok(),
            _ => None,
        })
    }

    pub(super) fn bools(&self, key: &str) -> Result<Option<Vec<bool>>, Error> {
        self.array(key, "booleans", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    pub(super) fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, Error> {
        self.array(key, "32-bit floats", |value| match value {
            Value::F32(value) => Some(*value),
            _ => None,
        })
    }

    fn array<'a, T>(
        &'a self,
        key: &str,
        elements: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Error> {
        let values = match self.values.get(key) {
            None => return Ok(None),
            Some(Value::Array(values)) => values.iter().map(convert).collect::<Option<Vec<_>>>(),
            Some(_) => None,
        };
        values.map(Some).ok_or_else(|| self.wrong_type(key, &format!("an array of {elements}")))
    }

    pub(super) fn is_array(&self, key: &str) -> bool {
        matches!(self.values.get(key), Some(Value::Array(_)))
    }

    fn wrong_type(&self, key: &str, expected: &str) -> Error {
        self.malformed(format!("its metadata {key} is not {expected}"))
    }
}
