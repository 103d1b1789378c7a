//! Matrix products by cuBLASLt.
//!
//! It stores matrices by columns: our row-major `y = x · wᵀ` is its `yᵀ = w · xᵀ`, where `w` and `x` are
//! read as they lie, `w` transposed. How a shape is computed is decided when it is first seen: as cuBLASLt
//! thinks best, or, from [`Matmul::begin_tuning`] to [`Matmul::end_tuning`], as was measured to be. After that a
//! product costs one call, which may be captured as part of a graph.

mod plan;
mod tuned;

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cudarc::cublaslt::{result, sys};

use self::plan::{Algorithm, Plan, Shape, Type};
pub use self::tuned::{NotTuned, Tuned};
use super::{Buffer, Device, Error, Float, Linear, Slice, SliceMut, Write, library};
use crate::{check_len, check_multiple};

/// What NVIDIA recommends for Hopper; older chips need less.
const WORKSPACE_BYTES: usize = 32 << 20;
/// Plans kept at most: prompts come in all lengths.
const MAX_PLANS: usize = 4096;
/// Algorithms that are timed, and how often each is run.
const MAX_CANDIDATES: usize = 8;
const TIMED_RUNS: usize = 10;

/// How numbers of 8 bits are scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scaling {
    /// One scale for all of `x`, one for all of `w`.
    Tensor,
    /// One scale per row of `x` and per row of `w`. Hopper and later.
    Row,
    /// One scale per 128 elements of a row of `x`, of which there are a multiple of 4, and per square of 128 by
    /// 128 of `w`, as DeepSeek-V3 has them. Hopper alone.
    Blocks,
}

/// Elements of [`Scaling::Blocks`] that share a scale.
pub(super) const BLOCK: usize = 128;

impl Scaling {
    /// Scales of `rows` rows of `k` elements of `x`; of blocks, those of one block of columns after the other's.
    pub(super) fn num_x_scales(self, rows: usize, k: usize) -> usize {
        match self {
            Self::Tensor => 1,
            Self::Row => rows,
            Self::Blocks => k.div_ceil(BLOCK) * rows,
        }
    }

    /// Scales of `w`: of blocks, row after row, each padded to a multiple of 4.
    pub(super) fn num_w_scales(self, n: usize, k: usize) -> usize {
        match self {
            Self::Tensor => 1,
            Self::Row => n,
            Self::Blocks => n.div_ceil(BLOCK) * k.div_ceil(BLOCK).next_multiple_of(4),
        }
    }
}

/// `y (+)= (x · x_scales) (w · w_scales)ᵀ` of e4m3 numbers.
pub struct LinearFp8<'a> {
    /// What the scales are of.
    pub scaling: Scaling,
    /// `[rows, k]`
    pub x: Slice<'a>,
    /// `[rows]`, `[1]`, or `[ceil(k / 128), rows]` of f32.
    pub x_scales: Slice<'a>,
    /// `[n, k]`
    pub w: Slice<'a>,
    /// `[n]`, `[1]`, or `[ceil(n / 128), ceil(k / 128)]`, whose rows are padded to a multiple of 4, of f32.
    pub w_scales: Slice<'a>,
    /// `[rows, n]`
    pub y: SliceMut<'a>,
    /// Type of `y`.
    pub y_float: Float,
    /// What happens to the product.
    pub write: Write,
    /// Tokens.
    pub rows: usize,
    /// Output features, a multiple of 16.
    pub n: usize,
    /// Input features, a multiple of 16.
    pub k: usize,
}

/// A device's cuBLASLt, its workspace, and how it computes the shapes seen so far.
pub struct Matmul {
    // Before what it uses: its plans go first.
    plans: Mutex<HashMap<Shape, Plan>>,
    tuning: Mutex<Option<Tuning>>,
    handle: Handle,
    workspace: Buffer,
    device: Device,
}

/// What is known of algorithms while new shapes are measured.
struct Tuning {
    tuned: Tuned,
    /// The kind of device, and the library's version.
    device: String,
    /// What is seen later is not measured.
    end: Instant,
}

struct Handle(sys::cublasLtHandle_t);

// SAFETY: cuBLASLt's handle may be used by any thread whose current context is the one it was made in.
unsafe impl Send for Handle {}
// SAFETY: as above, and by several at once.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: nothing else has the handle.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

/// Some columns of a product, by address: their rows of `w`, and where they begin in `y`. Whoever makes one
/// has checked the lengths.
pub(super) struct Columns {
    pub(super) float: Float,
    pub(super) x: u64,
    pub(super) w: u64,
    pub(super) y: u64,
    pub(super) y_float: Float,
    pub(super) write: Write,
    pub(super) rows: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    /// Elements from a row of `y` to the next.
    pub(super) stride: usize,
}

