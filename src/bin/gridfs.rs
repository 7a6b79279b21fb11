//! `gridfs`: the node and its mount.

fn main() -> std::process::ExitCode {
    gridfs::cli::gridfs()
}
