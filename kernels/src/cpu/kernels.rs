//! The kernels' inner loops, and the table of them that a device picks once.

pub(super) mod attend;
pub(super) mod gemm;
pub(super) mod rows;

use super::isa::Isa;
use attend::{Mix, Scores, Softmax};
use gemm::Tile;
use rows::{LayerNormRow, Norm, RowSlot};

/// A kernel for each number of tokens (or query rows) that a register tile can hold: the first is
/// for one, the last for as many as the tile is wide.
pub(super) type Widths<T> = &'static [unsafe fn(&T)];

/// One instruction set's kernels. All are unsafe for the same two reasons: the processor must
/// have the instruction set, and the arguments' pointers must cover what their fields say.
pub(super) struct Kernels {
    pub p4: Widths<Tile>,
    pub p5: Widths<Tile>,
    pub p5_min: Widths<Tile>,
    pub p4k: Widths<Tile>,
    pub p5k: Widths<Tile>,
    pub p6k: Widths<Tile>,
    pub p8: Widths<Tile>,
    pub f32: Widths<Tile>,
    pub f16: Widths<Tile>,
    pub bf16: Widths<Tile>,
    pub bf16_pairs: Widths<Tile>,
    pub scores_f16: Widths<Scores>,
    pub scores_bf16: Widths<Scores>,
    pub scores_f32: Widths<Scores>,
    pub scores_int8: Widths<Scores>,
    pub mix_f16: Widths<Mix>,
    pub mix_bf16: Widths<Mix>,
    pub mix_f32: Widths<Mix>,
    pub mix_int8: Widths<Mix>,
    pub softmax: unsafe fn(&mut Softmax),
    pub rms_norm: unsafe fn(&Norm<'_>, &mut [f32]),
    pub layer_norm: unsafe fn(&LayerNormRow<'_>, &mut [f32]),
    pub silu_mul: unsafe fn(&[f32], &[f32], &mut [f32]),
    pub gelu_tanh_mul: unsafe fn(&[f32], &[f32], &mut [f32]),
    pub soft_cap: unsafe fn(f32, &mut [f32]),
    pub gelu: unsafe fn(&[f32], &[f32], &mut [f32]),
    pub quantize: unsafe fn(&[f32], &RowSlot, &mut [f32]),
    pub outlier_scale: unsafe fn(&[f32]) -> f32,
    pub to_f16: unsafe fn(&[f32], &mut [u16]),
    pub to_bf16: unsafe fn(&[f32], &mut [u16]),
    pub argmax: unsafe fn(&[f32]) -> usize,
}

impl Kernels {
    /// How many tokens a matrix's register tile holds at most.
    pub(super) fn tile(&self) -> usize {
        self.p4.len()
    }

    /// How many query rows attention's register tile holds at most.
    pub(super) fn query_tile(&self) -> usize {
        self.scores_f16.len()
    }

    /// The table of an instruction set that this machine has.
    pub(super) fn of(isa: Isa) -> &'static Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => &avx512_bf16::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => &avx512_vnni::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => &avx_vnni::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &avx2::KERNELS,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod => &neon_dotprod::KERNELS,
            _ => &portable::KERNELS,
        }
    }
}

