//! The model families: what a checkpoint's decoder looks like.

pub mod config;
pub mod decoder;
pub mod load;
