//! Sconce's compute kernels. Every `unsafe` line of the project is in this crate; its public
//! functions check shapes and are safe.
#![expect(
    unsafe_code,
    reason = "SIMD kernels, threads that share slices, anonymous memory maps, CUDA"
)]

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod dtype;

/// Why a kernel refused its arguments, or could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A buffer's size does not fit the shapes.
    #[error("{what}: expected {expected} elements, got {given}")]
    Shape {
        /// Which argument.
        what: &'static str,
        /// What the shapes ask for.
        expected: usize,
        /// What was passed.
        given: usize,
    },
    /// An index points past the end of what it indexes.
    #[error("{what} {index} is out of range: there are {limit}")]
    OutOfRange {
        /// Which index.
        what: &'static str,
        /// What was passed.
        index: usize,
        /// One past the largest index allowed.
        limit: usize,
    },
    /// A dimension must be a positive multiple of what the kernel works in.
    #[error("{what} must be a positive multiple of {of}, got {given}")]
    NotMultiple {
        /// Which dimension.
        what: &'static str,
        /// What it must be a multiple of.
        of: usize,
        /// What was passed.
        given: usize,
    },
    /// Something that must hold at least one element is empty.
    #[error("{0} must not be empty")]
    Empty(&'static str),
    /// The activations were made without the form (int8 or f32) that the matrix reads, or by a
    /// device with another tile width.
    #[error("the activations do not hold the operand that the matrix reads")]
    Operand,
    /// This machine lacks the instruction set.
    #[error("this processor cannot run the {0} kernels")]
    Isa(cpu::Isa),
    /// A name that is no instruction set.
    #[error("unknown instruction set `{0}`")]
    UnknownIsa(String),
    /// The system gave no memory.
    #[error("cannot reserve {bytes} bytes of memory")]
    Memory {
        /// How much was asked for.
        bytes: usize,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A weight's bytes could not be read.
    #[error("cannot read the weights")]
    Read(#[source] std::io::Error),
    /// A GPU failed.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] cuda::Error),
    /// The system gave no thread.
    #[error("cannot start a worker thread")]
    Thread(#[source] std::io::Error),
}

/// Checks a buffer's length.
pub(crate) fn check_len(what: &'static str, given: usize, expected: usize) -> Result<(), Error> {
    if given == expected { Ok(()) } else { Err(Error::Shape { what, expected, given }) }
}

/// Checks an index.
pub(crate) fn check_index(what: &'static str, index: usize, limit: usize) -> Result<(), Error> {
    if index < limit { Ok(()) } else { Err(Error::OutOfRange { what, index, limit }) }
}

/// Checks that a dimension is a positive multiple.
pub(crate) fn check_multiple(what: &'static str, given: usize, of: usize) -> Result<(), Error> {
    if given > 0 && given.is_multiple_of(of) {
        Ok(())
    } else {
        Err(Error::NotMultiple { what, of, given })
    }
}