/// What a product is of, by address.
struct Operands {
    w: u64,
    x: u64,
    y: u64,
    scales: Option<[u64; 2]>,
}

fn called<T>(call: &'static str, result: Result<T, result::CublasError>) -> Result<T, Error> {
    result.map_err(|error| Error::Blas { call, status: error.0 as u32 })
}

impl Matmul {
    /// Loads cuBLASLt and makes its workspace.
    pub fn new(device: &Device) -> Result<Self, Error> {
        library::load(&library::CUBLASLT)?;
        device.bind()?;
        let handle = Handle(called("cublasLtCreate", result::create_handle())?);
        let workspace = device.alloc(WORKSPACE_BYTES)?;
        let (plans, tuning) = (Mutex::default(), Mutex::default());
        Ok(Self { plans, tuning, handle, workspace, device: device.clone() })
    }

    /// Whose it is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether the device multiplies 8-bit floats that are scaled so: Hopper does, older ones don't.
    pub fn has_fp8(&self, scaling: Scaling) -> bool {
        const SIZE: usize = 128;
        let shape = Shape {
            of: Type::E4M3(scaling),
            y: Float::BF16,
            write: Write::Store,
            rows: SIZE,
            n: SIZE,
            k: SIZE,
            stride: SIZE,
            alignment: 256,
        };
        let search = |plan: Plan| plan.algorithms(self.handle.0, 1, WORKSPACE_BYTES);
        self.device.bind().is_ok() && Plan::new(shape).and_then(search).is_ok()
    }

    /// Memory that any kernel may use in the stream's order.
    pub(super) fn workspace(&self) -> Slice<'_> {
        self.workspace.slice()
    }

    /// The product, of any number of tokens.
    pub fn multiply(&self, args: Linear<'_>) -> Result<(), crate::Error> {
        args.check()?;
        if args.rows == 0 {
            return Ok(());
        }
        let (shape, operands) = of_floats(args);
        Ok(self.run(shape, &operands)?)
    }

    /// Some columns of a product.
    pub(super) fn multiply_columns(&self, args: &Columns) -> Result<(), Error> {
        let Columns { float, x, w, y, y_float, write, rows, n, k, stride } = *args;
        let operands = Operands { w, x, y, scales: None };
        let (of, alignment) = (Type::Float(float), alignment(&operands));
        self.run(Shape { of, y: y_float, write, rows, n, k, stride, alignment }, &operands)
    }

    /// The product of numbers of 8 bits, of any number of tokens.
    pub fn multiply_fp8(&self, args: LinearFp8<'_>) -> Result<(), crate::Error> {
        check_fp8(&args)?;
        if args.rows == 0 {
            return Ok(());
        }
        let (shape, operands) = of_fp8(args);
        Ok(self.run(shape, &operands)?)
    }

    /// From now on a product of a new shape is computed by the algorithm that `tuned` has for it, or else by
    /// that of the likeliest which takes the least time: they are run on its operands again and again, so `y`
    /// must be stored, not added to. That waits for the device: not while a graph is captured. What is seen
    /// after `most` is computed as without.
    pub fn begin_tuning(&self, tuned: Tuned, most: Duration) {
        let properties = self.device.properties();
        // SAFETY: it takes nothing and reads a constant of the library, which is loaded.
        let version = unsafe { sys::cublasLtGetVersion() };
        let (name, driver) = (&properties.name, properties.driver_version);
        let device = format!("{name}, driver {driver}, cuBLASLt {version}");
        *self.tuning() = Some(Tuning { tuned, device, end: Instant::now() + most });
    }

    /// What is known now.
    pub fn end_tuning(&self) -> Option<Tuned> {
        self.tuning().take().map(|tuning| tuning.tuned)
    }

    fn tuning(&self) -> MutexGuard<'_, Option<Tuning>> {
        self.tuning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the plan's shape is to be computed.
    fn algorithm(&self, plan: &mut Plan, operands: &Operands) -> Result<Algorithm, Error> {
        let mut tuning = self.tuning();
        let Some(Tuning { tuned, device, end }) = tuning.as_mut() else {
            return Ok(plan.algorithms(self.handle.0, 1, WORKSPACE_BYTES)?[0]);
        };
        let shape = plan.shape.to_string();
        if let Some(data) = tuned.find(device, &shape) {
            let algorithm = Algorithm { data };
            if plan.accepts(self.handle.0, &algorithm, WORKSPACE_BYTES) {
                tuned.found();
                return Ok(algorithm);
            }
        }
        if Instant::now() >= *end {
            return Ok(plan.algorithms(self.handle.0, 1, WORKSPACE_BYTES)?[0]);
        }
        let fastest = self.fastest(plan, operands)?;
        tuned.insert(device, &shape, fastest.data);
        Ok(fastest)
    }

    fn fastest(&self, plan: &mut Plan, operands: &Operands) -> Result<Algorithm, Error> {
        let candidates = plan.algorithms(self.handle.0, MAX_CANDIDATES, WORKSPACE_BYTES)?;
        let mut best = (f32::INFINITY, candidates[0]);
        for algorithm in candidates {
            plan.algorithm = algorithm;
            // The first run may load the algorithm's kernels.
            self.enqueue(plan, operands)?;
            let (mut begin, mut end) = (self.device.event(true)?, self.device.event(true)?);
            begin.record()?;
            for _ in 0..TIMED_RUNS {
                self.enqueue(plan, operands)?;
            }
            end.record()?;
            end.wait()?;
            let ms = end.ms_since(&begin)?;
            if ms < best.0 {
                best = (ms, algorithm);
            }
        }
        Ok(best.1)
    }

    fn run(&self, shape: Shape, operands: &Operands) -> Result<(), Error> {
        let mut plans = self.plans();
        if let Some(plan) = plans.get(&shape) {
            return self.enqueue(plan, operands);
        }
        let mut plan = Plan::new(shape)?;
        plan.algorithm = self.algorithm(&mut plan, operands)?;
        self.enqueue(&plan, operands)?;
        if plans.len() >= MAX_PLANS {
            plans.clear();
        }
        plans.insert(shape, plan);
        Ok(())
    }

    fn enqueue(&self, plan: &Plan, operands: &Operands) -> Result<(), Error> {
        if let Some(scales) = operands.scales {
            plan.set_scales(scales)?;
        }
        let (one, beta) = (1.0_f32, if plan.shape.write == Write::Add { 1.0_f32 } else { 0.0 });
        let pointer = |address: u64| address as *mut c_void;
        // SAFETY: the plan's parts are alive, the operands are of the lengths that it names, which the
        // callers checked, and all the factors outlive the call, which reads them.
        let result = unsafe {
            result::matmul(
                self.handle.0,
                plan.description.0,
                (&raw const one).cast(),
                (&raw const beta).cast(),
                pointer(operands.w),
                plan.w.0,
                pointer(operands.x),
                plan.x.0,
                pointer(operands.y),
                plan.y.0,
                pointer(operands.y),
                plan.y.0,
                &raw const plan.algorithm,
                pointer(self.workspace.slice().pointer()),
                WORKSPACE_BYTES,
                self.device.inner.stream.cast(),
            )
        };
        called("cublasLtMatmul", result)
    }

    fn plans(&self) -> MutexGuard<'_, HashMap<Shape, Plan>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn of_floats(args: Linear<'_>) -> (Shape, Operands) {
    let Linear { float, x, w, y, y_float, write, rows, n, k } = args;
    let operands = Operands { w: w.pointer(), x: x.pointer(), y: y.pointer(), scales: None };
    let alignment = alignment(&operands);
    let of = Type::Float(float);
    (Shape { of, y: y_float, write, rows, n, k, stride: n, alignment }, operands)
}

