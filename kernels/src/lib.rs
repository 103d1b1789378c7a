//! Sconce's compute kernels. Every `unsafe` line of the project is in this crate; its public
//! functions check shapes and are safe.

pub mod dtype;

/// Why a kernel refused its arguments.
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
}
