//! For modules in Rust: the manifest as a constant, arguments by type, nested calls.
//!
//! None of it is needed. A module is any WASI program that reads its arguments and writes standard output (`modules/ABI.md`);
//! `gridfs module build` puts a `manifest.toml` into it, and a nested call is a file that is opened. This crate spares the file
//! and spells the paths.
//!
//! ```ignore
//! grid::manifest!(grid::Manifest {
//!     name: "lines",
//!     version: "1.0.0",
//!     promise: "Prints how many lines of a text hold a word.",
//!     args: &[grid::Argument::required("pattern", grid::Kind::Text), grid::Argument::required("text", grid::Kind::Blob)],
//!     ..grid::Manifest::EMPTY
//! });
//!
//! fn main() -> Result<(), grid::Error> {
//!     let matching = grid::Call::new("local", "grep").text(&grid::text(1)?).input(2);
//!     std::io::Write::write_all(&mut std::io::stdout(), &grid::Call::new("local", "wc").call(&matching).option("-l").read()?)
//!         .map_err(grid::Error::output)
//! }
//! ```

mod arguments;
mod call;
mod error;
mod manifest;

pub use arguments::{count, int, open, path, text};
pub use call::Call;
pub use error::Error;
pub use manifest::{Argument, Kind, Limits, Manifest, Returns, encode};

/// Marks a file below `/out` that is open for writing as executable.
pub fn set_executable(file: &std::fs::File) -> Result<(), Error> {
    #[cfg(target_os = "wasi")]
    {
        use std::os::fd::AsRawFd as _;

        #[link(wasm_import_module = "grid_1")]
        unsafe extern "C" {
            safe fn set_executable(fd: i32) -> i32;
        }
        match set_executable(file.as_raw_fd()) {
            0 => Ok(()),
            errno => Err(Error::output(std::io::Error::from_raw_os_error(errno))),
        }
    }
    #[cfg(not(target_os = "wasi"))]
    {
        let _ = file;
        Err(Error::output(std::io::ErrorKind::Unsupported.into()))
    }
}
