//! `grid`: a call by hand.

fn main() -> std::process::ExitCode {
    gridfs::cli::grid()
}
