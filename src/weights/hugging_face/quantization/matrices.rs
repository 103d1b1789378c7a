//! Puts the tensors of a quantized matrix together.
//!
//! Numbers of bits and groups follow from the tensors' shapes, so that modules may differ.

use std::collections::HashMap;

use safetensors::Dtype as StoredDtype;

use super::Quantization;
use crate::models::config::DecoderConfig;
use crate::weights::Error;
use crate::weights::file::{Span, Stored};
use crate::weights::packed::{Codes, Packed, Places, Zeros, floats};

/// Tensors by name.
type Tensors = HashMap<String, Stored>;

/// Scales of what is not weights: activations are scaled token by token here, and the KV cache as the
/// worker was told.
const IGNORED: [&str; 8] = [
    ".input_scale",
    ".input_zero_point",
    ".output_scale",
    ".k_scale",
    ".v_scale",
    ".q_scale",
    ".kv_scale",
    ".activation_scale",
];

impl Quantization {
    /// Takes what quantized matrices are made of out of the tensors, and returns the matrices.
    pub(in super::super) fn take_matrices(
        self,
        tensors: &mut Tensors,
        config: Option<&DecoderConfig>,
    ) -> Result<HashMap<String, Span>, Error> {
        tensors.retain(|name, _| !IGNORED.iter().any(|ending| name.ends_with(ending)));
        let mut modules: Vec<String> = tensors
            .iter()
            .filter_map(|(name, tensor)| Some(self.module(name, tensor)?.to_owned()))
            .collect();
        modules.sort_unstable();
        let mut matrices = HashMap::with_capacity(modules.len());
        for module in modules {
            let mut parts = Module { name: &module, tensors };
            let packed = match self {
                Self::Gptq { below } => parts.gptq(below, config)?,
                Self::Awq => parts.awq(config)?,
                Self::Compressed { block } => parts.compressed(block)?,
            };
            let name = format!("{module}.weight");
            packed.check(&name)?;
            let shape = packed.shape().to_vec();
            let Some(span) = Span::packed(packed) else {
                return Err(Error::unsupported(
                    name,
                    format!("of shape {shape:?}"),
                    "one that fits",
                ));
            };
            matrices.insert(name, span);
        }
        Ok(matrices)
    }

    /// The module whose codes a tensor holds.
    fn module<'a>(self, name: &'a str, tensor: &Stored) -> Option<&'a str> {
        match self {
            Self::Gptq { .. } | Self::Awq => name.strip_suffix(".qweight"),
            Self::Compressed { .. } => name.strip_suffix(".weight_packed").or_else(|| {
                let is_codes = matches!(tensor.dtype, StoredDtype::I8 | StoredDtype::F8_E4M3);
                name.strip_suffix(".weight").filter(|_| is_codes)
            }),
        }
    }
}

/// The tensors of one module.
struct Module<'a> {
    name: &'a str,
    tensors: &'a mut Tensors,
}