fn of_fp8(args: LinearFp8<'_>) -> (Shape, Operands) {
    let LinearFp8 { scaling, x, x_scales, w, w_scales, y, y_float, write, rows, n, k } = args;
    let scales = Some([w_scales.pointer(), x_scales.pointer()]);
    let operands = Operands { w: w.pointer(), x: x.pointer(), y: y.pointer(), scales };
    let alignment = alignment(&operands);
    let of = Type::E4M3(scaling);
    (Shape { of, y: y_float, write, rows, n, k, stride: n, alignment }, operands)
}

fn check_fp8(args: &LinearFp8<'_>) -> Result<(), crate::Error> {
    let LinearFp8 { scaling, x, x_scales, w, w_scales, ref y, y_float, rows, n, k, .. } = *args;
    check_multiple("a matrix's columns", k, 16)?;
    check_multiple("a matrix's rows", n, 16)?;
    check_len("what is multiplied", x.len(), rows * k)?;
    check_len("a matrix", w.len(), n * k)?;
    check_len("a product", y.len(), rows * n * y_float.size())?;
    if scaling == Scaling::Blocks {
        check_multiple("the tokens of a product with scales of blocks", rows, 4)?;
    }
    let (of_x, of_w) = (scaling.num_x_scales(rows, k), scaling.num_w_scales(n, k));
    check_len("the scales of what is multiplied", x_scales.len(), 4 * of_x)?;
    check_len("a matrix's scales", w_scales.len(), 4 * of_w)
}

/// The greatest power of two, up to 256, that all addresses are a multiple of: algorithms differ in what
/// they need.
fn alignment(operands: &Operands) -> u32 {
    let bits = operands.w | operands.x | operands.y | 256;
    1 << bits.trailing_zeros()
}