/// Compiles every kernel for one instruction set. `target_feature` cannot be a generic parameter,
/// hence the macro: each function below is the boundary that carries it, and what it calls is
/// inlined into it.
macro_rules! compile {
    ($module:ident, $simd:ident, [$($width:literal),*], [$($rows:literal),*]
        $(, $feature:meta)?) => {
        mod $module {
            use super::super::simd::$simd as S;
            use super::*;

            compile!(@wide Tile, gemm, [p4, p5, p5_min, p4k, p5k, p6k, p8, f32, f16, bf16, bf16_pairs] $(, $feature)?);
            compile!(@wide Scores, attend, [scores_f16, scores_bf16, scores_f32, scores_int8] $(, $feature)?);
            compile!(@wide Mix, attend, [mix_f16, mix_bf16, mix_f32, mix_int8] $(, $feature)?);

            $(#[$feature])?
            unsafe fn softmax(args: &mut Softmax) {
                // SAFETY: passed on to the caller.
                unsafe { attend::softmax::<S>(args) }
            }

            $(#[$feature])?
            unsafe fn rms_norm(args: &Norm<'_>, out: &mut [f32]) {
                // SAFETY: passed on to the caller.
                unsafe { rows::rms_norm::<S>(args, out) }
            }

            $(#[$feature])?
            unsafe fn layer_norm(args: &LayerNormRow<'_>, out: &mut [f32]) {
                // SAFETY: passed on to the caller.
                unsafe { rows::layer_norm::<S>(args, out) }
            }

            $(#[$feature])?
            unsafe fn gelu(row: &[f32], bias: &[f32], out: &mut [f32]) {
                // SAFETY: passed on to the caller.
                unsafe { rows::gelu::<S>(row, bias, out) }
            }

            $(#[$feature])?
            unsafe fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
                // SAFETY: passed on to the caller.
                unsafe { rows::silu_mul::<S>(gate, up, out) }
            }

            $(#[$feature])?
            unsafe fn gelu_tanh_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
                // SAFETY: passed on to the caller.
                unsafe { rows::gelu_tanh_mul::<S>(gate, up, out) }
            }

            $(#[$feature])?
            unsafe fn soft_cap(cap: f32, x: &mut [f32]) {
                // SAFETY: passed on to the caller.
                unsafe { rows::soft_cap::<S>(cap, x) }
            }

            $(#[$feature])?
            unsafe fn quantize(row: &[f32], slot: &RowSlot, rest: &mut [f32]) {
                // SAFETY: passed on to the caller.
                unsafe { rows::quantize::<S>(row, slot, rest) }
            }

            $(#[$feature])?
            unsafe fn outlier_scale(row: &[f32]) -> f32 {
                // SAFETY: passed on to the caller.
                unsafe { rows::outlier_scale::<S>(row) }
            }

            $(#[$feature])?
            unsafe fn to_f16(from: &[f32], to: &mut [u16]) {
                // SAFETY: passed on to the caller.
                unsafe { rows::to_f16::<S>(from, to) }
            }

            $(#[$feature])?
            unsafe fn to_bf16(from: &[f32], to: &mut [u16]) {
                // SAFETY: passed on to the caller.
                unsafe { rows::to_bf16::<S>(from, to) }
            }

            $(#[$feature])?
            unsafe fn argmax(row: &[f32]) -> usize {
                // SAFETY: passed on to the caller.
                unsafe { rows::argmax::<S>(row) }
            }

            pub(super) static KERNELS: Kernels = Kernels {
                p4: &[$(p4::<$width>),*],
                p5: &[$(p5::<$width>),*],
                p5_min: &[$(p5_min::<$width>),*],
                p4k: &[$(p4k::<$width>),*],
                p5k: &[$(p5k::<$width>),*],
                p6k: &[$(p6k::<$width>),*],
                p8: &[$(p8::<$width>),*],
                f32: &[$(f32::<$width>),*],
                f16: &[$(f16::<$width>),*],
                bf16: &[$(bf16::<$width>),*],
                bf16_pairs: &[$(bf16_pairs::<$width>),*],
                scores_bf16: &[$(scores_bf16::<$rows>),*],
                scores_f16: &[$(scores_f16::<$rows>),*],
                scores_f32: &[$(scores_f32::<$rows>),*],
                scores_int8: &[$(scores_int8::<$rows>),*],
                mix_bf16: &[$(mix_bf16::<$rows>),*],
                mix_f16: &[$(mix_f16::<$rows>),*],
                mix_f32: &[$(mix_f32::<$rows>),*],
                mix_int8: &[$(mix_int8::<$rows>),*],
                softmax,
                rms_norm,
                layer_norm,
                silu_mul,
                gelu_tanh_mul,
                soft_cap,
                gelu,
                quantize,
                outlier_scale,
                to_f16,
                to_bf16,
                argmax,
            };
        }
    };
    (@wide $args:ident, $family:ident, [$($name:ident),*]) => {
        $(
            unsafe fn $name<const M: usize>(args: &$args) {
                // SAFETY: passed on to the caller.
                unsafe { $family::$name::<S, M>(args) }
            }
        )*
    };
    (@wide $args:ident, $family:ident, [$($name:ident),*], $feature:meta) => {
        $(compile!(@one $args, $family, $name, $feature);)*
    };
    (@one $args:ident, $family:ident, $name:ident, $feature:meta) => {
        #[$feature]
        unsafe fn $name<const M: usize>(args: &$args) {
            // SAFETY: passed on to the caller.
            unsafe { $family::$name::<S, M>(args) }
        }
    };
}

compile!(portable, Portable, [1, 2, 3, 4], [1, 2, 3, 4]);

#[cfg(target_arch = "x86_64")]
compile!(
    avx512_bf16,
    Avx512Bf16,
    [1, 2, 3, 4, 5, 6, 7, 8],
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c"
    )
);

#[cfg(target_arch = "x86_64")]
compile!(
    avx512_vnni,
    Avx512Vnni,
    [1, 2, 3, 4, 5, 6, 7, 8],
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
);

#[cfg(target_arch = "x86_64")]
compile!(
    avx_vnni,
    AvxVnni,
    [1, 2, 3, 4],
    [1, 2, 3, 4],
    target_feature(enable = "avxvnni,avx2,fma,f16c")
);

#[cfg(target_arch = "x86_64")]
compile!(avx2, Avx2, [1, 2, 3, 4], [1, 2, 3, 4], target_feature(enable = "avx2,fma,f16c"));

// Four tokens: a register holds four bytes of each, their sums of 16 rows take 16 of the 32
// registers, and a panel's codes eight more.
#[cfg(target_arch = "aarch64")]
compile!(
    neon_dotprod,
    NeonDotprod,
    [1, 2, 3, 4],
    [1, 2, 3, 4],
    target_feature(enable = "neon,dotprod")
);