impl Module<'_> {
    fn optional(&mut self, part: &str) -> Option<Stored> {
        self.tensors.remove(&format!("{}.{part}", self.name))
    }

    fn take(&mut self, part: &str) -> Result<Stored, Error> {
        let name = format!("{}.{part}", self.name);
        self.tensors.remove(&name).ok_or(Error::MissingTensor(name))
    }

    /// A tensor of this type and number of dimensions.
    fn typed<const N: usize>(
        &mut self,
        part: &str,
        dtype: StoredDtype,
    ) -> Result<(Stored, [usize; N]), Error> {
        let tensor = self.take(part)?;
        match <[usize; N]>::try_from(tensor.shape.as_slice()) {
            Ok(shape) if tensor.dtype == dtype => Ok((tensor, shape)),
            _ => {
                let found = format!("{:?} {:?}", tensor.dtype, tensor.shape);
                let name = format!("{}.{part}", self.name);
                let supported = format!("{dtype:?} of {N} dimensions");
                Err(Error::unsupported(name, found, supported))
            }
        }
    }

    fn gptq(&mut self, below: u16, config: Option<&DecoderConfig>) -> Result<Packed, Error> {
        let (weight, [words, n]) = self.typed("qweight", StoredDtype::I32)?;
        let (zeros, [num_groups, zero_words]) = self.typed("qzeros", StoredDtype::I32)?;
        let scales = self.take("scales")?;
        self.drop_bias(config)?;
        let bits = (32 * zero_words).checked_div(n).unwrap_or(0);
        self.check_bits(bits, &[4, 8])?;
        let k = words.saturating_mul(32 / bits);
        let group = self.group(&weight, k, num_groups)?;
        let g_idx = self.g_idx("g_idx", k, group)?;
        Ok(Packed {
            codes: Codes::Columns { bits },
            zeros: match bits {
                8 if self.is_middle(&zeros, below)? => Zeros::Middle,
                _ => Zeros::Groups { tensor: zeros, below },
            },
            weight,
            scales,
            places: Places { row_block: 1, row_stride: 1, group_stride: n },
            g_idx,
            shape: [n, k],
            group,
        })
    }

    /// Whether all 8-bit zero points are 128.
    fn is_middle(&self, zeros: &Stored, below: u16) -> Result<bool, Error> {
        Ok(zeros.read()?.iter().all(|zero| u16::from(*zero) + below == 128))
    }

    fn awq(&mut self, config: Option<&DecoderConfig>) -> Result<Packed, Error> {
        let (weight, [k, words]) = self.typed("qweight", StoredDtype::I32)?;
        let (zeros, [num_groups, _]) = self.typed("qzeros", StoredDtype::I32)?;
        let scales = self.take("scales")?;
        self.drop_bias(config)?;
        let n = words.saturating_mul(8);
        Ok(Packed {
            codes: Codes::Awq,
            zeros: Zeros::Awq { tensor: zeros },
            scales,
            places: Places { row_block: 1, row_stride: 1, group_stride: n },
            g_idx: None,
            shape: [n, k],
            group: self.group(&weight, k, num_groups)?,
            weight,
        })
    }

    fn compressed(&mut self, block: Option<[usize; 2]>) -> Result<Packed, Error> {
        let scales = match self.optional("weight_scale_inv") {
            Some(scales) => scales,
            None => self.take("weight_scale")?,
        };
        let (weight, codes, [n, k]) = match self.optional("weight_packed") {
            Some(weight) => self.of_words(weight)?,
            None => self.of_bytes()?,
        };
        let (places, group) = self.places(&scales, [n, k], block)?;
        let zeros = match (self.optional("weight_zero_point"), codes) {
            (None, _) => Zeros::Middle,
            (Some(tensor), Codes::Rows { .. }) if tensor.dtype == StoredDtype::I32 => {
                Zeros::Rows { tensor }
            }
            (Some(tensor), _) if tensor.dtype == StoredDtype::I8 => Zeros::Int8 { tensor },
            // Written for weights that are symmetric, too.
            (Some(tensor), Codes::E4M3) => {
                self.check_zeros("weight_zero_point", &tensor)?;
                Zeros::Middle
            }
            (Some(tensor), _) => {
                let name = format!("{}.weight_zero_point", self.name);
                let found = format!("of type {:?}", tensor.dtype);
                return Err(Error::unsupported(name, found, "I32 with packed codes, I8"));
            }
        };
        let g_idx = self.g_idx("weight_g_idx", k, group)?;
        Ok(Packed { codes, weight, scales, places, zeros, g_idx, shape: [n, k], group })
    }

    /// Packed codes: their number of bits is how many there are of.
    fn of_words(&mut self, weight: Stored) -> Result<(Stored, Codes, [usize; 2]), Error> {
        let (shape, _) = self.typed::<1>("weight_shape", StoredDtype::I64)?;
        let bytes = shape.read()?;
        let dims: Vec<_> = bytes.as_chunks().0.iter().map(|dim| i64::from_le_bytes(*dim)).collect();
        let dims: Vec<_> = dims.iter().filter_map(|dim| usize::try_from(*dim).ok()).collect();
        let (&[n, k], &[rows, words]) = (dims.as_slice(), weight.shape.as_slice()) else {
            let reason = format!("{} has {dims:?} dimensions", self.name);
            return Err(weight.malformed(reason));
        };
        if weight.dtype != StoredDtype::I32 || rows != n || k == 0 {
            let found = format!("{:?} {:?} for {dims:?}", weight.dtype, weight.shape);
            return Err(Error::unsupported(format!("{}.weight_packed", self.name), found, "I32"));
        }
        let bits = words.saturating_mul(32) / k;
        self.check_bits(bits, &[4, 8])?;
        Ok((weight, Codes::Rows { bits }, [n, k]))
    }

    fn of_bytes(&mut self) -> Result<(Stored, Codes, [usize; 2]), Error> {
        let weight = self.take("weight")?;
        let codes = match weight.dtype {
            StoredDtype::I8 => Codes::Int8,
            _ => Codes::E4M3,
        };
        match *weight.shape {
            [n, k] => Ok((weight, codes, [n, k])),
            _ => {
                let found = format!("of shape {:?}", weight.shape);
                Err(Error::unsupported(format!("{}.weight", self.name), found, "a matrix"))
            }
        }
    }

    /// Where the scale of a row and group is, and how many columns a group has: one scale, one per row,
    /// per row and group, or per block of rows and columns.
    fn places(
        &self,
        scales: &Stored,
        [n, k]: [usize; 2],
        block: Option<[usize; 2]>,
    ) -> Result<(Places, usize), Error> {
        let place =
            |row_block, row_stride, group_stride| Places { row_block, row_stride, group_stride };
        match (scales.shape.as_slice(), block) {
            ([] | [1] | [1, 1], _) => Ok((place(1, 0, 0), k)),
            (&([rows] | [rows, 1]), _) if rows == n => Ok((place(1, 1, 0), k)),
            (&[rows, cols], Some([block_rows, block_cols]))
                if rows == n.div_ceil(block_rows) && cols == k.div_ceil(block_cols) =>
            {
                Ok((place(block_rows, cols, 1), block_cols))
            }
            (&[rows, cols], None) if rows == n && cols > 0 && k.is_multiple_of(cols) => {
                Ok((place(1, cols, 1), k / cols))
            }
            _ => {
                let what = format!("{}.weight_scale", self.name);
                let found = format!("of shape {:?} for a matrix of {n} by {k}", scales.shape);
                let supported = "one scale, or one per row, per group of a row or per block";
                Err(Error::unsupported(what, found, supported))
            }
        }
    }

    /// Columns of a group.
    fn group(&self, weight: &Stored, k: usize, num_groups: usize) -> Result<usize, Error> {
        if num_groups == 0 || !k.is_multiple_of(num_groups) {
            let name = self.name;
            return Err(weight.malformed(format!("{name} has {num_groups} groups of {k} columns")));
        }
        Ok(k / num_groups)
    }

    /// Each column's group, if columns are not in order.
    fn g_idx(&mut self, part: &str, k: usize, group: usize) -> Result<Option<Vec<u32>>, Error> {
        let Some(tensor) = self.optional(part) else { return Ok(None) };
        let bytes = tensor.read()?;
        let (words, _) = bytes.as_chunks();
        let g_idx: Vec<_> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        if tensor.dtype != StoredDtype::I32 || g_idx.len() != k {
            let found = format!("{:?} {:?} for {k} columns", tensor.dtype, tensor.shape);
            return Err(Error::unsupported(
                format!("{}.{part}", self.name),
                found,
                "I32, one each",
            ));
        }
        // compressed-tensors writes -1 where there is no order.
        let is_none = g_idx.iter().all(|index| *index == u32::MAX);
        let mut in_order = g_idx.iter().enumerate();
        let is_in_order = in_order.all(|(column, index)| *index as usize == column / group);
        Ok((!is_none && !is_in_order).then_some(g_idx))
    }

    fn check_bits(&self, bits: usize, supported: &[usize]) -> Result<(), Error> {
        if supported.contains(&bits) {
            return Ok(());
        }
        let what = format!("the number of bits of {}", self.name);
        Err(Error::unsupported(what, bits.to_string(), "4, 8"))
    }

    /// AutoGPTQ gave every module a bias of zeros, whether or not the model has one.
    fn drop_bias(&mut self, config: Option<&DecoderConfig>) -> Result<(), Error> {
        let part = self.name.rsplit('.').next().unwrap_or_default();
        let is_qkv = matches!(part, "q_proj" | "k_proj" | "v_proj");
        if is_qkv && config.is_some_and(|config| config.attention_bias) {
            return Ok(());
        }
        let name = format!("{}.bias", self.name);
        let Some(bias) = self.tensors.get(&name) else { return Ok(()) };
        if floats(bias)?.iter().all(|x| *x == 0.0) {
            self.tensors.remove(&name);
        }
        Ok(())
    }

    fn check_zeros(&self, part: &str, tensor: &Stored) -> Result<(), Error> {
        if tensor.read()?.iter().all(|byte| *byte & 127 == 0) {
            return Ok(());
        }
        Err(Error::unsupported(format!("{}.{part}", self.name), "given", "zero"))
    }
}
