//! ggml's numbers of element types.

use sconce_kernels::dtype::Dtype;

/// What we have kernels for.
pub(super) const SUPPORTED: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K";

/// The type with ggml's number `kind`, if we have kernels for it.
pub(super) fn from_ggml(kind: u32) -> Option<Dtype> {
    match kind {
        0 => Some(Dtype::F32),
        1 => Some(Dtype::F16),
        2 => Some(Dtype::Q4_0),
        3 => Some(Dtype::Q4_1),
        6 => Some(Dtype::Q5_0),
        7 => Some(Dtype::Q5_1),
        8 => Some(Dtype::Q8_0),
        12 => Some(Dtype::Q4K),
        13 => Some(Dtype::Q5K),
        14 => Some(Dtype::Q6K),
        30 => Some(Dtype::BF16),
        _ => None,
    }
}

/// The same for candle's name of the type.
pub(super) fn from_candle(dtype: candle_core::quantized::GgmlDType) -> Option<Dtype> {
    use candle_core::quantized::GgmlDType;
    match dtype {
        GgmlDType::F32 => Some(Dtype::F32),
        GgmlDType::F16 => Some(Dtype::F16),
        GgmlDType::BF16 => Some(Dtype::BF16),
        GgmlDType::Q4_0 => Some(Dtype::Q4_0),
        GgmlDType::Q4_1 => Some(Dtype::Q4_1),
        GgmlDType::Q5_0 => Some(Dtype::Q5_0),
        GgmlDType::Q5_1 => Some(Dtype::Q5_1),
        GgmlDType::Q8_0 => Some(Dtype::Q8_0),
        GgmlDType::Q4K => Some(Dtype::Q4K),
        GgmlDType::Q5K => Some(Dtype::Q5K),
        GgmlDType::Q6K => Some(Dtype::Q6K),
        GgmlDType::Q8_1 | GgmlDType::Q2K | GgmlDType::Q3K | GgmlDType::Q8K => None,
    }
}

/// How ggml calls a type that we have no kernels for.
pub(super) fn describe(kind: u32) -> String {
    let name = match kind {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("of unknown type {kind}"),
    };
    format!("of type {name}")
}
