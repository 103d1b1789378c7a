//! Parts of models that are not kernels: what is computed once, when a model is loaded.

pub mod rope;
