//! A product as cuBLASLt is told of it.

use std::fmt;
use std::mem::MaybeUninit;

use cudarc::cublaslt::{result, sys};

use super::{Scaling, called};
use crate::cuda::{Error, Float, Write};

pub(super) type Algorithm = sys::cublasLtMatmulAlgo_t;
use sys::cublasLtMatmulDescAttributes_t as Attribute;
use sys::cublasLtMatmulPreferenceAttributes_t as Preference;

/// What the two sides are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Type {
    Float(Float),
    E4M3(Scaling),
}

/// What a plan depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) of: Type,
    pub(super) y: Float,
    pub(super) write: Write,
    pub(super) rows: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    /// Elements from a row of `y` to the next.
    pub(super) stride: usize,
    /// Bytes that all addresses are a multiple of.
    pub(super) alignment: u32,
}

/// Descriptors and the algorithm of one shape.
pub(super) struct Plan {
    pub(super) shape: Shape,
    pub(super) description: Description,
    pub(super) w: Layout,
    pub(super) x: Layout,
    pub(super) y: Layout,
    pub(super) algorithm: Algorithm,
}

pub(super) struct Description(pub(super) sys::cublasLtMatmulDesc_t);
pub(super) struct Layout(pub(super) sys::cublasLtMatrixLayout_t);

// SAFETY: they are memory of the host's, owned by the plan alone.
unsafe impl Send for Description {}
// SAFETY: as above.
unsafe impl Send for Layout {}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: nothing else has it.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: nothing else has it.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

impl Plan {
    /// Everything but the algorithm.
    pub(super) fn new(shape: Shape) -> Result<Self, Error> {
        let Shape { of, y, rows, n, k, stride, .. } = shape;
        let operand = match of {
            Type::Float(float) => data_type(float),
            Type::E4M3(_) => sys::cudaDataType_t::CUDA_R_8F_E4M3,
        };
        let plan = Self {
            shape,
            description: Description::new()?,
            w: Layout::new(operand, (n, k), k)?,
            x: Layout::new(operand, (rows, k), k)?,
            y: Layout::new(data_type(y), (rows, n), stride)?,
            algorithm: Algorithm { data: [0; 8] },
        };
        plan.description.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, 1_i32)?;
        if let Type::E4M3(scaling) = of {
            plan.describe_fp8(scaling)?;
        }
        Ok(plan)
    }

    fn describe_fp8(&self, scaling: Scaling) -> Result<(), Error> {
        use sys::cublasLtMatmulMatrixScale_t as Mode;
        let [w, x] = match scaling {
            Scaling::Tensor => [Mode::CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F; 2],
            Scaling::Row => [Mode::CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F; 2],
            Scaling::Blocks => [
                Mode::CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F,
                Mode::CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F,
            ],
        };
        self.description.set(Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_MODE, w as i32)?;
        self.description.set(Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_MODE, x as i32)?;
        if scaling != Scaling::Blocks {
            // Hopper's tensor cores then add up within themselves, at about 14 bits: what vLLM does, too, and
            // without it they run at half the speed. Of blocks, sums leave them after each.
            self.description.set(Attribute::CUBLASLT_MATMUL_DESC_FAST_ACCUM, 1_i8)?;
        }
        // The search wants to see some; those of each call follow.
        self.set_scales([256, 256])
    }

    /// Where the scales of `w` and `x` are.
    pub(super) fn set_scales(&self, [w, x]: [u64; 2]) -> Result<(), Error> {
        self.description.set(Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, w)?;
        self.description.set(Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, x)
    }

    /// Whether the library computes this shape by an algorithm that was kept, within the workspace.
    pub(super) fn accepts(
        &self,
        handle: sys::cublasLtHandle_t,
        algorithm: &Algorithm,
        workspace_bytes: usize,
    ) -> bool {
        let mut answer = MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::uninit();
        // SAFETY: all are alive, and there is room for the answer.
        let result = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                handle,
                self.description.0,
                self.w.0,
                self.x.0,
                self.y.0,
                self.y.0,
                algorithm,
                answer.as_mut_ptr(),
            )
        };
        if result.result().is_err() {
            return false;
        }
        // SAFETY: the call has succeeded, and so has written it.
        let answer = unsafe { answer.assume_init() };
        answer.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS
            && answer.workspaceSize <= workspace_bytes
    }

    /// At least one and at most `most` algorithms, the likeliest first.
    pub(super) fn algorithms(
        &self,
        handle: sys::cublasLtHandle_t,
        most: usize,
        workspace_bytes: usize,
    ) -> Result<Vec<Algorithm>, Error> {
        let preferences = Preferences::new()?;
        preferences.set(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes)?;
        for attribute in [
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preferences.set(attribute, self.shape.alignment)?;
        }
        let mut found = vec![MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::uninit(); most];
        let mut count = 0;
        // SAFETY: all are alive, and there is room for `most` answers.
        let result = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                handle,
                self.description.0,
                self.w.0,
                self.x.0,
                self.y.0,
                self.y.0,
                preferences.0,
                most as i32,
                found.as_mut_ptr().cast(),
                &raw mut count,
            )
        };
        called("cublasLtMatmulAlgoGetHeuristic", result.result())?;
        let found = found.into_iter().take(usize::try_from(count).unwrap_or(0));
        let algorithms: Vec<_> = found
            // SAFETY: the first `count` answers were written.
            .map(|answer| unsafe { answer.assume_init() })
            .filter(|answer| answer.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS)
            .map(|answer| answer.algo)
            .collect();
        if algorithms.is_empty() {
            let status = sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED as u32;
            return Err(Error::Blas { call: "cublasLtMatmulAlgoGetHeuristic", status });
        }
        Ok(algorithms)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, y, write, rows, n, k, stride, alignment } = self;
        write!(f, "{of:?} {y:?} {write:?} {rows}x{n}x{k} stride {stride} alignment {alignment}")
    }
}

