//! Embeds a manifest, written as TOML, in a WASM module: `embed IN.wasm MANIFEST.toml OUT.wasm`.
//!
//! The keys of the TOML are those of the section `grid.manifest` in ABI.md.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use gridfs_modules::manifest::{self, Manifest};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [wasm, toml, out] = args.as_slice() else {
        eprintln!("usage: embed IN.wasm MANIFEST.toml OUT.wasm");
        return ExitCode::from(2);
    };
    match run(wasm.as_ref(), toml.as_ref(), out.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(wasm_path: &Path, toml_path: &Path, out_path: &Path) -> Result<(), Box<dyn Error>> {
    let wasm = std::fs::read(wasm_path).map_err(|error| format!("can't read {}: {error}", wasm_path.display()))?;
    let toml =
        std::fs::read_to_string(toml_path).map_err(|error| format!("can't read {}: {error}", toml_path.display()))?;
    let manifest: Manifest =
        toml::from_str(&toml).map_err(|error| format!("{} is not a manifest: {error}", toml_path.display()))?;
    manifest.validate().map_err(|error| format!("{}: {error}", toml_path.display()))?;
    let out = manifest::embed(&wasm, &manifest)
        .map_err(|error| format!("can't embed in {}: {error}", wasm_path.display()))?;
    std::fs::write(out_path, out).map_err(|error| format!("can't write {}: {error}", out_path.display()))?;
    Ok(())
}
