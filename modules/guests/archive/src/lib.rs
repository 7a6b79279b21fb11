//! What the modules that decompress and unpack share: compressed input, and a tree made below `/out`.

pub mod input;
pub mod name;
pub mod output;
mod zstd;