impl Description {
    fn new() -> Result<Self, Error> {
        let (sums, scale) =
            (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType_t::CUDA_R_32F);
        called("cublasLtMatmulDescCreate", result::create_matmul_desc(sums, scale)).map(Self)
    }

    fn set<T: Copy>(&self, attribute: Attribute, value: T) -> Result<(), Error> {
        let (value, bytes) = ((&raw const value).cast(), size_of::<T>());
        // SAFETY: the descriptor is alive, and the value is read within the call.
        let result = unsafe { result::set_matmul_desc_attribute(self.0, attribute, value, bytes) };
        called("cublasLtMatmulDescSetAttribute", result)
    }
}

impl Layout {
    /// Of a row-major matrix, whose rows are what cuBLASLt takes for columns.
    fn new(
        data_type: sys::cudaDataType,
        (rows, cols): (usize, usize),
        stride: usize,
    ) -> Result<Self, Error> {
        let layout =
            result::create_matrix_layout(data_type, cols as u64, rows as u64, stride as i64);
        called("cublasLtMatrixLayoutCreate", layout).map(Self)
    }
}

/// What an algorithm must keep to.
struct Preferences(sys::cublasLtMatmulPreference_t);

impl Preferences {
    fn new() -> Result<Self, Error> {
        called("cublasLtMatmulPreferenceCreate", result::create_matmul_pref()).map(Self)
    }

    fn set<T: Copy>(&self, attribute: Preference, value: T) -> Result<(), Error> {
        let (value, bytes) = ((&raw const value).cast(), size_of::<T>());
        // SAFETY: the preferences are alive, and the value is read within the call.
        let result = unsafe { result::set_matmul_pref_attribute(self.0, attribute, value, bytes) };
        called("cublasLtMatmulPreferenceSetAttribute", result)
    }
}

impl Drop for Preferences {
    fn drop(&mut self) {
        // SAFETY: nothing else has them.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

fn data_type(float: Float) -> sys::cudaDataType_t {
    match float {
        Float::F32 => sys::cudaDataType_t::CUDA_R_32F,
        Float::F16 => sys::cudaDataType_t::CUDA_R_16F,
        Float::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
    }
}
