//! The model families: what a checkpoint's decoder or encoder looks like.

pub mod config;
pub mod decoder;
pub mod encoder;
mod experts;
pub mod load;
pub mod pooling;
