//! The instruction sets that the kernels are written for, and which of them this machine has.

use std::fmt;
use std::str::FromStr;

use super::activations::ActivationDtype;
use super::kv_cache::KvDtype;
use crate::Error;

/// An instruction set, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// As [`Self::Avx512Vnni`], with the `vdpbf16ps` dot product (Zen 4, Sapphire Rapids and later).
    Avx512Bf16,
    /// 512-bit vectors with the `vpdpbusd` dot product (Ice Lake, Zen 4 and later).
    Avx512Vnni,
    /// 256-bit vectors with the VEX-coded `vpdpbusd` (Alder Lake, Zen 5 and later).
    AvxVnni,
    /// 256-bit vectors, FMA and half-precision conversion (Haswell, Zen and later).
    Avx2,
    /// AArch64's 128-bit vectors with the `sdot` dot product (Cortex-A76, Neoverse N1, Apple M1
    /// and later).
    NeonDotprod,
    /// Plain Rust: whatever the compiler's baseline for the target has.
    Portable,
}

impl Isa {
    const ALL: [Self; 6] = [
        Self::Avx512Bf16,
        Self::Avx512Vnni,
        Self::AvxVnni,
        Self::Avx2,
        Self::NeonDotprod,
        Self::Portable,
    ];

    /// Returns the best instruction set of this machine.
    pub fn detect() -> Self {
        Self::ALL.into_iter().find(|isa| isa.is_available()).unwrap_or(Self::Portable)
    }

    /// Returns every instruction set that this machine can run, best first.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The 16-bit type of a KV cache that goes with activations: what is multiplied fastest, or
    /// what is most precise where they are.
    pub fn kv_dtype(self, activations: ActivationDtype) -> KvDtype {
        if self.rounds_to_bf16(activations) { KvDtype::BF16 } else { KvDtype::F16 }
    }

    /// Whether activations that meet bf16 are rounded to it, because it is multiplied twice as fast: an
    /// error of at most 0.4 % of each element, 0.1 % on average. Not where they are to be precise.
    pub fn rounds_to_bf16(self, activations: ActivationDtype) -> bool {
        match activations {
            ActivationDtype::Mixed | ActivationDtype::Int8 => self == Self::Avx512Bf16,
            ActivationDtype::Int16 => false,
        }
    }

    /// Whether this machine can run it.
    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        match self {
            Self::Avx512Bf16 => {
                Self::Avx512Vnni.is_available() && is_x86_feature_detected!("avx512bf16")
            }
            Self::Avx512Vnni => {
                avx2 && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            Self::AvxVnni => avx2 && is_x86_feature_detected!("avxvnni"),
            Self::Avx2 => avx2,
            Self::NeonDotprod => false,
            Self::Portable => true,
        }
    }

    /// Whether this machine can run it.
    #[cfg(target_arch = "aarch64")]
    pub fn is_available(self) -> bool {
        match self {
            Self::Avx512Bf16 | Self::Avx512Vnni | Self::AvxVnni | Self::Avx2 => false,
            Self::NeonDotprod => std::arch::is_aarch64_feature_detected!("dotprod"),
            Self::Portable => true,
        }
    }

    /// Whether this machine can run it.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub fn is_available(self) -> bool {
        self == Self::Portable
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Avx512Vnni => "avx512-vnni",
            Self::AvxVnni => "avx-vnni",
            Self::Avx2 => "avx2",
            Self::NeonDotprod => "neon-dotprod",
            Self::Portable => "portable",
        })
    }
}

impl FromStr for Isa {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|isa| isa.to_string() == name)
            .ok_or_else(|| Error::UnknownIsa(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse::<Isa>().unwrap(), isa);
        }
        assert!("sse9".parse::<Isa>().is_err());
    }

    #[test]
    fn the_detected_set_is_the_first_available() {
        assert_eq!(Isa::available().first(), Some(&Isa::detect()));
        assert_eq!(Isa::available().last(), Some(&Isa::Portable));
    }
}
